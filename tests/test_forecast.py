"""Forecasts of time beside what a run then takes.

All by processor seconds, so that other work on the machine does not count.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pair
import pytest
from conftest import DEBUG, choose
from pair import IMAGES
from torch import Tensor

from stealing import forecast
from stealing.config import instantiate_node
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages
from stealing.errors import TrainingError
from stealing.evaluation import cost
from stealing.evaluation.protocol import Protocol, Task
from stealing.preflight import RunData
from stealing.pretraining.simclr import SimCLRModule
from stealing.training.fit import Recorder, Settings, fit

SETTINGS = Settings(threads=1, checkpoint_seconds=60)


@pytest.fixture(autouse=True)
def processor_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealing.timing.clock", time.process_time)
    monkeypatch.setattr(forecast, "TIMED", 0.2)


def labelled(count: int, size: int = 16) -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, size, size), np.uint8)
    return Images("noise", pixels, np.arange(count) % 4, 4, np.arange(count), f"{count}")


def said(module: Any, steps: int) -> float:
    config = choose(*DEBUG)
    return forecast._fit_seconds(config, module, IMAGES, 8, steps, SETTINGS)


def test_a_fit_takes_what_was_forecast_within_a_factor_of_two(tmp_path: Path) -> None:
    steps = 80
    expected = said(pair.simclr(), steps)
    start = time.process_time()
    fit(
        pair.simclr(),
        TrainingImages(IMAGES, 8, 0),
        tmp_path,
        name="t",
        total_steps=steps,
        seed=0,
        settings=SETTINGS,
        recorder=Recorder(),
    )
    taken = time.process_time() - start
    assert 0.5 < expected / taken < 2, (expected, taken)


class SlowStart(SimCLRModule):
    """A module whose first step takes long, as one in which a network is compiled."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 0:
            end = time.process_time() + 0.6
            while time.process_time() < end:
                pass
        return super().training_step(batch, batch_idx)


def test_a_slow_first_step_counts_once() -> None:
    module = pair.simclr()
    module.__class__ = SlowStart
    quick = said(pair.simclr(), 100)
    assert said(module, 100) < 2 * quick + 0.6, "and not a hundred times"


def test_a_fit_that_ends_early_is_forecast_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "TIMED", 1000.0)
    whole = said(pair.simclr(), 12)
    module = pair.simclr()
    step = module.training_step

    def diverging(batch: Any, batch_idx: int) -> Tensor:
        if module.global_step == 4:
            raise TrainingError("The loss is no longer a number.")
        return step(batch, batch_idx)

    module.training_step = diverging  # type: ignore[method-assign]
    assert said(module, 12) > 0.4 * whole


def data_of(rows: int) -> RunData:
    tasks = [Task("t", "own", labelled(rows), labelled(rows))]
    return RunData(labelled(256), labelled(300), tasks, {"t": []})


def test_all_fits_are_timed_in_the_runs_precision_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[Settings] = []
    names: list[str] = []

    def recorded(module: Any, *arguments: Any, settings: Settings, **options: Any) -> Any:
        fits.append(settings)
        names.append(type(module).__name__)
        return fit(module, *arguments, settings=settings, **options)

    monkeypatch.setattr(forecast, "fit", recorded)
    monkeypatch.setattr(forecast, "head_seconds", lambda *arguments: 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = choose(*DEBUG, "trainer.precision=bf16-mixed", f"paths.work={tmp_path / 'work'}")
    seconds = forecast.expected_seconds(config, data_of(200), 400)
    assert list(seconds) == ["pretrain", "query", "steal", "control", "evaluate"]
    assert all(spent > 0 for spent in seconds.values())
    assert names == ["SimCLRModule", "SurrogateModule", "SimCLRModule"]
    assert {settings.precision for settings in fits} == {"bf16-mixed"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("until", "steps"),
    [
        ("pretrain", ["pretrain"]),
        ("query", ["pretrain", "query"]),
        ("steal", ["pretrain", "query", "steal"]),
    ],
)
def test_a_plan_ends_at_the_last_step_of_the_run(
    until: str, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_fit_seconds", lambda *arguments: 1.0)
    config = choose(*DEBUG, f"until={until}")
    assert list(forecast.expected_seconds(config, data_of(200), 0)) == steps


def test_heads_cost_more_with_more_rows_more_inputs_and_the_papers_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "EPOCHS", 1)
    protocol: Protocol = instantiate_node(choose("probe=standard").probe)
    paper: Protocol = instantiate_node(choose("probe=paper").probe)
    tasks = data_of(1000).tasks

    def seconds(protocol: Protocol, tasks: list[Task], inputs: int) -> float:
        return cost.head_seconds(protocol, tasks, {64: inputs}, "cpu")

    once = seconds(protocol, tasks, 1)
    assert seconds(protocol, tasks, 4) > 2 * once > 0
    assert seconds(protocol, [*tasks] * 4, 1) > 2 * once
    assert seconds(paper, tasks, 1) > 1.2 * once
