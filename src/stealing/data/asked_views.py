"""Asked views: which views of which images were sent, kept as parameters, from which pixels follow.

Shape letters: N images, V views of each, B images of a batch, C channels, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.data.sampling import generator
from stealing.data.views import ViewParameters, Views, quantised


@dataclass(frozen=True)
class AskedViews:
    """V views of each of N images, as they were sent.

    Parameters are kept rather than pixels: a thousandth of the memory of large images.

    Attributes:
        views: their distribution.
        parameters: of every view; each tensor is (N, V, ...).
    """

    views: Views
    parameters: ViewParameters

    def pixels(self, images_BCHW: Tensor, places_B: Tensor, numbers_B: Tensor) -> Tensor:
        """Return one view of each of B images, uint8 (B, C, H, W).

        On the processor that asked, these are the pixels that were sent. Another one may round a
        pixel to the next value.

        Args:
            images_BCHW: the raw images, float in [0, 1].
            places_B: their places among the N images.
            numbers_B: which view of each, in [0, V).
        """
        chosen = ViewParameters(*(part[places_B, numbers_B] for part in self.parameters))
        return quantised(self.views.apply(images_BCHW, chosen))


@dataclass(frozen=True)
class AskedBatch:
    """The images of a training step, and the views of them that have an answer.

    Attributes:
        images: the raw images, float (B, C, H, W) in [0, 1].
        rows: int64 (B, V); row [i, v] of the bank answers view v of image i.
        turns: int64 (B,), the view whose turn it is: in each epoch the next one.
        places: int64 (B,), of the images in the list of this fit.
        asked: the views; None if the raw images were sent, as their only view.
    """

    images: Tensor
    rows: Tensor
    turns: Tensor
    places: Tensor
    asked: AskedViews | None = None

    def seen(self, numbers_B: Tensor) -> Tensor:
        """Return the view of this number of each image as the target saw it, float in [0, 1]."""
        if self.asked is None:
            return self.images
        return self.asked.pixels(self.images, self.places, numbers_B).float() / 255

    def answers_to(self, numbers_B: Tensor) -> Tensor:
        """Return the bank rows (B,) that answer the view of this number of each image."""
        return self.rows.take_along_dim(numbers_B[:, None], 1)[:, 0]


def draw_views(
    views: Views, digests: Sequence[bytes], count: int, size: int, seed: int
) -> AskedViews:
    """Draw `count` views of each image.

    A view is a function of seed, image and number. It depends neither on the other images nor on
    `count`, so that smaller budgets and fewer views send a part of what larger ones send.

    Args:
        views: distribution of the views.
        digests: of the images.
        count: views of each image, V.
        size: height and width of the images in pixels.
        seed: of the run.
    """
    random = _NumbersByImage(digests, seed)
    drawn = [views.draw(random, size, size) for _ in range(count)]
    parts = (torch.stack(part, 1) for part in zip(*drawn, strict=True))
    return AskedViews(views, ViewParameters(*parts))


class _NumbersByImage:
    """Random numbers of which each image has a stream of its own."""

    def __init__(self, digests: Sequence[bytes], seed: int) -> None:
        self._generators = [generator("asked", seed, digest.hex()) for digest in digests]

    def uniform(self, columns: int) -> Tensor:
        """Return the next numbers in [0, 1) of each image, float32 (N, columns)."""
        rows = [torch.rand(columns, generator=source) for source in self._generators]
        return torch.stack(rows)
