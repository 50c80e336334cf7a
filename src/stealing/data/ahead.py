"""Random numbers of many steps at once: places of batches in, numbers on the device out.

A GPU that gets the numbers of each step by themselves waits for many small copies. Here they are
drawn for a block of steps, packed into one tensor, and copied without blocking. They are the same
numbers: a function of (seed, epoch, step), drawn on the CPU for the whole batch.

Shape letters: S steps of a block, B images, K numbers an image takes in a step.
"""

import torch
from torch import Tensor

from stealing.data.sampling import BatchIndices, BatchRandom

BLOCK = 64
"""Most steps whose numbers are drawn at once."""


class NumbersAhead:
    """The random numbers of a fit's steps, on one device.

    The first step shows how many numbers a step takes, call by call. Later steps are expected to
    take as many. A step that does not is served all the same, by small copies of its own.

    Args:
        seed: of the numbers.
        device: where they are wanted.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self.columns: list[int] = []
        self._epoch = -1
        self._first = 0
        self._block = torch.empty(0)

    def of_step(self, draw: BatchIndices) -> "StepNumbers":
        """Return the numbers of one step; for the first one, they are counted."""
        source = draw.random(self.seed)
        if not self.columns:
            return StepNumbers(source, self.device, self.columns)
        return StepNumbers(source, self.device, self.columns, self.packed(draw))

    def packed(self, draw: BatchIndices) -> Tensor:
        """Return the numbers of one step in one tensor, (B, K), after a first step was counted."""
        place = draw.step - self._first
        if draw.epoch != self._epoch or not 0 <= place < len(self._block):
            self._draw_block(draw)
            place = 0
        return self._block[place]

    def _draw_block(self, draw: BatchIndices) -> None:
        """Draw the numbers from this step on, to the block's or the epoch's end."""
        parts: list[Tensor] = []
        for step in range(draw.step, min(draw.step + BLOCK, draw.steps)):
            source = draw._replace(step=step).random(self.seed)
            # call by call: one call for all columns would give other numbers
            parts.append(torch.cat([source.uniform(columns) for columns in self.columns], 1))
        block = torch.stack(parts)
        if self.device.type == "cuda":
            block = block.pin_memory()  # only copies from pinned memory do not block
        self._block = block.to(self.device, non_blocking=True)
        self._epoch = draw.epoch
        self._first = draw.step


class StepNumbers:
    """Random numbers of one step; in place of `BatchRandom` for views and pairings.

    Args:
        source: draws the same numbers on the CPU.
        device: where they are wanted.
        columns: how many columns each call of a step takes; filled if `packed` is None.
        packed: the numbers of all calls, (B, K), on the device.
    """

    def __init__(
        self,
        source: BatchRandom,
        device: torch.device,
        columns: list[int],
        packed: Tensor | None = None,
    ) -> None:
        self._source = source
        self._device = device
        self._columns = columns
        self._packed = packed
        self._calls = 0
        self._taken = 0

    def uniform(self, columns: int) -> Tensor:
        """Return numbers in [0, 1), float32 (B, columns), on the device."""
        if self._packed is None:
            self._columns.append(columns)
            return self._source.uniform(columns).to(self._device)
        if self._columns[self._calls : self._calls + 1] != [columns]:
            return self._other(columns)
        numbers = self._packed[:, self._taken : self._taken + columns]
        self._calls += 1
        self._taken += columns
        return numbers

    def _other(self, columns: int) -> Tensor:
        """Return the numbers of a call that the first step did not make."""
        for earlier in self._columns[: self._calls]:
            self._source.uniform(earlier)  # passed over: they were served already
        self._columns = []
        self._calls = 0
        return self._source.uniform(columns).to(self._device)
