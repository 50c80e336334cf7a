"""Lists of images with labels and a checksum, which every source opens to; and parts of such lists.

Shape letters: M images of the source, N images of a list, B images of a batch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.errors import DataError
from stealing.numbers import check_integer

LEFT_OUT = -1
"""Label of an image whose class is not part of a list."""


@dataclass(frozen=True)
class Images:
    """A fixed list of images of one size.

    Attributes:
        name: for messages and tables.
        pixels: uint8 (M, 3, size, size), usually a memory map.
        labels: int64 (M,), or None for a source without labels.
        classes: number of classes, 0 without labels; labels of the list are in [0, classes).
        rows: int64 (N,), the places in `pixels` of the images of this list, in order.
        checksum: hash of the decoded images, their labels and the choice of rows.
        class_names: by label; empty if the source has none.
        unlabelled: why there are no labels, for messages; empty with labels.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: int
    rows: NDArray[np.int64]
    checksum: str
    class_names: tuple[str, ...] = ()
    unlabelled: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.pixels.shape[-1])

    def batch(self, indices: NDArray[np.int64] | slice) -> Tensor:
        """Return the images at these places of the list, uint8 (B, 3, size, size)."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def targets(self) -> NDArray[np.int64]:
        """Return the labels of the list, int64 (N,).

        Raises:
            DataError: The source has no labels.
        """
        if self.labels is None:
            reason = f" ({self.unlabelled})" if self.unlabelled else ""
            raise DataError(
                f"{self.name} has no labels{reason}: use it as data.queries, and a labelled source "
                "for the task."
            )
        return self.labels[self.rows]

    def part(self, chosen: NDArray[np.int64]) -> "Images":
        """Return the images at these places of the list, with a checksum of their own."""
        rows = self.rows[chosen]
        return replace(self, rows=rows, checksum=_extend(self.checksum, rows))

    def relabelled(
        self, renamed: NDArray[np.int64], class_names: tuple[str, ...], classes: int
    ) -> "Images":
        """Return the images whose class has a new label; the checksum depends on the labels.

        Args:
            renamed: int64 (self.classes,), the new label of each class, in [0, classes), or -1 to
                leave the class out.
            class_names: of the new classes, or empty.
            classes: number of new classes.
        """
        part = self.part(np.flatnonzero(renamed[self.targets()] != LEFT_OUT))
        assert self.labels is not None
        labels = renamed[self.labels]
        # The checksum of `part` holds the rows and the source's own labels. Predictions are cached
        # by checksum: without the new labels, two groupings would share their predictions.
        return replace(
            part,
            labels=labels,
            classes=classes,
            class_names=class_names,
            checksum=_extend(part.checksum, labels[part.rows]),
        )


def _extend(checksum: str, numbers: NDArray[np.int64]) -> str:
    """Return the hash of a checksum and of some integers."""
    content = checksum.encode() + numbers.astype("<i8").tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def take(
    images: Images,
    count: int | None,
    seed: int = 0,
    skip: int = 0,
) -> Images:
    """Return the first `count` images of a seeded permutation.

    Parts are nested: a smaller count is a prefix of a larger one.

    Args:
        images: the list.
        count: how many; None for the whole list in its own order.
        seed: of the permutation.
        skip: number of images to leave out first, so that two parts of one list are disjoint.

    Raises:
        DataError: There are fewer than `skip + count` images.
        ConfigError: A number is out of range.
    """
    if count is None:
        return images
    check_integer("count", count)
    check_integer("skip", skip)
    if skip + count > len(images):
        raise DataError(
            f"{images.name} has {len(images)} images and {skip + count} were asked for: "
            "lower the count."
        )
    order = np.random.default_rng(seed).permutation(len(images))
    return images.part(order[skip : skip + count])


def without(images: Images, rows: Sequence[int]) -> Images:
    """Return the list without some rows, such as copies of images that are in another list.

    Args:
        images: the list.
        rows: rows of the source, as in its file, counted from 0; each must be in the list.

    Raises:
        DataError: A row is not in the list.
    """
    absent = sorted(set(rows) - set(images.rows.tolist()))
    if absent:
        raise DataError(f"{images.name} does not hold row {absent[0]} here: leave it out of rows.")
    return images.part(np.flatnonzero(~np.isin(images.rows, rows)))


def part_of_classes(
    images: Images,
    part: int,
    parts: int,
    seed: int = 0,
) -> Images:
    """Return the images of one share of the classes, relabelled from 0.

    The shares of one seed are disjoint.

    Args:
        images: a labelled list.
        part: number of the share, in [0, parts).
        parts: number of shares; classes left over by the division are in none.
        seed: of the permutation of the classes.

    Raises:
        DataError: There is no such share, or it has fewer than two classes.
        ConfigError: `parts` is out of range.
    """
    check_integer("parts", parts, 1)
    share = images.classes // parts
    if not 0 <= part < parts or share < 2:
        raise DataError(
            f"{images.name} cannot give part {part} of {parts} of {images.classes} classes: "
            "change parts."
        )
    order = np.random.default_rng(seed).permutation(images.classes)
    # Sorted, so that labels follow the order of the class names.
    chosen = np.sort(order[part * share : (part + 1) * share])
    renamed = np.full(images.classes, LEFT_OUT, np.int64)
    renamed[chosen] = np.arange(share)
    names: tuple[str, ...] = ()
    if images.class_names:
        names = tuple(images.class_names[label] for label in chosen)
    return images.relabelled(renamed, names, share)


def balanced(
    images: Images,
    per_class: int,
    seed: int = 0,
) -> Images:
    """Return the first `per_class` images of each class in a seeded permutation, classes in turn.

    Parts are nested: a smaller `per_class` is a prefix of a larger one.

    Args:
        images: a labelled list.
        per_class: images of each class, at least 1.
        seed: of the permutation.

    Raises:
        DataError: A class has fewer images.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    labels = images.targets()[order]
    fewest = int(np.bincount(labels, minlength=images.classes).min())
    if not 1 <= per_class <= fewest:
        raise DataError(
            f"per_class={per_class} does not suit {images.name}, whose rarest class has {fewest} "
            "images: set it to 1 or more, and to no more than that."
        )
    # One image of each class in turn, so that a prefix of the list is balanced too.
    by_class = [order[labels == label][:per_class] for label in range(images.classes)]
    return images.part(np.stack(by_class, axis=1).ravel())


