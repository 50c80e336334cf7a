"""Which surrogate images are held against which banked answers, and with what weight: the plan of one training step.

Shape letters: B images, C channels, H and W pixels. Images are float in [0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.data.draws import Dice
from stealing.data.views import Views

Pair = tuple[float, Tensor, Tensor]
"""(weight, surrogate images (B, C, H, W), bank rows (B,)): one forward pass each."""


@dataclass(frozen=True)
class RawAndViews:
    """The raw images with weight 1, then `count` views of them that share the weight `view_weight`.

    BatchNorm sees each pass on its own, as in the released code.
    Source: StolenEncoder (arXiv:2201.05889); train_surrogate_encoder.py at a9447c4.

    Attributes:
        views: distribution of the views.
        view_weight: lambda of the paper.
        count: k of the paper; 0 leaves the raw images alone.
    """

    views: Views
    view_weight: float
    count: int

    @property
    def passes(self) -> int:
        """Forward passes of a batch in one step."""
        return 1 + self.count

    def __call__(self, images: Tensor, rows: Tensor, dice: Dice) -> Iterator[Pair]:
        """The pairs of one step."""
        yield 1.0, images, rows
        for _ in range(self.count):
            yield self.view_weight / self.count, self.views(images, dice), rows


@dataclass(frozen=True)
class RawOrView:
    """Each image once a step: raw with probability 1 / (1 + view_weight), else a view of it.

    The expected loss is the paper's L1 + lambda L2 divided by 1 + lambda, at half the forward passes: with lambda = 20
    the raw images carry a twenty-first of the weight and need no more than that of the compute.

    Attributes:
        views: distribution of the views.
        view_weight: lambda of the paper.
    """

    views: Views
    view_weight: float

    @property
    def passes(self) -> int:
        """Forward passes of a batch in one step."""
        return 1

    def __call__(self, images: Tensor, rows: Tensor, dice: Dice) -> Iterator[Pair]:
        """The one pair of a step."""
        raw = dice.uniform(1)[:, 0] < 1 / (1 + self.view_weight)
        views = self.views(images, dice)
        yield 1.0, torch.where(raw.to(images.device)[:, None, None, None], images, views), rows
