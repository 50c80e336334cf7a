"""A user's own defense: one class and one YAML in a folder of hers, outside the package."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, Command, choose, stored
from serving import Trivial, noise
from torch import Tensor

from stealing.config import check_choices, instantiate_node, to_dict
from stealing.defenses.chain import Chain, StatefulDefense
from stealing.encoders import Encoder
from stealing.errors import ConfigError
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.targets.local import LocalTarget, fingerprint

STATELESS = """
class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def answer(self, features_BD, asked):
        return self.factor * features_BD
"""

STATEFUL = """
from stealing.defenses.chain import StatefulDefense


class Fading(StatefulDefense):
    '''Divides an answer by the number of images that the account has asked about.'''

    def __init__(self, start: int) -> None:
        self.start = start
        self.images = {}

    def answer(self, features_BD, asked):
        rows = []
        for row_D in features_BD:
            self.images[asked.account] += 1
            rows.append(row_D / (self.start + self.images[asked.account]))
        return features_BD.new_tensor([row.tolist() for row in rows])

    def load(self, account, memory):
        self.images[account] = int(memory or 0)

    def dump(self, account):
        return str(self.images[account]).encode()
"""

YAML = """
{name}:
  _target_: {module}.{kind}
  {setting}
"""

IMAGES = noise(24)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that offer both defenses, whose files are in a folder of the user's."""
    (tmp_path / "my_scaled_defense.py").write_text(STATELESS)
    (tmp_path / "my_fading_defense.py").write_text(STATEFUL)
    folder = tmp_path / "conf" / "defense"
    folder.mkdir(parents=True)
    scaled = {"name": "scaled", "module": "my_scaled_defense", "kind": "Scaled"}
    fading = {"name": "fading", "module": "my_fading_defense", "kind": "Fading"}
    (folder / "scaled.yaml").write_text(YAML.format(**scaled, setting="factor: 3.0"))
    (folder / "fading.yaml").write_text(YAML.format(**fading, setting="start: 1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return [
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
        "trust=[my_scaled_defense,my_fading_defense]",
    ]


def door(folder: Path, *overrides: str) -> MeteredTarget:
    """A door of a new process, as far as a defense can tell."""
    config = choose(*overrides)
    check_choices(config)
    chain = Chain(instantiate_node(config.defense))
    encoder = Encoder(Trivial(16), [0.5] * 3, [0.25] * 3)
    target = LocalTarget(encoder, chain, fingerprint(chain, to_dict(config.defense)), 8)
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(target, ledger, folder / "banks", Budget(100, 0))


def truth() -> Tensor:
    with torch.inference_mode():
        return Encoder(Trivial(16), [0.5] * 3, [0.25] * 3)(IMAGES.float() / 255)


def test_a_stateless_defense_of_a_user_is_a_class_with_answer_and_a_yaml(
    words: list[str], tmp_path: Path
) -> None:
    meter = door(tmp_path, *words, "defense=scaled", "defense.scaled.factor=2")
    torch.testing.assert_close(meter.ask(IMAGES, "attacker/0", "attack"), 2 * truth())
    assert not meter.remembers


def test_a_stateful_defense_of_a_user_goes_on_where_it_stopped_for_each_account(
    words: list[str], tmp_path: Path
) -> None:
    words = [*words, "defense=[scaled,fading]"]
    halves = []
    for half in (slice(0, 10), slice(10, 24)):
        meter = door(tmp_path, *words)
        assert meter.remembers
        halves.append(meter.ask(IMAGES[half], "attacker/0", "attack"))
    counts = torch.arange(1, 25)[:, None]
    torch.testing.assert_close(torch.cat(halves), 3 * truth() / (1 + counts))
    other = door(tmp_path, *words).ask(IMAGES[:5], "attacker/1", "attack")
    torch.testing.assert_close(other, 3 * truth()[:5] / (1 + counts[:5]))


def test_a_defense_of_a_user_is_refused_without_her_trust(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"add 'trust=\[my_fading_defense\]'"):
        check_choices(choose(words[0], "defense=fading"))


def test_a_defense_with_load_and_dump_that_is_no_stateful_defense_is_refused() -> None:
    class Forgetful:
        def answer(self, features_BD: Tensor, asked: object) -> Tensor:
            return features_BD

        def load(self, account: str, memory: bytes | None) -> None: ...

        def dump(self, account: str) -> bytes:
            return b""

    with pytest.raises(ConfigError, match=r"defense\.mine has load and dump, .*derive Forgetful"):
        Chain({"mine": Forgetful()})


def test_a_stateful_defense_lacks_no_method() -> None:
    class Half(StatefulDefense):
        def answer(self, features_BD: Tensor, asked: object) -> Tensor:
            return features_BD

    with pytest.raises(TypeError, match="abstract class Half .*dump.*load"):
        Half()  # type: ignore[abstract]


@pytest.mark.slow
def test_a_run_goes_through_defenses_of_a_user(
    words: list[str], command: Command, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = command("train.py", *DEBUG, *words, "defense=[scaled,fading]", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    [path_of_result] = (tmp_path / "work").glob("runs/*/result.json")
    result = json.loads(path_of_result.read_text())
    assert result["choices"]["defense"] == "scaled+fading"
    queries = result["queries"]
    # The tasks are asked with the defense and without it, and both ways count.
    assert queries["spent"] + queries["evaluation"] == stored(tmp_path / "work")
