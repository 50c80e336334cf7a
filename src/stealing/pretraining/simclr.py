"""SimCLR: unlabelled images in, a pre-trained encoder out.

A run uses it twice: to train a target, and to train the control that asks nothing.

Shape letters: B images, P projection width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stealing.data.sampling import RandomNumbers
from stealing.data.views import Views
from stealing.encoders import Encoder
from stealing.training.distributed import all_gather_with_grad
from stealing.training.schedule import warmup_cosine
from stealing.training.step import StepModule


def nt_xent(first_BP: Tensor, second_BP: Tensor, *, temperature: float) -> Tensor:
    """Contrast two views of B images.

    Row i of one and row i of the other are the positive pair. The other 2B - 2 rows are its
    negatives.

    Args:
        first_BP: projections of the first views, (B, P), with gradient; rows are L2-normalised
            here.
        second_BP: projections of the second views, (B, P), with gradient.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over the 2B rows, in nats, computed in float32 also under autocast.

    Source: SimCLR (arXiv:2002.05709), equation 1.
    """
    # autocast would multiply the matrices in 16 bits
    with torch.autocast(first_BP.device.type, enabled=False):
        rows = F.normalize(torch.cat([first_BP, second_BP]).float(), dim=1)
        # -inf: no row is its own negative
        logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
        positive = torch.arange(len(rows), device=rows.device).roll(len(first_BP))
        return F.cross_entropy(logits, positive)


class SimCLRModule(StepModule):
    """Trains `encoder` so that two views of an image have similar projections.

    The projection head is trained with the encoder and dropped at the end.

    Args:
        encoder: trained in place.
        views: distribution of the two views.
        optimizer: takes parameters, returns the optimizer.
        projection: width of the hidden and the output layer of the head.
        temperature: of NT-Xent.
        warmup: share of the steps over which the learning rate rises linearly; it then falls as a
            cosine to zero.
        total_steps: horizon of the schedule.
        seed: of all views.
        head_seed: of the head's initial weights.
    """

    pushed = (2, 2)  # views of an image in a step: forward, and backward

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        projection: int,
        temperature: float,
        warmup: float,
        total_steps: int,
        seed: int,
        head_seed: int,
    ) -> None:
        super().__init__(seed, "pretrain/loss")
        self.encoder = encoder
        self.views = views
        self.optimizer = optimizer
        self.temperature = temperature
        self.warmup = warmup
        self.total_steps = total_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            # no bias before BatchNorm, which takes it off again
            self.head = nn.Sequential(
                nn.Linear(encoder.feature_dim, projection, bias=False),
                nn.BatchNorm1d(projection),
                nn.ReLU(True),
                nn.Linear(projection, projection),
            )

    def step_loss(self, images_uint8: Tensor, places_B: Tensor, random: RandomNumbers) -> Tensor:
        """Return NT-Xent between two fresh views of each image, over the rows of all processes."""
        images = images_uint8.float().div_(255)
        # one forward pass: BatchNorm sees both views together
        both = torch.cat([self.views(images, random), self.views(images, random)])
        first, second = self.head(self.encoder(both)).float().chunk(2)
        return nt_xent(
            all_gather_with_grad(first),
            all_gather_with_grad(second),
            temperature=self.temperature,
        )

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule; the schedule moves at each step, not at each epoch."""
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        optimizer = self.optimizer(parameters)
        scheduler = warmup_cosine(optimizer, self.total_steps, self.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
