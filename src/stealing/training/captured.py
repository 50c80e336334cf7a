"""A whole training step as one CUDA graph: an eager step in, its replays out.

A step of a small batch is bound by the launches of its kernels: the GPU computes faster than Python
asks. A graph holds all kernels of a step (views, passes, loss, backward pass, optimizer) and is
launched at once. Its inputs lie in tensors that each step fills: images, places, random numbers and
learning rates.

Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from stealing.data.ahead import StepNumbers
from stealing.data.sampling import Batch, RandomNumbers
from stealing.reading import first_line
from stealing.training.distributed import say, world_size
from stealing.training.step import StepModule

WARM_UP = 3
"""Eager steps before the capture, as torch's notes ask for: libraries set themselves up in them."""

FLAGS = ("lr", "capturable", "fused", "foreach")
"""Options of an optimizer that are others while it is captured."""


def capture(
    module: L.LightningModule,
    *,
    clip: float | None,
    accumulate: int,
    precision: str,
    has_callbacks: bool,
) -> bool:
    """Make a fit of this module take captured steps, if it can; else say why not.

    Args:
        module: to train.
        clip: greatest norm of the gradient, or None.
        accumulate: batches in one step.
        precision: Lightning's name.
        has_callbacks: True if callbacks of the user's own take part in the fit.

    Returns:
        True if the steps are captured.
    """
    reason = ""
    if not isinstance(module, StepModule):
        reason = f"{type(module).__name__} is not a stealing.training.step.StepModule"
    elif world_size() > 1:
        reason = "several processes exchange gradients within a step"
    elif accumulate > 1:
        reason = "trainer.accumulate spreads a step over several batches"
    elif precision == "16-mixed":
        reason = "trainer.precision=16-mixed changes the scale of the loss from step to step"
    elif has_callbacks:
        reason = "callbacks of your own may act within a step"
    else:
        module.captured = CapturedStep(module, clip)
        module.automatic_optimization = False
        return True
    say(f"trainer.graph=true has no effect: {reason}.")
    return False


