"""torchvision's data sets: downloaded whole or not at all on first use, then opened as `Images`."""

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from filelock import FileLock
from numpy.typing import NDArray

from stealing.data.cache import Block, decoded
from stealing.data.decoding import BLOCK, checked, fit
from stealing.data.images import Images
from stealing.errors import DataError

CLASSES = {"STL10": 10, "SVHN": 10, "GTSRB": 43}
"""Of the sets whose torchvision class does not tell."""

UNDIVIDED = {"EuroSAT": 0.2}
"""Sets that come in one piece, and the share that a seeded permutation sets apart as `test`: ours, they have none."""


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
    """One of torchvision's own image classification data sets, downloaded when absent.

    Tested: CIFAR10, CIFAR100, MNIST, FashionMNIST, STL10, SVHN, GTSRB, Food101, EuroSAT, DTD, Flowers102, ImageNet.
    Most of those with image files are opened by torchvision in RGB, so that a grey file among them is repeated.

    Args:
        dataset: torchvision's name.
        root: folder of torchvision's files.
        split: as torchvision names it: `train`, `test`, `val`, `unlabeled`, `train+unlabeled`.
        size, cache, resize, grey: as for `stealing.data.sources.parquet`.
        limit: decode only the first of a seeded permutation, at most as many; None decodes all.

    Raises:
        DataError: the files are absent and cannot be fetched; an image is damaged or of another size.
    """
    kind = getattr(torchvision.datasets, dataset)
    opened = _opened(kind, dataset, Path(root), split)
    rows = _part(dataset, split, len(opened), limit)
    names = tuple(str(name) for name in getattr(opened, "classes", ()))
    classes = len(names) or CLASSES[dataset]
    labelled = "unlabeled" not in split

    def blocks() -> Iterator[Block]:
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK].tolist()
            places = [f"{dataset} {split} in {root}, row {row}" for row in some]
            pairs = [_item(opened, row, at) for row, at in zip(some, places, strict=True)]
            pixels = [fit(image, at, size, resize, grey) for (image, _), at in zip(pairs, places, strict=True)]
            labels = checked([label for _, label in pairs], classes, places) if labelled else np.full(len(some), -1)
            yield np.stack(pixels), labels

    name = f"{dataset.lower()}-{split}"
    source = {"root": str(Path(root).resolve()), "resize": resize, "grey": grey}
    whole = decoded(cache, name, source, len(rows), size, blocks)
    order = np.arange(len(rows))
    if not labelled:
        return Images(name, whole.pixels, None, 0, order, whole.checksum)
    return Images(name, whole.pixels, whole.labels, classes, order, whole.checksum, names)


def _opened(kind: Any, dataset: str, root: Path, split: str) -> Any:
    """The data set as torchvision opens it; what has to be fetched is fetched beside and moved in once it is whole."""
    options = inspect.signature(kind).parameters
    where: dict[str, Any] = {"train": split == "train"} if "train" in options else {}
    where |= {"split": split} if "split" in options else {}
    if "train" in options and split not in ("train", "test"):
        raise DataError(f"{dataset} has the splits train and test, not {split!r}: choose one of them.")
    open_in = partial(kind, **where)
    try:
        return open_in(root)
    except ImportError as error:
        raise DataError(f"{dataset} cannot be opened: {str(error).splitlines()[0]}; install what is missing.") from None
    except Exception as error:  # torchvision raises what pickle, tarfile and scipy raise
        why = " ".join(str(error).split())
    try:
        if "download" in options:
            _download(open_in, root, dataset)
            return open_in(root)
    except Exception as error:  # as above, and what urllib and a full disk raise
        why = " ".join(str(error).split()) or type(error).__name__
    tried = "could not be downloaded" if "download" in options else "is not to be had without an account"
    raise DataError(f"{dataset} {split} is not whole in {root} and {tried} ({why}): put its files there.")


def _download(open_in: Callable[..., Any], root: Path, dataset: str) -> None:
    """Fetch and unpack in a folder beside, then move in: what was cut short is never taken for the whole."""
    root.mkdir(parents=True, exist_ok=True)
    beside = root / f".{dataset}"
    with FileLock(root / f".{dataset}.lock"):  # of several that want it, the first fetches it
        with suppress(Exception):
            open_in(root)
            return
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir()
            open_in(beside, download=True)
            _move_into(beside, root)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _move_into(source: Path, target: Path) -> None:
    """Rename what is new as a whole, and replace what is there file by file."""
    for path in source.iterdir():
        if path.is_dir() and (target / path.name).is_dir():
            _move_into(path, target / path.name)
        else:
            os.replace(path, target / path.name)


def _part(dataset: str, split: str, count: int, limit: int | None) -> NDArray[np.int64]:
    """Which rows of the whole are read, in their order."""
    rows = np.arange(count)
    if dataset in UNDIVIDED:
        if split not in ("train", "test"):
            raise DataError(f"{dataset} is split into train and test here, not {split!r}: choose one of them.")
        cut = round(UNDIVIDED[dataset] * count)
        shuffled = np.random.default_rng(0).permutation(count)
        rows = np.sort(shuffled[:cut] if split == "test" else shuffled[cut:])
    return rows if limit is None else rows[np.random.default_rng(0).permutation(len(rows))[:limit]]


def _item(opened: Any, row: int, at: str) -> Any:
    try:
        return opened[row]
    except Exception:  # Pillow raises as many kinds as there are formats
        raise DataError(f"{at}: the image cannot be decoded; fetch it again or leave it out.") from None
