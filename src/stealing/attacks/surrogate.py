"""The surrogate's training: images and banked answers in, a trained surrogate out.

It never reaches the target.

Shape letters: N images in the list, B images of a batch, V asked views of each, D feature width.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stealing.attacks.pairing import ChangingPairing, Pair, ViewPairing
from stealing.data.asked_views import AskedBatch, AskedViews
from stealing.data.sampling import Batch, BatchIndices, RandomNumbers
from stealing.data.views import ViewParameters
from stealing.encoders import Encoder
from stealing.training.distributed import all_gather_with_grad
from stealing.training.step import StepModule

Loss = Callable[[Tensor, Tensor], Tensor]
"""Surrogate features (B, D) and answers (B, D) or (B, V, D) to a scalar with gradient."""

RawPairing = Callable[[Tensor, Tensor, RandomNumbers], Iterator[Pair]]
"""Images (B, 3, H, W), their bank rows (B,) and random numbers to the pairs of one step."""

Pairing = RawPairing | ChangingPairing | ViewPairing


class SurrogateModule(StepModule):
    """Trains a surrogate to give the target's answer to each image, and to views of the image.

    Args:
        encoder: the surrogate, trained in place.
        adapter: maps surrogate features to the target's width; trained, too. The identity if the
            widths agree.
        answers: banked answers to the images of the training list, (N, D), or to V views of each,
            (N, V, D).
        loss: function of features and answers. If it is an nn.Module, its parameters are trained,
            too; see `build_loss`.
        pairing: which images are compared with which answers.
        optimizer: takes parameters, returns the optimizer.
        schedule: takes the optimizer and the number of steps, returns the schedule.
        total_steps: horizon of the schedule.
        seed: of all views.
        asked: the views that were sent; None if the raw images were.
    """

    answers: Tensor
    progress: Tensor

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
        asked: AskedViews | None = None,
    ) -> None:
        super().__init__(seed, "steal/loss")
        self.encoder = encoder
        self.adapter = adapter
        # not persistent: the bank has the answers, and every checkpoint would copy them
        self.register_buffer("answers", answers.flatten(0, -2), persistent=False)
        # a tensor, which a captured step reads anew; no checkpoint needs it: the step gives it
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.views_an_image = len(self.answers) // len(answers)
        self._asked = asked
        if asked is not None:
            for name, part in asked.parameters._asdict().items():
                self.register_buffer(f"asked_{name}", part, persistent=False)
        self.loss = loss
        self.pairing = pairing
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note which share of the steps is done."""
        self.progress.fill_(self.trainer.global_step / self.total_steps)

    def addresses(self, draw: BatchIndices) -> Tensor:
        """Return the bank row of each image's view whose turn it is in this epoch, (B,)."""
        return draw.indices * self.views_an_image + draw.epoch % self.views_an_image

    def step_loss(self, images_uint8: Tensor, rows_B: Tensor, random: RandomNumbers) -> Tensor:
        """Return the weighted sum of the loss over the pairs of this step.

        Each process returns the loss of the whole batch, over the rows of all processes.
        """
        images = images_uint8.float().div_(255)
        total = images.new_zeros(())
        for weight, views, rows in self._pairs(images, rows_B, random):
            features = self.adapter(self.encoder(views)).float()
            answers = all_gather_with_grad(self.answers[rows])
            parts = features.split(len(rows))
            for part in parts:
                loss = self.loss(all_gather_with_grad(part), answers)
                total = total + weight / len(parts) * loss
        return total

    def _pairs(self, images: Tensor, rows_B: Tensor, random: RandomNumbers) -> Iterator[Pair]:
        if isinstance(self.pairing, ChangingPairing):
            return self.pairing.of_progress(images, rows_B, random, self.progress)
        if not isinstance(self.pairing, ViewPairing):
            return self.pairing(images, rows_B, random)
        places = rows_B // self.views_an_image
        numbers = torch.arange(self.views_an_image, device=rows_B.device)
        batch = AskedBatch(
            images,
            rows=places[:, None] * self.views_an_image + numbers,
            turns=rows_B % self.views_an_image,
            places=places,
            asked=self._asked_here(),
        )
        return self.pairing.of_views(batch, random)

    def _asked_here(self) -> AskedViews | None:
        """Return the asked views with their parameters on the module's device."""
        if self._asked is None:
            return None
        parts = (getattr(self, f"asked_{name}") for name in ViewParameters._fields)
        return AskedViews(self._asked.views, ViewParameters(*parts))

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

    Its weights depend only on the seed.
    """
    if surrogate_dim == target_dim:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(surrogate_dim, target_dim)


def build_loss(loss: Callable[..., Any], width: int, seed: int) -> Loss:
    """Return a loss that can be called; its initial parameters depend only on the seed.

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
