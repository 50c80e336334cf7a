"""Services of a user's own: one image a request, and a wire or a target of their own class."""

import base64
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, choose
from embeddings import OneImage, Refusal, offered, vector
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from serving import SIZE, noise
from test_docs import DOCS, blocks
from torch import Tensor

from stealing.config import check_choices, instantiate_node
from stealing.errors import ConfigError, TargetError
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.targets.http_json import HttpJson
from stealing.targets.wire import encode_image


def door(target: Any, folder: Path) -> MeteredTarget:
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(target, ledger, folder / "banks", Budget(1000, 10))


def target_of(url: str, *overrides: str) -> Any:
    """The target of conf/target/one_image_json.yaml at this address."""
    place = [f"target.remote.url={url}", f"data.size={SIZE}"]
    config = choose("target=one_image_json", *place, *overrides)
    check_choices(config)
    return instantiate_node(config.target.remote)


def true(images: Tensor) -> Tensor:
    texts = [base64.b64encode(encode_image(image, "png")).decode() for image in images]
    return torch.stack([torch.from_numpy(vector(text)) for text in texts])


def test_each_image_is_one_request_and_is_counted_once_though_some_requests_fail(
    tmp_path: Path,
) -> None:
    failures: dict[int, Refusal] = {3: (503, {"retry-after": "0"}), 7: (500, {}), 11: (429, {})}
    images = noise(40)
    with offered(OneImage(failures.get)) as service:
        meter = door(target_of(service.url), tmp_path)
        features = meter.ask(images, "attacker/0", "attack")
        again = meter.ask(images[:10], "attacker/0", "attack")
    assert torch.equal(features, true(images)) and torch.equal(again, features[:10])
    assert service.served == 40 and service.busiest > 1
    assert len(service.keys) == 43 and len(set(service.keys)) == 40, "a retry carries its key"
    [row] = [row for row in spendings(meter._ledger) if row.purpose == "attack"]
    assert row.spent == row.stored == 40 and row.in_doubt == 0
    assert find_faults(meter._ledger) == []


def test_a_vector_within_a_list_is_refused_at_once(tmp_path: Path) -> None:
    with offered(OneImage()) as service:
        nested = target_of(service.url, 'target.remote.wire.body.image="<data_uri>"')
        nested_vector = (200, dict[str, str](), b'{"embedding": [[1.0, 2.0]]}')
        service.answer = lambda key, body: nested_vector  # type: ignore[method-assign]
        with pytest.raises(TargetError, match="a vector is not a list of numbers"):
            door(nested, tmp_path).ask(noise(1), "attacker/0", "attack")
        found = target_of(service.url, "target.remote.wire.vectors=embedding.0")
        assert found.answer(noise(1), "attacker/0", "i").tolist() == [[1.0, 2.0]]


def test_the_format_in_the_documentation_sends_and_reads_what_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    option = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "my" / "conf" / "target").mkdir(parents=True)
    (tmp_path / "my" / "conf" / "target" / "vectorize.yaml").write_text(option)
    monkeypatch.setenv("VECTORIZE_KEY", "k3y")
    bodies: list[Any] = []

    def answer(key: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        bodies.append(body)
        return 200, {}, b'{"model": "v7", "result": {"vector": [0.5, 1.0]}}'

    with offered(OneImage()) as service:
        service.answer = answer  # type: ignore[method-assign]
        config = composed(tmp_path, "target=vectorize", f"target.remote.url={service.url}")
        check_choices(config)
        target = instantiate_node(config.target.remote)
        assert target.answer(noise(1), "attacker/0", "i").tolist() == [[0.5, 1.0]]
    assert target.version == "v7" and config.target.remote.credential.header == "Authorization"
    content = base64.b64encode(encode_image(noise(1)[0], "png")).decode()
    assert bodies == [{"picture": {"content": content}, "layer": "pool"}]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"body": {"image": "a file"}}, "has no <base64> or <data_uri>"),
        ({"image": "<base64>"}, "has no <images>.*wire.image=null"),
        ({"images_a_request": 8}, "images_a_request=8.*set it to 1"),
        ({"index": "data.*.index"}, "wire.index=null"),
        ({"vectors": "data.*.embedding"}, r"without a \*"),
    ],
)
def test_a_template_for_another_number_of_images_is_one_sentence(
    changes: dict[str, Any], advice: str
) -> None:
    settings: dict[str, Any] = {
        "path": "/embed",
        "body": {"image": "<base64>"},
        "image": None,
        "picture": "png",
        "vectors": "embedding",
        "index": None,
        "version": None,
        "encoding": "float",
        "images_a_request": 1,
    }
    HttpJson(**settings)
    with pytest.raises(ConfigError, match=advice):
        HttpJson(**(settings | changes))


OWN = '''
"""A target of the user's own."""

from stealing.queries.pace import Pace


class Means:
    """The mean of each channel."""

    codec = ""
    pace = Pace()
    is_known = False
    version = None
    images_a_request = 16
    in_flight = 1
    deadline = 60.0
    fingerprint = "means"
    defense_fingerprint = "none"

    def __init__(self, size):
        self.size = size

    def answer(self, images_uint8, account, idempotency=""):
        return images_uint8.float().mean((2, 3))
'''

OPTION_MEANS = """
path: null
seed: null
remote:
  _target_: my_service.Means
  size: ${data.size}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module and an option that names its class."""
    (tmp_path / "my_service.py").write_text(OWN)
    options = tmp_path / "my" / "conf" / "target"
    options.mkdir(parents=True)
    (options / "means.yaml").write_text(OPTION_MEANS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("my", "my.wires", "my_service"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def composed(folder: Path, *overrides: str) -> DictConfig:
    path = f"hydra.searchpath=[file://{folder / 'my' / 'conf'}]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[path, f"data.size={SIZE}", *overrides])


def test_the_wire_in_the_documentation_is_asked_through_the_door(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(DOCS / "service.md"):
        if block.file is not None:
            (own / block.file).parent.mkdir(parents=True, exist_ok=True)
            (own / block.file).write_text(block.text)
    monkeypatch.setenv("STEALING_KEY", "k3y")
    with offered(OneImage()) as service:
        service.answer = lambda key, body: (  # type: ignore[method-assign]
            200,
            {},
            b"%d,1.0" % sum(body["pixels"]),
        )
        place = ["target=numbers", f"target.remote.url={service.url}"]
        with pytest.raises(ConfigError, match=r"add 'trust=\[my.wires\]'"):
            check_choices(composed(own, *place))
        config = composed(own, *place, "trust=[my.wires]")
        check_choices(config)
        meter = door(instantiate_node(config.target.remote), own)
        features = meter.ask(noise(20), "attacker/0", "attack")
        assert meter.spent("attack") == 20
        service.answer = lambda key, body: (200, {}, b"nan,1.0")  # type: ignore[method-assign]
        with pytest.raises(TargetError, match="not finite"):
            meter.ask(noise(1, seed=1), "attacker/0", "attack")
    assert features[:, 0].tolist() == noise(20).flatten(1).sum(1).tolist()


def test_a_target_of_the_users_own_is_asked_through_the_door(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"add 'trust=\[my_service\]'"):
        check_choices(composed(own, "target=means"))
    config = composed(own, "target=means", "trust=[my_service]")
    check_choices(config)
    meter = door(instantiate_node(config.target.remote), own)
    features = meter.ask(noise(20), "attacker/0", "attack")
    assert torch.equal(features, noise(20).float().mean((2, 3))) and meter.spent("attack") == 20