def grouped(images: Images, groups: Mapping[str, Sequence[str | int]]) -> Images:
    """Return the images of some classes, labelled by the group of their class.

    Args:
        images: a labelled list.
        groups: at least two; by name, the classes of each, by their names or labels. Group i gets
            label i. Images of classes in no group are left out.

    Raises:
        DataError: There are fewer than two groups, an empty one, an unknown class, or a class that
            is named twice.
    """
    if len(groups) < 2 or not all(groups.values()):
        raise DataError(
            f"The groups of {images.name} are {dict(groups)}: "
            "name two or more, each with a class or more."
        )
    renamed = np.full(images.classes, LEFT_OUT, np.int64)
    for group, members in enumerate(groups.values()):
        for member in members:
            label = _label_of(images, member)
            if renamed[label] != LEFT_OUT:
                raise DataError(
                    f"Class {member!r} of {images.name} is named twice in groups: "
                    "keep it in one, once."
                )
            renamed[label] = group
    return images.relabelled(renamed, tuple(groups), len(groups))


def _label_of(images: Images, member: str | int) -> int:
    """Return the label of a class that is given by name or label."""
    known = images.class_names if isinstance(member, str) else range(images.classes)
    if member not in known:
        raise DataError(
            f"{images.name} has no class {member!r}: name a class as the source names it, "
            f"or by its label, 0 to {images.classes - 1}."
        )
    return images.class_names.index(member) if isinstance(member, str) else member
