"""torchvision's data sets: downloaded at first use, whole or not at all, and opened as `Images`."""

import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from filelock import FileLock
from numpy.typing import NDArray

from stealing.artefacts import unfinished
from stealing.data.cache import Block, load_or_decode, may_write
from stealing.data.decoding import BLOCK, check_labels, decode_each, fit, fitting
from stealing.data.images import Images
from stealing.errors import DataError
from stealing.numbers import SIDE, check_integer

CLASSES = {"STL10": 10, "SVHN": 10, "GTSRB": 43}
"""Number of classes of those sets whose torchvision class has no attribute `classes`."""

LABELS = ("targets", "labels", "_labels")
"""Attributes of torchvision's sets that may hold all labels."""

UNDIVIDED = {"EuroSAT": 0.2}
"""Sets that come in one piece, with the share that becomes `test`, by a seeded permutation. The
split is this project's own."""


def from_torchvision(
    dataset: str,
    root: str,
    split: str,
    *,
    size: int,
    cache: str,
    resize: str = "none",
    grey: str = "refuse",
    limit: int | None = None,
) -> Images:
    """Open one of torchvision's image classification data sets; download it if it is absent.

    Tested: CIFAR10, CIFAR100, MNIST, FashionMNIST, STL10, SVHN, GTSRB, Food101, EuroSAT, DTD,
    Flowers102, ImageNet. torchvision opens most sets of image files in RGB, so that a grey file
    among them has three equal channels.

    Args:
        dataset: torchvision's name.
        root: folder of torchvision's files.
        split: as torchvision names it: `train`, `test`, `val`, `unlabeled`, `train+unlabeled`.
        size: height and width of the opened images in pixels.
        cache: folder for the decoded images.
        resize: `none` (another size is an error), `pad`, `crop` or `bilinear`.
        grey: `refuse`, or `repeat` (a grey image becomes three equal channels).
        limit: decode only the first of a seeded permutation, at most this many; None decodes all.

    Raises:
        DataError: The files are absent and cannot be downloaded, or an image is damaged or of
            another size.
    """
    check_integer("size", size, 1, SIDE)
    if limit is not None:
        check_integer("limit", limit, 1)
    kind = getattr(torchvision.datasets, dataset)
    opened = _open(kind, dataset, Path(root), split)
    names = tuple(str(name) for name in getattr(opened, "classes", ()))
    classes = len(names) or CLASSES[dataset]
    if "unlabeled" in split:  # torchvision gives -1 for a label
        classes = 0
        names = ()
    rows = _select_rows(dataset, split, len(opened), limit)
    part = _Part(opened, rows, classes, f"{dataset} {split} in {root}")
    name = f"{dataset.lower()}-{split}"
    source: dict[str, object] = {"root": str(Path(root).resolve()), "resize": resize, "grey": grey}
    if limit is not None:
        # A limit above the number of images takes all of them, but in another order.
        source["rows"] = hashlib.blake2b(rows.astype("<i8").tobytes(), digest_size=8).hexdigest()
    decoded = load_or_decode(
        cache,
        name,
        source,
        len(rows),
        size,
        lambda: part.blocks(size, resize, grey),
        part.labels if part.has_labels else None,
    )
    labels = decoded.labels if classes else None
    order = np.arange(len(rows))
    return Images(name, decoded.pixels, labels, classes, order, decoded.checksum, names)


