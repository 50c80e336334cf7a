"""Whether an attack was trained to its end: by curves that are made up, and by a run's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hydra import initialize_config_dir

from stealing.config import compose_config, preset
from stealing.preflight import RunData, attack_compute, honest_user, training_record
from stealing.training.levelling import FEWEST, curve_of, is_finished, last_change, levelled

TRAINED = {"steps": 1200, "preset_steps": 1200, "levelled": True}


def steps(height: float, count: int = 100) -> list[float]:
    """A loss of 1 whose last tenth is at this height."""
    return [1.0] * (count - count // 10) + [height] * (count // 10)


def test_a_loss_has_levelled_off_if_its_last_tenth_is_within_two_percent_of_the_tenth_before() -> (
    None
):
    assert levelled(steps(1.0)) and levelled(steps(0.981)) and levelled(steps(1.019))
    assert not levelled(steps(0.979)) and not levelled(steps(1.021)), (
        "a loss that rises is not level either"
    )
    assert last_change(steps(0.9)) == pytest.approx(-0.1)
    assert last_change([-x for x in steps(0.9)]) == pytest.approx(0.1), (
        "of a loss below zero, by its size"
    )


def test_only_the_last_two_tenths_decide() -> None:
    falling = list(np.linspace(9, 1, 80))
    assert levelled(falling + [1.0] * 20) and not levelled(falling + [1.0] * 10 + [0.9] * 10)


def test_too_few_logged_points_are_not_level() -> None:
    assert last_change([1.0] * (10 * FEWEST - 1)) is None and not levelled(
        [1.0] * (10 * FEWEST - 1)
    )
    assert levelled([1.0] * (10 * FEWEST)) and not levelled([])
    assert not levelled([0.0] * 100), "no share of nothing"


def test_a_levelled_loss_finishes_no_attack_that_is_shorter_than_its_preset() -> None:
    assert is_finished(TRAINED)
    assert not is_finished({**TRAINED, "steps": 1199}), (
        "its schedule fell to zero, and levels any loss"
    )
    assert not is_finished({**TRAINED, "levelled": False}) and is_finished(
        {**TRAINED, "steps": 9999}
    )
    assert not is_finished({**TRAINED, "preset_steps": None}) and not is_finished(None), (
        "what is unknown is not finished"
    )


def test_a_record_is_of_the_surrogates_own_curve_and_knows_the_presets_steps(
    tmp_path: Path,
) -> None:
    rows = [f"{10 * place + 9},{loss}" for place, loss in enumerate(steps(0.5))]
    (tmp_path / "curves.csv").write_text(
        "\n".join(["step,steal/loss", *reversed(rows), "5,"]) + "\n"
    )
    assert [step for step, _ in curve_of(tmp_path)] == list(range(9, 1009, 10))
    words = [
        "target=zoo",
        "data=shapes",
        "attack.steps=6",
        "attack.batch_size=32",
        "budget.images=64",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, choices = compose_config("train", words)
        told = training_record(config, choices["attack"], tmp_path)
        assert preset("attack", "no_such_attack") is None
    assert told["steps"] == 6 and told["batch_size"] == 32 and told["images"] == 192
    assert told["preset_steps"] == 1200, "what the override changed is known"
    assert (
        told["last_change"] == pytest.approx(-0.5)
        and not told["levelled"]
        and not is_finished(told)
    )
    assert json.loads(json.dumps(told)) == told
    assert training_record(config, choices["attack"], tmp_path / "none")["last_change"] is None
    assert training_record(config, choices["attack"], tmp_path)["preset_steps"] is None, (
        "outside Hydra it is unknown"
    )


def test_epochs_of_a_preset_are_counted_in_steps_of_the_images_that_are_asked_about(
    tmp_path: Path,
) -> None:
    words = [
        "target=zoo",
        "data=shapes",
        "attack=stolen_encoder_paper",
        "attack.epochs=2",
        "budget.images=640",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, choices = compose_config("train", words)
        told = training_record(config, choices["attack"], tmp_path)
        assert (told["steps"], told["preset_steps"]) == (20, 1000)
        assert told["images"] == 2 * 20 * 64 == attack_compute(config)["images"], (
            "each image and a view of it"
        )


def test_the_honest_user_with_most_images_decides_what_honest_users_need() -> None:
    digests = {"small": [b"1"], "large": [b"1", b"2", b"3", b"3"], "middle": [b"1", b"4"]}
    assert honest_user(RunData(None, None, [], digests)) == 3, (
        "an image that is asked about twice counts once"
    )  # type: ignore[arg-type]
