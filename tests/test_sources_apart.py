"""Two sources never share a key: formats, orders of rows, steps of a run, writers; plans."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEBUG, ROOT, choose
from fakes import IMAGES, Fake
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from test_downloads import mnist

from stealing.artefacts import write_atomically
from stealing.config import check_choices, instantiate_node
from stealing.data.downloads import from_torchvision
from stealing.encoders import build_encoder, save_encoder
from stealing.errors import ConfigError, LedgerError, StealingError
from stealing.identity import name_of, run_key
from stealing.preflight import open_run_data
from stealing.preview import preview
from stealing.queries.digests import digests_of
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.selection import select
from stealing.targets.remote import RemoteTarget

WIRE = "target.remote.wire"
OTHERS = (
    f"{WIRE}.picture=jpeg",
    f"{WIRE}.index=null",
    f"{WIRE}.encoding=float",
    f'{WIRE}.image={{image:"<data_uri>"}}',
    f"{WIRE}.vectors=data.*.vector",
    f"{WIRE}.path=/v2/embeddings",
    f"{WIRE}.body.model=another",
)

SHIPPED = {
    "azure": "b0bb8b159ecea3f8",
    "clarifai": "425151f7e8d80f91",
    "cohere": "a385e3e9620b7c16",
    "jina": "45be59dfbe1b9a58",
    "openai": "cf6dc921a734785b",
    "service_json": "eb9306fdc34cd09a",
    "vllm": "ee9243fd7212c31d",
    "voyage": "c19f99ae1c8959d0",
    "service": "ff1da8f8fd6846a5",
    "open_inference": "ecc72e92d77b2be5",
}
"""Fingerprints of the options of conf/target, with model `m`: existing ledgers hold them."""


def service(*overrides: str) -> tuple[RemoteTarget, DictConfig]:
    """The target of a configuration, and this."""
    config = choose("target=service_json", "experiment=debug", *overrides)
    target = instantiate_node(config.target.remote)
    assert isinstance(target, RemoteTarget)
    return target, config


@pytest.mark.parametrize("other", OTHERS)
def test_formats_that_differ_in_anything_share_no_fingerprint_run_key_bank_or_ledger_source(
    other: str, tmp_path: Path
) -> None:
    one, config = service()
    two, changed = service(other)
    assert one.fingerprint != two.fingerprint
    keys = [
        run_key(of, name_of(target), {"queries": "q"})
        for of, target in ((config, one), (changed, two))
    ]
    assert keys[0] != keys[1], "a JPEG run does not find the PNG run done"
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    meters = [MeteredTarget(target, ledger, tmp_path, Budget(9, 9)) for target in (one, two)]
    sources, banks = zip(*(meter._source("attacker/0", 0) for meter in meters), strict=True)
    assert sources[0].id != sources[1].id and banks[0].folder != banks[1].folder
    assert meters[0].identity != meters[1].identity, "predictions are remembered by this"


def test_the_formats_that_come_with_the_project_keep_the_names_that_ledgers_know() -> None:
    found = dict[str, str]()
    for name in SHIPPED:
        words = [f"target={name}", "target.authorized=true"]
        body = choose(*words).target.remote.wire.get("body")
        if body is not None and OmegaConf.is_missing(body, "model"):
            words.append(f"{WIRE}.body.model=m")
        if name == "azure":
            words.append("target.remote.url=https://x.example/models")
        target = instantiate_node(choose(*words).target.remote)
        assert target.former == target.fingerprint
        found[name] = target.fingerprint
    assert found == SHIPPED


class Named(Fake):
    """A target with a name that it had before."""

    former = "former"


def test_what_was_bought_under_a_former_name_is_not_bought_again_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(place)
    MeteredTarget(Fake(fingerprint="former"), ledger, tmp_path, Budget(9, 9)).ask(
        IMAGES[:5], "a", "attack"
    )
    target = Named(fingerprint="present")
    with pytest.raises(
        LedgerError, match="rename former present; else set another target.remote.version"
    ):
        MeteredTarget(target, ledger, tmp_path, Budget(9, 9))
    ledger.rename("former", "present")
    meter = MeteredTarget(target, ledger, tmp_path, Budget(9, 9))
    meter.ask(IMAGES[:5], "a", "attack")
    assert (
        target.requests == []
        and ledger.spent("present", "attack") == 5
        and not ledger.was_asked("former")
    )
    with pytest.raises(LedgerError, match="former cannot be renamed to present"):
        ledger.rename("former", "present")


def test_all_rows_in_another_order_are_another_entry_of_the_cache(tmp_path: Path) -> None:
    mnist(tmp_path / "root")
    terms: dict[str, Any] = {"size": 28, "cache": str(tmp_path / "cache"), "grey": "repeat"}
    lists = {
        limit: from_torchvision("MNIST", str(tmp_path / "root"), "test", limit=limit, **terms)
        for limit in (None, 6, 100, 3)
    }
    order = np.random.default_rng(0).permutation(6)
    whole = digests_of(lists[None])
    assert digests_of(lists[6]) == digests_of(lists[100]) == [whole[row] for row in order]
    assert digests_of(lists[3]) == [whole[row] for row in order[:3]]
    assert lists[6].targets().tolist() == lists[None].targets()[order].tolist()


def test_a_run_until_query_and_one_until_evaluate_buy_the_same_images(tmp_path: Path) -> None:
    def chosen(until: str) -> list[bytes]:
        config = choose(*DEBUG, f"until={until}", f"paths.work={tmp_path}")
        OmegaConf.set_struct(config, False)
        config.data.queries = OmegaConf.merge(config.data.tasks.plain_kind.train, {"count": 300})
        scene = open_run_data(config)  # the attacker holds the 200 images of the task, and 100 more
        excluded = {digest for task in scene.digests.values() for digest in task}
        return digests_of(select(scene.queries, 100, 0, excluded))

    assert chosen("query") == chosen("steal") == chosen("evaluate")


def test_writers_with_one_process_id_do_not_tear_each_others_files(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as on two machines that share the folder

    def write(number: int) -> None:
        for _ in range(40):
            write_atomically(tmp_path / "file", bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    content = (tmp_path / "file").read_bytes()
    assert len(content) == 1000 and len(set(content)) == 1 and len(list(tmp_path.iterdir())) == 1


def test_no_name_of_a_file_is_made_of_a_process_id() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert "getpid" not in path.read_text(), path


def planned(config: DictConfig) -> tuple[str, StealingError | None]:
    """What a plan says, and how it ends."""
    check_choices(config)
    told = io.StringIO()
    error = None
    try:
        preview(config, Console(file=told, width=200))
    except StealingError as raised:
        error = raised
    return told.getvalue(), error


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_plan_makes_and_downloads_nothing_and_names_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VOYAGE_API_KEY", "VOYAGE_API_KEY_1"):
        monkeypatch.delenv(name, raising=False)
    work = f"paths.work={tmp_path / 'work'}"
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    folders = choose(
        "data=folders",
        f"data.root={tmp_path}/no",
        "target=voyage",
        "plan=sybil",
        work,
        "plan_only=true",
        "target.authorized=true",
        "paths.ledger=postgresql://x@y/z",
    )
    monkeypatch.setattr("stealing.preview.find_spec", lambda name: None)
    told, error = planned(folders)
    missing = (
        "/no/queries",
        "/no/train",
        "/no/test",
        "set VOYAGE_API_KEY.",
        "set VOYAGE_API_KEY_1.",
        "psycopg",
    )
    assert all(name in told for name in missing) and isinstance(error, ConfigError)
    sets = choose(
        "data=cifar10",
        f"data.root={tmp_path}/none",
        "target=file",
        "target.path=absent.safetensors",
        work,
        "plan_only=true",
        "defense=[noise,poisoning]",
    )
    told, error = planned(sets)
    missing = (
        "ImageNet train",
        "CIFAR10 train",
        "CIFAR10 test",
        "MNIST train",
        "absent.safetensors does not exist",
    )
    assert all(name in told for name in missing) and isinstance(error, ConfigError)
    told, error = planned(
        choose("target=recording", "target.remote.name=r", work, "plan_only=true")
    )
    assert "recording r" in told and isinstance(error, ConfigError)
    assert tree(tmp_path) == before


def test_a_plan_of_images_that_are_not_decoded_counts_them_and_makes_nothing(
    tmp_path: Path,
) -> None:
    mnist(tmp_path / "data")
    before = tree(tmp_path)
    terms = {
        "dataset": "MNIST",
        "root": f"{tmp_path}/data",
        "cache": f"{tmp_path}/cache",
        "size": 28,
        "grey": "repeat",
    }
    source = {"_target_": "stealing.data.downloads.from_torchvision", **terms}
    config = choose(
        *DEBUG,
        "plan_only=true",
        f"paths.work={tmp_path / 'work'}",
        "budget.images=4",
        "budget.price=0.5",
        "attack.batch_size=4",
        "control.batch_size=4",
    )
    OmegaConf.set_struct(config, False)
    config.data.size = 28
    train, test = ({**source, "split": split} for split in ("train", "test"))
    config.data.queries = train
    config.data.tasks = {"t": {"role": "own", "train": train, "test": test}}
    told, error = planned(config)
    assert (
        error is None
        and "4 images, cost 2.00" in told
        and "Evaluation: 12 images, tasks: 1." in told
    )
    assert tree(tmp_path) == before


def test_a_plan_of_a_finished_folder_whose_ledger_is_gone_says_so(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "ledger.json").write_text('{"identity": "x"}')
    told, error = planned(choose(*DEBUG, "plan_only=true", f"paths.work={tmp_path / 'work'}"))
    assert "is absent or empty" in told and isinstance(error, ConfigError)


def test_a_plan_checks_a_target_of_ones_own(tmp_path: Path) -> None:
    config = choose(
        *DEBUG,
        "plan_only=true",
        "target=file",
        f"target.path={tmp_path / 'e.safetensors'}",
        f"paths.work={tmp_path / 'work'}",
    )
    arch: Any = OmegaConf.to_container(config.arch, resolve=True)
    save_encoder(
        build_encoder(arch, 0), tmp_path / "e.safetensors", arch=arch, size=16, provenance={}
    )
    assert planned(config)[1] is None
    (tmp_path / "e.json").unlink()
    assert "e.json does not exist" in planned(config)[0]
