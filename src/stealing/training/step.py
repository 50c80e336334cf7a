"""A training step as one function: images, their places and random numbers in, a loss out.

Such a step does not read a value on the CPU, so that a GPU never waits. It can be run by Lightning,
or captured as a whole (`stealing.training.captured`).

Shape letters: B images of this process.
"""

from collections.abc import Callable

import lightning as L
from torch import Tensor

from stealing.data.ahead import NumbersAhead
from stealing.data.sampling import Batch, BatchIndices, RandomNumbers

LOG_EVERY = 10
"""Steps between two logged losses."""


class StepModule(L.LightningModule):
    """Trains by a step that is a function only of a batch.

    Args:
        seed: of all random numbers of the steps.
        loss_name: under which the loss is logged.

    Attributes:
        captured: takes a whole step, with the optimizer's; None if Lightning runs it.
    """

    def __init__(self, seed: int, loss_name: str) -> None:
        super().__init__()
        self.seed = seed
        self.loss_name = loss_name
        self.captured: Callable[[Batch], Tensor] | None = None
        self._ahead: NumbersAhead | None = None

    def step_loss(self, images_uint8: Tensor, places_B: Tensor, random: RandomNumbers) -> Tensor:
        """Return the loss of one step, a scalar with gradient.

        Args:
            images_uint8: (B, 3, H, W), on the device of the module.
            places_B: what `addresses` returned, int64, on the same device.
            random: numbers on the same device.
        """
        raise NotImplementedError

    def addresses(self, draw: BatchIndices) -> Tensor:
        """Return the index of each image that `step_loss` gets, int64 (B,).

        Here it is the place of the image in the list of the fit. A subclass may return another
        index, such as the row of an answer that changes with the epoch.
        """
        return draw.indices

    @property
    def ahead(self) -> NumbersAhead:
        """The random numbers of this fit, on the device of the module."""
        if self._ahead is None:
            self._ahead = NumbersAhead(self.seed, self.device)
        return self._ahead

    def random(self, draw: BatchIndices) -> RandomNumbers:
        """Return the random numbers of one step."""
        # a CPU has them at hand: to draw ahead would only copy them
        return draw.random(self.seed) if self.device.type == "cpu" else self.ahead.of_step(draw)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one step, over the rows of all processes."""
        # read before the step: a captured one counts itself
        is_logged = (self.global_step + 1) % LOG_EVERY == 0
        if self.captured is None:
            draw = batch.draw
            loss = self.step_loss(batch.images, self.addresses(draw), self.random(draw))
        else:
            loss = self.captured(batch)
        # Lightning would take each loss and pass on these
        if is_logged:
            self.log(self.loss_name, loss)
        return loss
