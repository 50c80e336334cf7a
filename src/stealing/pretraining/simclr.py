"""SimCLR: unlabelled images in, a pre-trained encoder out. The flow's first step, and the control that asks nothing.

Shape letters: B images, D feature width, P projection width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stealing.data.draws import Batch
from stealing.data.views import Views
from stealing.encoders import Encoder
from stealing.training.ranks import gathered
from stealing.training.schedule import warmup_cosine


def nt_xent(first_BP: Tensor, second_BP: Tensor, *, temperature: float) -> Tensor:
    """Contrast two views of B images: row i of one and row i of the other are the positive pair, all else is negative.

    Args:
        first_BP: projections of the first views, (B, P), with gradient; rows are L2-normalised here.
        second_BP: projections of the second views, (B, P), with gradient.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over the 2B rows, in nats, computed in float32 also under autocast.

    Source: SimCLR (arXiv:2002.05709), equation 1.
    """
    with torch.autocast(first_BP.device.type, enabled=False):  # it would multiply matrices in 16 bits
        rows = F.normalize(torch.cat([first_BP, second_BP]).float(), dim=1)
        logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
        positive = torch.arange(len(rows), device=rows.device).roll(len(first_BP))
        return F.cross_entropy(logits, positive)


class SimCLRModule(L.LightningModule):
    """Trains `encoder` so that two views of an image agree; a projection head is trained with it and thrown away.

    Args:
        encoder: trained in place.
        views: distribution of the two views.
        optimizer: takes parameters, returns the optimiser.
        projection: width of the hidden and the output layer of the head.
        temperature: of NT-Xent.
        warmup: share of the steps over which the learning rate rises linearly; it then falls as a cosine to zero.
        total_steps: horizon of the schedule.
        seed: of all views.
        head_seed: of the head's initial weights.
    """

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
        super().__init__()
        self.encoder, self.views, self.optimizer = encoder, views, optimizer
        self.temperature, self.warmup, self.total_steps, self.seed = temperature, warmup, total_steps, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            self.head = nn.Sequential(
                nn.Linear(encoder.feature_dim, projection, bias=False),
                nn.BatchNorm1d(projection),
                nn.ReLU(True),
                nn.Linear(projection, projection),
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """NT-Xent between two fresh views of each image, over the whole batch in each process."""
        images, dice = batch.images.float() / 255, batch.draw.dice(self.seed)
        both = torch.cat([self.views(images, dice), self.views(images, dice)])
        first, second = (gathered(half) for half in self.head(self.encoder(both)).float().chunk(2))
        loss = nt_xent(first, second, temperature=self.temperature)
        self.log("pretrain/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """The given optimiser under warm-up and cosine, stepped each batch."""
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        optimizer = self.optimizer(parameters)
        scheduler: LRScheduler = warmup_cosine(optimizer, self.total_steps, self.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