class CapturedStep:
    """Takes whole steps of a module: captured by the first call, replayed from then on.

    The warm-up trains on the first batch. Weights, buffers and the optimizer's state are then put
    back, so that the fit is that of the eager steps.

    If the device has no graphs, or a step cannot be captured (a loss of a user's own may read a
    value on the CPU), the same step runs eagerly, and `reason` says why.

    Args:
        module: to train; its optimization is manual in Lightning's words.
        clip: greatest norm of the gradient, or None.

    Attributes:
        reason: why the steps are not replayed; empty if they are.
    """

    def __init__(self, module: StepModule, clip: float | None) -> None:
        self.module = module
        self.clip = clip
        self.reason = ""
        self._work: Callable[[], Tensor] | None = None
        self._rates: list[Tensor] = []

    def __call__(self, batch: Batch) -> Tensor:
        """Train on one batch; return the loss, which the next call overwrites."""
        if self._work is None:
            self._prepare(batch)
            assert self._work is not None
        draw = batch.draw
        self._images.copy_(batch.images, non_blocking=True)
        self._places.copy_(self.module.addresses(draw), non_blocking=True)
        self._numbers.copy_(self.module.ahead.packed(draw), non_blocking=True)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=False):
            rate.fill_(group["lr"])  # a number as an argument of a kernel: nothing waits
        loss = self._work()
        self._count()
        return loss

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self.module.optimizers()
        assert isinstance(optimizer, L.pytorch.core.optimizer.LightningOptimizer)
        return optimizer.optimizer

    def _prepare(self, batch: Batch) -> None:
        """Set up the tensors that each step fills, then capture."""
        device = self.module.device
        self._images = batch.images.clone()
        self._places = self.module.addresses(batch.draw).to(device).clone()
        state = _State(self.module, self._optimizer)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # the first step counts the numbers that a step takes
            self._take_step(self.module.ahead.of_step(batch.draw))
            state.restore()
        self._numbers = self.module.ahead.packed(batch.draw).clone()
        columns = self.module.ahead.columns
        source = batch.draw.random(self.module.seed)

        def step() -> Tensor:
            return self._take_step(StepNumbers(source, device, columns, self._numbers))

        self._work = step
        if device.type != "cuda":
            self.reason = "a CPU has no CUDA graphs"
        else:
            try:
                self._work = self._capture(step, state)
            except RuntimeError as error:
                torch.cuda.synchronize(device)
                state.restore()
                self.reason = first_line(error)
        if self.reason:
            say(f"trainer.graph=true: steps are not replayed ({self.reason}).")

    def _take_step(self, random: RandomNumbers) -> Tensor:
        """Take one step on the tensors' contents; return the loss."""
        module = self.module
        self._optimizer.zero_grad(set_to_none=True)
        loss = module.step_loss(self._images, self._places, random)
        # autocast is only for the forward pass
        with torch.autocast(module.device.type, enabled=False):
            torch.autograd.backward(loss)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), self.clip)
            self._optimizer.step()
        return loss.detach()

    def _capture(self, step: Callable[[], Tensor], state: "_State") -> Callable[[], Tensor]:
        """Return a function that replays a step.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        device = self.module.device
        groups = self._optimizer.param_groups
        rates = [torch.tensor(float(group["lr"]), device=device) for group in groups]
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with _without_cached_casts(), _capturable(self._optimizer, rates):
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    step()
            torch.cuda.current_stream(device).wait_stream(side)
            state.restore()
            # so that the graph owns the memory of the gradients
            self._optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                loss = step()
        self._rates = rates

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay

    def _count(self) -> None:
        """Tell the schedule and Lightning's counter of a step."""
        schedule: Any = self.module.lr_schedulers()
        schedule.step()
        progress = self.module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()


class _State:
    """Weights, buffers and the optimizer's state at one moment.

    Restoring fills the tensors that are there: a graph knows them by their addresses.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._tensors = [*module.parameters(), *module.buffers()]
        self._copies = [tensor.detach().clone() for tensor in self._tensors]
        self._states: dict[tuple[Any, str], Tensor] = {}
        for parameter, name, value in self._each():
            self._states[parameter, name] = value.detach().clone()

    def _each(self) -> Iterator[tuple[Any, str, Tensor]]:
        for parameter, state in self._optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield parameter, name, value

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back; what the optimizer has made since becomes zero, as at its start."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        for parameter, name, value in self._each():
            earlier = self._states.get((parameter, name))
            value.zero_() if earlier is None else value.copy_(earlier)


@contextmanager
def _capturable(optimizer: Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Make the optimizer read its rates and its step from the device, while it is captured.

    Afterwards it has its own options again: schedules and checkpoints see numbers.
    """
    before = [{name: group.get(name) for name in FLAGS} for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = True
        elif "fused" in group:  # SGD: only its fused form takes a rate from the device
            group["fused"] = True
            group["foreach"] = False
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"], device=rates[0].device)
    try:
        yield
    finally:
        for group, options in zip(optimizer.param_groups, before, strict=True):
            group.update({name: value for name, value in options.items() if name in group})


@contextmanager
def _without_cached_casts() -> Iterator[None]:
    """Keep autocast from reusing a cast of a weight that another step made."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class OptimizerSteps(Callback):
    """Keeps Lightning's two counters of steps equal after a resume.

    It counts captured steps in one and its own steps in the other, and a checkpoint may come from
    either.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set both to the larger one."""
        loop = trainer.fit_loop.epoch_loop
        own = loop.automatic_optimization.optim_progress.optimizer.step.total
        manual = loop.manual_optimization.optim_step_progress.total
        steps = max(own.completed, manual.completed)
        for counter in (own, manual):
            counter.ready = steps
            counter.completed = steps
