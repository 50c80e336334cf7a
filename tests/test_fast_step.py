"""A step that the device does not wait for: numbers ahead, resident images, a captured step."""

from pathlib import Path
from typing import Any

import pair
import pytest
import torch
from pair import IMAGES
from test_resume import Interrupted, equal
from test_training import trained
from torch.utils._python_dispatch import TorchDispatchMode

from stealing.data import colours
from stealing.data.ahead import BLOCK, NumbersAhead
from stealing.data.sampling import BatchIndices, ResidentDataset
from stealing.training.captured import _State

CPU = torch.device("cpu")
CALLS = (4, 1, 20)
"""Columns that a step asks for, call by call."""


def place(step: int, epoch: int = 0) -> BatchIndices:
    """Batch `step` of an epoch of 100, of which this process has rows 2 to 6 of 8."""
    return BatchIndices(epoch, step, 2, 8, torch.arange(4), 100)


def test_numbers_drawn_ahead_are_those_of_each_step() -> None:
    ahead = NumbersAhead(7, CPU)
    steps = [0, 1, 2, BLOCK, BLOCK + 1, 99, 5]
    for epoch in (0, 1):
        for step in steps:
            alone = place(step, epoch).random(7)
            packed = ahead.of_step(place(step, epoch))
            for columns in CALLS:
                assert torch.equal(packed.uniform(columns), alone.uniform(columns))


def test_a_step_that_asks_for_other_numbers_than_the_first_gets_its_own() -> None:
    ahead = NumbersAhead(7, CPU)
    first = ahead.of_step(place(0))
    for columns in CALLS:
        first.uniform(columns)
    alone = place(1).random(7)
    other = ahead.of_step(place(1))
    for columns in (4, 3, 1, 20):
        assert torch.equal(other.uniform(columns), alone.uniform(columns))
    longer = ahead.of_step(place(2))
    alone = place(2).random(7)
    for columns in (*CALLS, 5):
        assert torch.equal(longer.uniform(columns), alone.uniform(columns))


def test_batches_of_images_on_a_device_are_those_of_the_list() -> None:
    resident = ResidentDataset(IMAGES, CPU)
    draw = place(3)._replace(indices=torch.tensor([3, 0, 5, 3]))
    assert torch.equal(resident.__getitems__(draw).images, IMAGES.batch(draw.indices.numpy()))


@pytest.mark.parametrize("make", [pair.simclr, pair.surrogate, pair.changing])
@pytest.mark.parametrize("choices", [{}, {"clip": 0.5, "ema": True}, {"precision": "bf16-mixed"}])
def test_a_step_taken_as_a_whole_trains_to_the_same_bits(
    make: Any, choices: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(make(), tmp_path / "eager", **choices)
    graph = trained(make(), tmp_path / "graph", graph=True, **choices)
    assert equal(graph, whole)
    assert "a CPU has no CUDA graphs" in capsys.readouterr().err


@pytest.mark.parametrize("make", [pair.surrogate, pair.changing])
@pytest.mark.parametrize("modes", [(True, True), (True, False), (False, True)])
def test_a_captured_fit_resumes_and_so_does_one_that_goes_on_otherwise(
    make: Any, modes: tuple[bool, bool], tmp_path: Path
) -> None:
    whole = trained(make(), tmp_path / "whole", steps=5)
    for stop in (1, 3, 4):
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            trained(make(), folder, stop=stop, steps=5, graph=modes[0])
        assert equal(trained(make(), folder, steps=5, graph=modes[1]), whole)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [({"accumulate": 2}, "trainer.accumulate"), ({"precision": "16-mixed"}, "16-mixed")],
)
def test_what_cannot_be_captured_is_said_in_one_line(
    choices: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if choices.get("precision") == "16-mixed" and not torch.cuda.is_available():
        pytest.skip("16-mixed needs a GPU")
    trained(pair.surrogate(), tmp_path, graph=True, steps=2, **choices)
    assert f"trainer.graph=true has no effect: {reason}" in capsys.readouterr().err


class Reads(TorchDispatchMode):
    """Counts values that are read on the CPU; on a GPU each of them waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count `item`, `float(tensor)` and masks whose size is data."""
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [pair.simclr, pair.surrogate, pair.changing])
def test_no_value_is_read_on_the_cpu_in_a_step(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colours, "CHOOSES_ROWS", frozenset())  # as on a GPU
    module = make()
    draw = BatchIndices(0, 0, 0, 8, torch.arange(8), 2)
    images = IMAGES.batch(draw.indices.numpy())
    with Reads() as reads:
        loss = module.step_loss(images, draw.indices, module.ahead.of_step(draw))
        torch.autograd.backward(loss)
    assert reads.count == 0
    with Reads() as reads:
        float(loss.detach())
    assert reads.count == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("make", [pair.simclr, pair.surrogate, pair.changing])
def test_on_a_gpu_replays_equal_eager_steps_and_nothing_waits(make: Any, tmp_path: Path) -> None:
    eager = trained(make(), tmp_path / "eager", steps=20, accelerator="gpu")
    graph = trained(make(), tmp_path / "graph", steps=20, accelerator="gpu", graph=True)
    for name in eager:
        torch.testing.assert_close(graph[name], eager[name], atol=1e-5, rtol=1e-5)


def test_warming_up_leaves_no_trace() -> None:
    module = pair.surrogate()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = module.configure_optimizers()["optimizer"]
    state = _State(module, optimizer)
    draw = BatchIndices(0, 0, 0, 8, torch.arange(8), 2)
    images = IMAGES.batch(draw.indices.numpy())
    loss = module.step_loss(images, draw.indices, module.ahead.of_step(draw))
    torch.autograd.backward(loss)
    optimizer.step()
    assert not equal(module.state_dict(), before)
    state.restore()
    assert equal(module.state_dict(), before)
    values = [value for _, _, value in state._each()]
    assert values and all(not value.any() for value in values)
