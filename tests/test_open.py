"""What is opened before a step runs: a target with and without its defense, and a frozen run."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, ROOT, choose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from stealing.config import compose_config, to_dict
from stealing.context import StepRecord, open_run
from stealing.encoders import build_encoder, save_encoder
from stealing.evaluation.features import encode
from stealing.pipeline import run_steps
from stealing.queries.bank import WORTH_A_SHARD
from stealing.targets.local import LocalTarget
from stealing.targets.open import LocalEncoder, load_target, open_target


@pytest.fixture
def saved(tmp_path: Path) -> DictConfig:
    """A configuration whose target is a small encoder in a file."""
    config = choose(*DEBUG)
    arch = to_dict(config.target_arch)
    path = tmp_path / "encoder.safetensors"
    save_encoder(build_encoder(arch, 0), path, arch=arch, size=16, provenance={})
    places = (f"target.path={path}", f"paths.work={tmp_path / 'work'}")
    return choose(*DEBUG, "target=file", *places, "defense=topk", "defense.topk.k=3")


@pytest.mark.parametrize("keep", [True, False])
def test_a_target_is_opened_with_its_defense_and_without(saved: DictConfig, keep: bool) -> None:
    source = load_target(saved)
    assert isinstance(source, LocalEncoder)
    target = open_target(saved, source, device="cpu", keep_features=keep)
    assert isinstance(target.offered, LocalTarget)
    images = torch.randint(0, 256, (WORTH_A_SHARD, 3, 16, 16), dtype=torch.uint8)
    offered = target.offered.answer(images, "attacker/0")
    assert offered.count_nonzero(1).eq(3).all()
    target.offered.flush()
    assert target.undefended is not None
    plain = target.undefended.answer(images, "attacker/0")
    assert torch.equal(plain, encode(source.encoder, images))
    assert target.offered.fingerprint == target.undefended.fingerprint
    assert target.offered.defense_fingerprint != target.undefended.defense_fingerprint
    assert (Path(saved.paths.cache) / "undefended").exists() == keep


def test_without_a_defense_both_are_one_so_that_nothing_is_asked_twice(saved: DictConfig) -> None:
    saved.defense = {}
    source = load_target(saved)
    assert source is not None
    target = open_target(saved, source, device="cpu", keep_features=False)
    assert target.undefended is not None
    assert target.offered.defense_fingerprint == target.undefended.defense_fingerprint


def test_the_defense_of_a_service_is_not_taken_off() -> None:
    config = choose("target=service", "target.authorized=true")
    source = load_target(config)
    assert source is not None and not isinstance(source, LocalEncoder)
    target = open_target(config, source, device="cpu", keep_features=True)
    assert target.offered is source and target.undefended is None
    assert load_target(choose("target=pretrained")) is None, "the run trains it"


def test_an_opened_run_has_made_nothing_and_cannot_be_changed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        context: Any = open_run(
            *compose_config("train", [*DEBUG, f"paths.work={work}"]), steps=run_steps
        )
    assert {path.name for path in work.iterdir()} <= {"cache"}
    with pytest.raises(FrozenInstanceError):
        context.group = "another"
    assert context.folder.name.endswith(f"-{context.group}")


def test_the_times_of_a_fit_whose_record_was_edited_are_none() -> None:
    record = StepRecord.of_fit(Path("a"), {"seconds": None})
    assert (record.artefact, record.seconds, record.cpu_seconds) == (Path("a"), 0.0, 0.0)
