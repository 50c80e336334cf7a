"""The surrogate's training: images and banked answers in, a trained surrogate out.

It never reaches the target.

Shape letters: B images, D feature width.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stealing.attacks.pairing import Pair
from stealing.data.sampling import RandomNumbers
from stealing.encoders import Encoder
from stealing.training.distributed import all_gather_with_grad
from stealing.training.step import StepModule

Loss = Callable[[Tensor, Tensor], Tensor]
"""Surrogate features (B, D) and answers (B, D) to a scalar with gradient."""

Pairing = Callable[[Tensor, Tensor, RandomNumbers], Iterator[Pair]]
"""Images (B, 3, H, W), their bank rows (B,) and random numbers to the pairs of one step."""


class SurrogateModule(StepModule):
    """Trains a surrogate to give the target's answer to each image, and to views of the image.

    Args:
        encoder: the surrogate, trained in place.
        adapter: maps surrogate features to the target's width; trained, too. The identity if the
            widths agree.
        answers: banked answers, (N, D), row i to image i of the training list.
        loss: function of features and answers. If it is an nn.Module, its parameters are trained,
            too; see `build_loss`.
        pairing: which images are compared with which answers.
        optimizer: takes parameters, returns the optimizer.
        schedule: takes the optimizer and the number of steps, returns the schedule.
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
        loss: Loss,
        pairing: Pairing,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__(seed, "steal/loss")
        self.encoder = encoder
        self.adapter = adapter
        # not persistent: the bank has the answers, and every checkpoint would copy them
        self.register_buffer("answers", answers, persistent=False)
        self.loss = loss
        self.pairing = pairing
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps

    def step_loss(self, images_uint8: Tensor, places_B: Tensor, random: RandomNumbers) -> Tensor:
        """Return the weighted sum of the loss over the pairs of this step.

        Each process returns the loss of the whole batch, over the rows of all processes.
        """
        images = images_uint8.float() / 255
        total = images.new_zeros(())
        for weight, views, rows in self.pairing(images, places_B, random):
            features = all_gather_with_grad(self.adapter(self.encoder(views)).float())
            total = total + weight * self.loss(features, all_gather_with_grad(self.answers[rows]))
        return total

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule; the schedule moves at each step, not at each epoch."""
        # the encoder's parameters, then the adapter's, then the loss's, if it has any
        optimizer = self.optimizer(self.parameters())
        scheduler = self.schedule(optimizer, self.total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def build_adapter(surrogate_dim: int, target_dim: int, seed: int) -> nn.Module:
    """Return a linear map between two widths, or the identity if they agree.

    Its weights depend on the seed alone.
    """
    if surrogate_dim == target_dim:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(surrogate_dim, target_dim)


def build_loss(loss: Callable[..., Any], width: int, seed: int) -> Loss:
    """Return a loss that can be called; its initial parameters depend on the seed alone.

    A function has no parameters and is returned as it is. A loss with parameters is a class derived
    from `nn.Module` whose constructor takes the width of the answers by position, and its settings
    by name. `SurrogateModule` keeps it as `loss`: checkpoints hold its parameters under `loss.`,
    and the optimizer gets them after those of encoder and adapter. It sees the rows of all
    processes, and every process computes the same from them, so that nothing in it may gather, or
    share statistics. The finished surrogate is saved without it.

    Args:
        loss: instantiated node `attack.loss`.
        width: D, of the answers.
        seed: of the parameters.
    """
    kind = loss.func if isinstance(loss, partial) else loss
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return loss
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: Loss = loss(width)
    return built
