"""Compute that a result tells: counts are those of the images that networks really saw."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, ROOT, choose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from stealing.compute import (
    Pushed,
    compute_of_card,
    pushed_by_attack,
    pushed_by_control,
    pushed_by_pretraining,
)
from stealing.config import compose_config, instantiate_node
from stealing.context import open_run
from stealing.controls import train_control
from stealing.encoders import Encoder
from stealing.pipeline import pretrain, query, run_steps, steal
from stealing.preflight import check_inputs
from stealing.pretraining.recipe import pushed_views
from stealing.queries.door import MeteredTarget
from stealing.queries.opening import open_ledger
from stealing.training.checkpoints import Stopwatch

CARD = ROOT / "assets" / "cifar10_narrow" / "encoder.json"


class Counter:
    """Counts the images that encoders see, but for those of evaluation and monitors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forward = 0
        self.backward = 0
        plain = Encoder.forward

        def counting(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
            if not torch.is_inference_mode_enabled():
                self.forward += len(images)
                self.backward += len(images) * torch.is_grad_enabled()
            return plain(encoder, images)

        monkeypatch.setattr(Encoder, "forward", counting)

    def seen(self) -> Pushed:
        """What was counted since the last call."""
        pushed = Pushed(self.forward, self.backward)
        self.forward = self.backward = 0
        return pushed


@pytest.mark.parametrize(
    "overrides",
    [
        ("attack=stolen_encoder_paper", "attack.steps=3", "attack.epochs=null"),
        (
            "attack=rda",
            "budget.images=320",
            "control.batch_size=16",
            "pretrain=mocov2",
            "trainer.accumulate=2",
        ),
        ("attack=conventional", "control.batch_size=512", "attack.steps=null", "attack.epochs=2"),
    ],
)
def test_a_fit_pushes_as_many_images_as_its_configuration_says(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*DEBUG, *overrides, "attack.batch_size=16", f"paths.work={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        context = open_run(*compose_config("train", [*settings, "until=steal"]), run_steps)
    config = context.config
    check_inputs(config, context.data)
    counter = Counter(monkeypatch)
    target, _ = pretrain(context)
    assert context.data.pretrain is not None
    assert counter.seen() == pushed_by_pretraining(config, len(context.data.pretrain))
    with closing(open_ledger(config.paths.ledger, context.work)) as ledger:
        budget = instantiate_node(config.budget)
        door = MeteredTarget(target.offered, ledger, context.work / "banks", budget)
        answers = query(context, door).answers
    counter.seen()
    _, record = steal(context, answers)
    assert counter.seen() == pushed_by_attack(config)
    assert record.memory_gib is not None and record.memory_gib > 0.05
    train_control(context, answers)
    assert counter.seen() == pushed_by_control(config)


def test_a_method_that_does_not_say_what_it_pushes_has_no_count() -> None:
    recipe = {
        "method": {"_target_": "own_code.Supervised", "_partial_": True, "classes": 3},
        "batch_size": 8,
    }
    assert pushed_views(recipe, "pretrain") is None
    assert Pushed.of(8, None) == Pushed(None, None)
    assert Pushed.of(8, (2, 1)) == Pushed(16, 8)


def test_the_compute_of_a_stored_target_is_that_of_its_card() -> None:
    card = json.loads(CARD.read_text())
    found = compute_of_card(card)
    assert found is not None
    # 30 epochs of 195 batches of 256 images, two views of each
    assert (found["forward"], found["backward"]) == (30 * 195 * 256 * 2,) * 2
    assert found["seconds"] == card["provenance"]["seconds"]
    assert found["memory_gib"] is None, "cards of that time did not say"
    config = choose("data=cifar10_tiny", "pretrain.epochs=30")
    assert asdict(pushed_by_pretraining(config, 50_000)).items() <= found.items()


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("provenance", None, None),
        ("provenance.recipe", [], None),
        ("provenance.steps", "5850", None),
        ("provenance.steps", True, None),
        ("provenance.recipe.method", {"_target_": "os.system"}, {"forward": None}),
        ("provenance.recipe.method", {"_target_": ["x"]}, {"forward": None}),
        ("provenance.recipe.method", 3, {"forward": None}),
        ("provenance.seconds", "x", {"seconds": None}),
    ],
)
def test_a_strangers_card_gives_counts_or_none_and_names_no_code_to_run(
    place: str, value: Any, expected: dict[str, Any] | None
) -> None:
    config = OmegaConf.create(json.loads(CARD.read_text()))
    OmegaConf.update(config, place, value, force_add=True, merge=False)
    card: Any = OmegaConf.to_container(config)
    found = compute_of_card(card)
    if expected is None:
        assert found is None
    else:
        assert found is not None and expected.items() <= found.items()


def test_a_stopwatch_goes_on_from_a_checkpoint_of_today_and_of_an_earlier_version() -> None:
    spent = {"seconds": 10.0, "cpu_seconds": 20.0}
    for before, least in (({}, 0.01), ({"memory_gib": 1e6}, 1e6)):
        watch = Stopwatch()
        watch.load_state_dict({**spent, **before})
        now = watch.state_dict()
        assert now["seconds"] >= 10 and now["cpu_seconds"] >= 20
        assert now["memory_gib"] >= least
