"""The thief's training: banked answers and their images in, a surrogate encoder out. It never touches the target.

Shape letters: B images, D feature width.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stealing.attacks.pairing import Pair
from stealing.data.draws import Batch, Dice
from stealing.encoders import Encoder
from stealing.training.ranks import gathered

Pairing = Callable[[Tensor, Tensor, Dice], Iterator[Pair]]


class SurrogateModule(L.LightningModule):
    """Pulls the surrogate's features of each image, and of views of it, towards the target's one answer.

    Args:
        encoder: the surrogate, trained in place.
        adapter: maps surrogate features to the target's width, trained with it; the identity where the widths agree.
        answers: banked answers, (N, D), row i to image i of the training list.
        loss: pure function of features and answers.
        pairing: which images are held against which answers.
        optimizer: takes parameters, returns the optimiser.
        schedule: takes the optimiser and the number of steps, returns the schedule.
        total_steps: horizon of the schedule.
        seed: of all views.
    """

    answers: Tensor

    def __init__(
        self,
        encoder: Encoder,
        adapter: nn.Module,
        answers: Tensor,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        pairing: Pairing,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.encoder, self.adapter = encoder, adapter
        self.register_buffer("answers", answers, persistent=False)  # they are in the bank: not in every checkpoint
        self.loss, self.pairing, self.optimizer, self.schedule = loss, pairing, optimizer, schedule
        self.total_steps, self.seed = total_steps, seed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the loss over the pairs of this step, of the whole batch in each process."""
        images = batch.images.float() / 255
        total = images.new_zeros(())
        for weight, views, rows in self.pairing(images, batch.draw.indices, batch.draw.dice(self.seed)):
            features = gathered(self.adapter(self.encoder(views)).float())
            total = total + weight * self.loss(features, gathered(self.answers[rows]))
        self.log("steal/loss", total)
        return total

    def configure_optimizers(self) -> Any:
        """The given optimiser and schedule, stepped each batch."""
        optimizer = self.optimizer([*self.encoder.parameters(), *self.adapter.parameters()])
        scheduler = self.schedule(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def build_adapter(surrogate_dim: int, target_dim: int, seed: int) -> nn.Module:
    """Return a linear map between two widths, or the identity if they agree; a function of the seed."""
    if surrogate_dim == target_dim:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(surrogate_dim, target_dim)
