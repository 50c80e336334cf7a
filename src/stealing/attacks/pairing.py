"""Pairings: a batch of images in, weighted pairs of images and banked answers out, for one step.

A pairing of raw images is called with images and rows. One that changes in the course of the
training has `of_progress` in the place of `__call__`. A pairing of asked views has `of_views`; it
may follow any query plan, as a raw image that is sent is the only view of itself.

Shape letters: B images, V asked views of each, C channels, H and W pixels. Images are float in
[0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stealing.data.asked_views import AskedBatch
from stealing.data.colours import changed
from stealing.data.sampling import RandomNumbers
from stealing.data.views import Views
from stealing.numbers import check_integer, check_number

Pair = tuple[float, Tensor, Tensor]
"""(weight, surrogate images, bank rows) of one forward pass.

Images are float (B, C, H, W), or (k B, C, H, W) for k views of each image: view 1 of all images,
then view 2, and so on. With k views the loss is the mean of k losses. Rows are int64 (B,), one
answer an image, or (B, V); the loss then gets answers (B, V, D).
"""

MOST_VIEWS = 1000
"""Most views of an image in one step."""


@runtime_checkable
class ViewPairing(Protocol):
    """A pairing that says which asked view an image is compared with.

    Attributes:
        passes: views of each image that the surrogate sees in one step.
    """

    passes: int

    def of_views(self, batch: AskedBatch, random: RandomNumbers) -> Iterator[Pair]:
        """Give the pairs of one step."""


@runtime_checkable
class ChangingPairing(Protocol):
    """A pairing of raw images that changes in the course of the training.

    Attributes:
        passes: forward passes of a batch in one step.
    """

    passes: int

    def of_progress(
        self, images: Tensor, rows: Tensor, random: RandomNumbers, progress: Tensor
    ) -> Iterator[Pair]:
        """Give the pairs of one step; progress is the share of steps that are done, a scalar."""


@dataclass(frozen=True)
class RawAndViews:
    """The raw images with weight 1, then `count` views of them that share the weight `view_weight`.

    Source: StolenEncoder (arXiv:2201.05889); train_surrogate_encoder.py at a9447c4.

    Attributes:
        views: distribution of the views.
        view_weight: lambda of the paper.
        count: k of the paper, at most 1,000; 0 to use only raw images.

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


def _raw(views: Tensor, images: Tensor) -> Tensor:
    """Return the images in place of their views."""
    return images


@dataclass(frozen=True)
class RawOrView:
    """Each image once a step: raw with probability 1 / (1 + view_weight), else a view of it.

    But for BatchNorm, which sees raw images and views together, the expected loss is the paper's
    L1 + lambda L2, divided by 1 + lambda, at half the forward passes. With lambda = 20 the raw
    images carry one part in 21 of the weight, and here they take no more of the compute.

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
        yield 1.0, changed(views, is_raw, _raw, images), rows


@dataclass(frozen=True)
class ViewsThenRaw:
    """Views of each image in the first part of the training, the raw images in the rest of it.

    The answer is to the raw image, and the target's answer to a view is another one. So views keep
    a surrogate from learning a few images by heart, but draw it away from the target. Raw images at
    the end correct that. Ours.

    Attributes:
        views: distribution of the views.
        share: part of the steps with views, 0 to 1.

    Raises:
        ConfigError: the share is out of range.
    """

    views: Views
    share: float

    def __post_init__(self) -> None:
        check_number("attack.pairing.share", self.share, high=1)

    @property
    def passes(self) -> int:
        """Forward passes of a batch in one step."""
        return 1

    def of_progress(
        self, images: Tensor, rows: Tensor, random: RandomNumbers, progress: Tensor
    ) -> Iterator[Pair]:
        """Give the one pair of a step."""
        # no branch in Python: a captured step is replayed with another progress
        yield 1.0, torch.where(progress < self.share, self.views(images, random), images), rows


@dataclass(frozen=True)
class AskedInTurn:
    """One asked view of each image, another one in each epoch, with the answer to it.

    Source: Cont-Steal (arXiv:2201.07513). The paper's surrogate sees a view of its own; the one of
    its released code sees the view that was sent (train_representation.py at 49233dd).

    Attributes:
        views: distribution of the surrogate's own views; None for the view that was sent.
    """

    views: Views | None

    @property
    def passes(self) -> int:
        """Views of each image that the surrogate sees in one step."""
        return 1

    def of_views(self, batch: AskedBatch, random: RandomNumbers) -> Iterator[Pair]:
        """Give the one pair of a step."""
        rows = batch.answers_to(batch.turns)
        if self.views is None:
            yield 1.0, batch.seen(batch.turns), rows
        else:
            yield 1.0, self.views(batch.images, random), rows


@dataclass(frozen=True)
class AllAsked:
    """Several views of each image in one forward pass, each with the answers to all asked views.

    Source: RDA (`steal_train` of RDA.py at 85e285b), whose BatchNorm sees these views together.

    Attributes:
        views: distribution of the surrogate's views.
        count: m of the source, 1 to 1,000.

    Raises:
        ConfigError: the number is out of range.
    """

    views: Views
    count: int

    def __post_init__(self) -> None:
        check_integer("attack.pairing.count", self.count, 1, MOST_VIEWS)

    @property
    def passes(self) -> int:
        """Views of each image that the surrogate sees in one step."""
        return self.count

    def of_views(self, batch: AskedBatch, random: RandomNumbers) -> Iterator[Pair]:
        """Give the one pair of a step."""
        views = [self.views(batch.images, random) for _ in range(self.count)]
        yield 1.0, torch.cat(views), batch.rows
