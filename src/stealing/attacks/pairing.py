"""Pairings: a batch of images in, weighted pairs of images and banked answers out, for one step.

Shape letters: B images, C channels, H and W pixels. Images are float in [0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.data.sampling import RandomNumbers
from stealing.data.views import Views
from stealing.numbers import check_integer, check_number

Pair = tuple[float, Tensor, Tensor]
"""(weight, surrogate images (B, C, H, W), bank rows (B,)): one forward pass each."""

MOST_VIEWS = 1000
"""Most views of an image in one step."""


@dataclass(frozen=True)
class RawAndViews:
    """The raw images with weight 1, then `count` views of them that share the weight `view_weight`.

    Source: StolenEncoder (arXiv:2201.05889); train_surrogate_encoder.py at a9447c4.

    Attributes:
        views: distribution of the views.
        view_weight: lambda of the paper.
        count: k of the paper, at most 1,000; 0 for raw images alone.

    Raises:
        ConfigError: a number is out of range.
    """

    views: Views
    view_weight: float
    count: int

    def __post_init__(self) -> None:
        check_number("attack.pairing.view_weight", self.view_weight)
        check_integer("attack.pairing.count", self.count, high=MOST_VIEWS)

    @property
    def passes(self) -> int:
        """Forward passes of a batch in one step."""
        return 1 + self.count

    def __call__(self, images: Tensor, rows: Tensor, random: RandomNumbers) -> Iterator[Pair]:
        """Give the pairs of one step."""
        # BatchNorm normalises each pass by itself, as in the released code: one pass of all would
        # train another network
        yield 1.0, images, rows
        for _ in range(self.count):
            yield self.view_weight / self.count, self.views(images, random), rows


@dataclass(frozen=True)
class RawOrView:
    """Each image once a step: raw with probability 1 / (1 + view_weight), else a view of it.

    The expected loss is the paper's L1 + lambda L2, divided by 1 + lambda, at half the forward
    passes. With lambda = 20 the raw images carry one part in 21 of the weight, and here they take
    no more of the compute.

    Attributes:
        views: distribution of the views.
        view_weight: lambda of the paper.

    Raises:
        ConfigError: the weight is out of range.
    """

    views: Views
    view_weight: float

    def __post_init__(self) -> None:
        check_number("attack.pairing.view_weight", self.view_weight)

    @property
    def passes(self) -> int:
        """Forward passes of a batch in one step."""
        return 1

    def __call__(self, images: Tensor, rows: Tensor, random: RandomNumbers) -> Iterator[Pair]:
        """Give the one pair of a step."""
        is_raw = random.uniform(1)[:, 0] < 1 / (1 + self.view_weight)
        views = self.views(images, random)
        yield 1.0, torch.where(is_raw[:, None, None, None], images, views), rows
