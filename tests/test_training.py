"""Trainer choices: each changes what it should and nothing else. Optimizers against formulas."""

import csv
from pathlib import Path
from typing import Any

import pair
import pytest
import torch
from conftest import ROOT, choose
from hydra.utils import instantiate
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from pair import IMAGES, STEPS
from test_resume import Interrupted, equal, moved, stop_at
from torch import Tensor, nn

from stealing.attacks.losses import l2
from stealing.attacks.pairing import RawAndViews
from stealing.attacks.surrogate import SurrogateModule
from stealing.data.sampling import TrainingImages
from stealing.data.views import Views
from stealing.pretraining.simclr import SimCLRModule
from stealing.training.conditions import advise_bf16
from stealing.training.fit import Recorder, Settings, fit
from stealing.training.optimizers import lars

Weights = dict[str, Tensor]


def trained(
    module: Any,
    folder: Path,
    *,
    batch: int = 8,
    steps: int = STEPS,
    ema: bool = False,
    stop: int | None = None,
    **choices: Any,
) -> Weights:
    """Weights after a fit under these trainer choices; it ends early before batch `stop`."""
    stop_at(module, stop)
    settings = Settings(checkpoint_seconds=0, threads=1, **choices)
    monitors = (EMAWeightAveraging(decay=0.8),) if ema else ()
    fit(
        module,
        TrainingImages(IMAGES, batch, 5),
        folder,
        name="t",
        total_steps=steps,
        seed=3,
        settings=settings,
        recorder=Recorder(),
        monitors=monitors,
    )
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def bare(module: Any) -> Any:
    """The module without BatchNorm, whose statistics are of batches and not of steps."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, nn.Identity())
    return module


def simclr() -> SimCLRModule:
    return bare(pair.simclr())


def surrogate() -> SurrogateModule:
    return bare(pair.surrogate())


def unviewed() -> SurrogateModule:
    """A mean over raw images, by plain SGD: the average is all that a step does."""
    module = surrogate()
    module.pairing = RawAndViews(Views(), 20, 0)
    module.loss = lambda s, t: l2(s, t, reduction="mean")
    module.optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
    return module


def test_two_batches_accumulated_are_one_of_twice_the_size(tmp_path: Path) -> None:
    whole = trained(unviewed(), tmp_path / "whole", batch=8)
    halves = trained(unviewed(), tmp_path / "halves", batch=4, accumulate=2)
    assert moved(whole, unviewed().state_dict()) > 0.01
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], atol=1e-6, rtol=1e-5)


def test_batches_that_do_not_fill_a_step_are_left_out() -> None:
    assert [Settings(accumulate=n).steps(3, 7) for n in (1, 2, 4, 9)] == [21, 9, 3, 0]


@pytest.mark.parametrize("make", [simclr, surrogate])
def test_an_accumulating_averaging_fit_stopped_before_any_batch_ends_in_the_same_bits(
    make: Any, tmp_path: Path
) -> None:
    choices: dict[str, Any] = {"accumulate": 2, "clip": 0.5, "ema": True, "steps": 5}
    whole = trained(make(), tmp_path / "whole", **choices)
    for stop in range(1, 10):
        with pytest.raises(Interrupted):
            trained(make(), tmp_path / str(stop), stop=stop, **choices)
        assert equal(trained(make(), tmp_path / str(stop), **choices), whole), (
            f"stopped before batch {stop}"
        )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_tenth_loss_is_logged_and_a_resumed_fit_logs_the_same(
    accumulate: int, tmp_path: Path
) -> None:
    trained(surrogate(), tmp_path / "whole", steps=24, accumulate=accumulate)
    with pytest.raises(Interrupted):
        trained(surrogate(), tmp_path / "cut", steps=24, accumulate=accumulate, stop=14)
    trained(surrogate(), tmp_path / "cut", steps=24, accumulate=accumulate)
    whole, cut = ((tmp_path / name / "curves.csv").read_text() for name in ("whole", "cut"))
    rows = list(csv.DictReader(whole.splitlines()))
    assert [row["step"] for row in rows] == ["9", "19"]
    assert all(float(row["steal/loss"]) > 0 for row in rows)
    assert cut == whole


def test_clipping_bounds_a_step_and_leaves_smaller_ones_as_they_are(tmp_path: Path) -> None:
    plain = trained(unviewed(), tmp_path / "plain", steps=1)
    assert equal(trained(unviewed(), tmp_path / "wide", steps=1, clip=1e6), plain)
    start = unviewed().state_dict()
    rate = 0.1 / 2  # of the schedule's first step
    assert moved(plain, start) > rate * 1e-2
    assert (
        moved(trained(unviewed(), tmp_path / "tight", steps=1, clip=1e-2), start)
        <= 1.01 * 0.1 * 1e-2
    )


@pytest.mark.parametrize("make", [simclr, surrogate])
def test_bfloat16_trains_float32_weights_to_nearly_the_same_place(
    make: Any, tmp_path: Path
) -> None:
    full, half = (
        trained(make(), tmp_path / p, precision=p, steps=1) for p in ("32-true", "bf16-mixed")
    )
    assert all(value.dtype == torch.float32 for value in half.values())
    assert not equal(full, half)
    start = make().state_dict()
    assert moved(half, full) < 0.5 * moved(full, start)


@pytest.mark.slow
def test_compiling_changes_neither_names_nor_weights_beyond_rounding(tmp_path: Path) -> None:
    plain, compiled = (
        trained(surrogate(), tmp_path / str(on), steps=3, compile=on) for on in (False, True)
    )
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], atol=1e-6, rtol=1e-5)


def test_the_average_of_the_weights_is_what_the_formula_says(tmp_path: Path) -> None:
    first, second, third = (
        trained(unviewed(), tmp_path / str(steps), steps=steps) for steps in (1, 2, 3)
    )
    averaged = trained(unviewed(), tmp_path / "averaged", steps=3, ema=True)
    for name in averaged:
        expected = 0.8 * (0.8 * first[name] + 0.2 * second[name]) + 0.2 * third[name]
        torch.testing.assert_close(averaged[name], expected)
    assert moved(third, averaged) > 0.1 * moved(third, first)


def test_lars_scales_layers_and_leaves_biases_to_plain_sgd() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = lars(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01, trust=0.02)
    layer(torch.randn(6, 5)).square().sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    gradient, slope = layer.weight.grad.clone(), layer.bias.grad.clone()
    optimizer.step()
    scale = 0.02 * weight.norm() / (gradient.norm() + 0.01 * weight.norm())
    torch.testing.assert_close(
        layer.weight.detach(), weight - 0.5 * scale * (gradient + 0.01 * weight)
    )
    torch.testing.assert_close(layer.bias.detach(), bias - 0.5 * slope)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "conf" / "pretrain").glob("*.yaml"))
)
def test_every_pretraining_recipe_trains(name: str, tmp_path: Path) -> None:
    module = simclr()
    module.optimizer = instantiate(choose(f"pretrain={name}").pretrain.optimizer)
    after = trained(module, tmp_path)
    assert (
        all(value.isfinite().all() for value in after.values())
        and moved(after, simclr().state_dict()) > 1e-3
    )


@pytest.mark.parametrize(
    ("flags", "choices", "lines"),
    [
        ("fpu avx512f avx512_bf16", {}, 1),
        ("amx_bf16 amx_tile", {}, 1),
        ("asimd bf16 i8mm", {}, 1),
        ("avx2 avx512f avx512_vnni", {}, 0),
        ("avx512_bf16", {"precision": "bf16-mixed"}, 0),
        ("avx512_bf16", {"accelerator": "gpu"}, 0),
    ],
)
def test_one_line_says_that_this_processor_is_faster_in_bfloat16(
    flags: str,
    choices: dict[str, Any],
    lines: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: A processor\nflags\t\t: {flags}\n")
    advise_bf16(Settings(**choices), cpuinfo)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == lines and all("trainer.precision=bf16-mixed" in line for line in told)


def test_nothing_is_said_of_a_processor_that_is_not_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    advise_bf16(Settings(), tmp_path / "absent")
    assert capsys.readouterr().err == ""