@dataclass(frozen=True)
class _Part:
    """Some rows of one of torchvision's data sets.

    Attributes:
        opened: torchvision's data set.
        rows: int64 (N,).
        classes: number of classes, 0 without labels.
        place: of the data set, for messages.
    """

    opened: Any
    rows: NDArray[np.int64]
    classes: int
    place: str

    @property
    def has_labels(self) -> bool:
        """True if all labels are known without decoding an image."""
        return self.classes > 0 and _all_labels(self.opened) is not None

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of the rows, int64 (N,), without decoding an image."""
        return np.asarray(_all_labels(self.opened), np.int64)[self.rows]

    def blocks(self, size: int, resize: str, grey: str) -> Iterator[Block]:
        """Yield decoded images with their labels, as for `load_or_decode`."""
        step = min(BLOCK, fitting(size))
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step].tolist()
            places = [f"{self.place}, row {row}" for row in rows]
            labels: dict[int, int | None] = {}
            decode_one = partial(self._decode, rows, places, labels, size, resize, grey)
            pixels = decode_each(decode_one, len(rows))
            if self.classes:
                in_order = [labels[place] for place in range(len(rows))]
                yield pixels, check_labels(in_order, self.classes, places)
            else:
                yield pixels, np.full(len(places), -1)

    def _decode(
        self,
        rows: Sequence[int],
        places: Sequence[str],
        labels: dict[int, int | None],
        size: int,
        resize: str,
        grey: str,
        place: int,
    ) -> NDArray[np.uint8]:
        """Return the pixels of one row of a block, and write its label into `labels`."""
        at = places[place]
        image, labels[place] = self._item(rows[place], at)
        return fit(image, at, size, resize, grey)

    def _item(self, row: int, at: str) -> Any:
        """Return the image and the label of one row."""
        try:
            return self.opened[row]
        except Exception:  # each format has its own kinds of errors in Pillow
            raise DataError(
                f"{at}: the image cannot be decoded; fetch it again or leave it out."
            ) from None


def _open(kind: Any, dataset: str, root: Path, split: str) -> Any:
    """Return torchvision's data set, downloaded if it is absent.

    Args:
        kind: torchvision's class.
        dataset: its name.
        root: folder of its files.
        split: as torchvision names it.
    """
    parameters = inspect.signature(kind).parameters
    options: dict[str, Any] = {}
    if "train" in parameters:
        if split not in ("train", "test"):
            raise DataError(
                f"{dataset} has the splits train and test, not {split!r}: choose one of them."
            )
        options["train"] = split == "train"
    if "split" in parameters:
        options["split"] = split
    open_in = partial(kind, **options)
    if dataset == "ImageNet" and not may_write():
        _check_unpacked(root, split)
    try:
        return open_in(root)
    except ImportError as error:
        raise DataError(
            f"{dataset} cannot be opened: {str(error).splitlines()[0]}; install what is missing."
        ) from None
    except Exception as error:  # pickle, tarfile and scipy raise errors of any kind
        reason = " ".join(str(error).split())
    absent = f"{dataset} {split} is not complete in {root}"
    if "download" not in parameters:
        raise DataError(
            f"{absent} and cannot be downloaded without an account ({reason}): put its files there."
        )
    if not may_write():
        raise DataError(f"{absent}: run without plan_only=true to download it, or put it there.")
    try:
        _download(open_in, root, dataset)
        return open_in(root)
    except Exception as error:  # as above, and those of urllib and of a full disk
        reason = " ".join(str(error).split()) or type(error).__name__
    raise DataError(f"{absent} and could not be downloaded ({reason}): put its files there.")


def _check_unpacked(root: Path, split: str) -> None:
    """Raise unless ImageNet is unpacked: torchvision would unpack its archives as it opens them."""
    if not (root / "meta.bin").exists() or not (root / split).is_dir():
        raise DataError(
            f"ImageNet {split} is not unpacked in {root}: put its archives there and run without "
            "plan_only=true, which unpacks them."
        )


def _download(
    open_in: Callable[..., Any],
    root: Path,
    dataset: str,
) -> None:
    """Download and unpack into a folder inside `root`, then move the files to their places.

    A download that is cut short leaves nothing that could be taken for a whole data set.
    """
    root.mkdir(parents=True, exist_ok=True)
    partial_folder = unfinished(root / dataset)
    with FileLock(root / f".{dataset}.lock"):
        with suppress(Exception):
            open_in(root)  # another process downloaded it while this one waited
            return
        # Of a process that was killed: while we hold the lock, nobody else downloads.
        for leftover in root.glob(f".{dataset}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial_folder.mkdir()
            open_in(partial_folder, download=True)
            _move_into(partial_folder, root)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)


def _move_into(source: Path, target: Path) -> None:
    """Move what is in one folder into another: merge folders, replace files."""
    for path in source.iterdir():
        if path.is_dir() and (target / path.name).is_dir():
            _move_into(path, target / path.name)
        else:
            os.replace(path, target / path.name)


def _select_rows(
    dataset: str,
    split: str,
    count: int,
    limit: int | None,
) -> NDArray[np.int64]:
    """Return the rows of torchvision's set that are read, in their order."""
    rows = np.arange(count)
    if dataset in UNDIVIDED:
        if split not in ("train", "test"):
            raise DataError(
                f"{dataset} is split into train and test here, not {split!r}: choose one of them."
            )
        cut = round(UNDIVIDED[dataset] * count)
        # Shuffled, because the sets are sorted by class.
        shuffled = np.random.default_rng(0).permutation(count)
        rows = np.sort(shuffled[:cut] if split == "test" else shuffled[cut:])
    if limit is None:
        return rows
    return rows[np.random.default_rng(0).permutation(len(rows))[:limit]]


def _all_labels(opened: Any) -> Any:
    """Return the labels of a set without decoding an image, or None if it has no list of them."""
    for name in LABELS:
        if hasattr(opened, name):
            return getattr(opened, name)
    return None
