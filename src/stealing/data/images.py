"""What every source opens to: uint8 images with labels and a checksum; and the ways to take a part of them."""

import hashlib
from collections.abc import Mapping, Sequence
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

    def relabelled(self, renamed: NDArray[np.int64], class_names: tuple[str, ...], classes: int) -> "Images":
        """The images whose class has a new label, with a checksum that depends on the new labels.

        Args:
            renamed: int64 (self.classes,), the new label of each class, in [0, classes), or -1 to leave the class out.
            class_names: of the new classes, or empty.
            classes: number of new classes.
        """
        labels = renamed[self.targets()]
        kept = self.part(np.flatnonzero(labels >= 0))
        assert self.labels is not None
        new = renamed[self.labels]
        # The checksum of `part` holds the rows and the source's own labels. Predictions are remembered by checksum,
        # so without the new labels those of one grouping would be taken for those of another.
        digest = hashlib.blake2b(kept.checksum.encode() + new[kept.rows].astype("<i8").tobytes(), digest_size=16)
        return replace(kept, labels=new, classes=classes, class_names=class_names, checksum=digest.hexdigest())


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


def without(images: Images, rows: Sequence[int]) -> Images:
    """The list without these rows, such as copies of images that are in another list.

    Args:
        images: where from.
        rows: rows of the source, as in its file, counted from 0; each must be in the list.

    Raises:
        DataError: a row is not in the list.
    """
    absent = sorted(set(rows) - set(images.rows.tolist()))
    if absent:
        raise DataError(f"{images.name} does not hold row {absent[0]} here: leave it out of rows.")
    return images.part(np.flatnonzero(~np.isin(images.rows, rows)))


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
    names = tuple(images.class_names[label] for label in chosen) if images.class_names else ()
    return images.relabelled(renamed, names, share)


def balanced(images: Images, per_class: int, seed: int = 0) -> Images:
    """The first `per_class` images of each class in a seeded permutation, one of each class in turn.

    Nested as `take` is: a smaller `per_class` is a prefix of a larger one.

    Args:
        images: a labelled list.
        per_class: images of each class, at least 1.
        seed: of the permutation.

    Raises:
        DataError: a class has fewer images.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    labels = images.targets()[order]
    fewest = int(np.bincount(labels, minlength=images.classes).min())
    if not 1 <= per_class <= fewest:
        raise DataError(
            f"per_class={per_class} does not suit {images.name}, whose rarest class has {fewest} images: "
            "set it to 1 or more, and to no more than that."
        )
    by_class = [order[labels == label][:per_class] for label in range(images.classes)]
    return images.part(np.stack(by_class, axis=1).ravel())


def grouped(images: Images, groups: Mapping[str, Sequence[str | int]]) -> Images:
    """The images of the named classes, labelled by the group that their class is in.

    Args:
        images: a labelled list.
        groups: at least two; by name, the classes of each, by their names or labels. Group i gets label i. The images
            of classes in no group are left out.

    Raises:
        DataError: fewer than two groups, an empty one, an unknown class, or a class in two places.
    """
    if len(groups) < 2 or not all(groups.values()):
        raise DataError(f"The groups of {images.name} are {dict(groups)}: name two or more, each with a class or more.")
    renamed = np.full(images.classes, -1, np.int64)
    for group, members in enumerate(groups.values()):
        for member in members:
            label = _label_of(images, member)
            if renamed[label] >= 0:
                raise DataError(f"Class {member!r} of {images.name} is named twice in groups: keep it in one, once.")
            renamed[label] = group
    return images.relabelled(renamed, tuple(groups), len(groups))


def _label_of(images: Images, member: str | int) -> int:
    known = images.class_names if isinstance(member, str) else range(images.classes)
    if member not in known:
        raise DataError(
            f"{images.name} has no class {member!r}: name a class as the source names it, or by its label, "
            f"0 to {images.classes - 1}."
        )
    return images.class_names.index(member) if isinstance(member, str) else member
