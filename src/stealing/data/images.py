"""What every source opens to: uint8 images with labels and a checksum; and the ways to take a part of them."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.errors import DataError


@dataclass(frozen=True)
class Images:
    """A fixed list of images of one size.

    Attributes:
        name: for messages and tables.
        pixels: uint8 (M, 3, size, size), usually a memory map.
        labels: int64 (M,), or None for a source without labels.
        classes: number of classes, 0 without labels; labels lie in [0, classes).
        rows: int64 (N,), which of the M images belong to this list, in order.
        checksum: hash of the decoded images, their labels and the choice of rows.
        class_names: by label, or empty where the source does not tell.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: int
    rows: NDArray[np.int64]
    checksum: str
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.pixels.shape[-1])

    def batch(self, indices: NDArray[np.int64] | slice) -> Tensor:
        """Images at these places of the list, uint8 (B, 3, size, size)."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def targets(self) -> NDArray[np.int64]:
        """Labels of the list, int64 (N,).

        Raises:
            DataError: the source has no labels.
        """
        if self.labels is None:
            raise DataError(f"{self.name} has no labels: it can be asked about, but it cannot be a downstream task.")
        return self.labels[self.rows]

    def part(self, chosen: NDArray[np.int64]) -> "Images":
        """The list at these places only, with a checksum of its own."""
        rows = self.rows[chosen]
        digest = hashlib.blake2b(self.checksum.encode() + rows.astype("<i8").tobytes(), digest_size=16)
        return replace(self, rows=rows, checksum=digest.hexdigest())


def take(images: Images, count: int | None, seed: int = 0, skip: int = 0) -> Images:
    """The first `count` of a seeded permutation: nested, so a smaller count is a prefix of a larger one.

    Args:
        images: where from.
        count: how many; None for the list as it is.
        seed: of the permutation.
        skip: leave out as many first, so that two parts of one list are disjoint.

    Raises:
        DataError: there are fewer than `skip + count` images.
    """
    if count is None:
        return images
    if skip + count > len(images):
        raise DataError(f"{images.name} has {len(images)} images and {skip + count} were asked for: lower the count.")
    return images.part(np.random.default_rng(seed).permutation(len(images))[skip : skip + count])


def part_of_classes(images: Images, part: int, parts: int, seed: int = 0) -> Images:
    """The images of one share of the classes, relabelled from 0; the shares of one seed are disjoint.

    Args:
        images: a labelled list.
        part: which share, in [0, parts).
        parts: number of shares; classes left over by the division belong to none.
        seed: of the permutation of the classes.
    """
    share = images.classes // parts
    if not 0 <= part < parts or share < 2:
        raise DataError(f"{images.name} cannot give part {part} of {parts} of {images.classes} classes: change parts.")
    chosen = np.sort(np.random.default_rng(seed).permutation(images.classes)[part * share : (part + 1) * share])
    renamed = np.full(images.classes, -1, np.int64)
    renamed[chosen] = np.arange(share)
    labels = renamed[images.targets()]
    kept = images.part(np.flatnonzero(labels >= 0))
    assert images.labels is not None
    names = tuple(images.class_names[label] for label in chosen) if images.class_names else ()
    return replace(kept, labels=renamed[images.labels], classes=share, class_names=names)
