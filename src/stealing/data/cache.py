"""The cache of decoded images: a source is decoded once, into raw uint8 pixels and labels.

An entry of the cache is a folder with a checksum. It appears by one rename, so that a half-written
entry is never taken for a whole one.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from stealing.artefacts import unfinished
from stealing.errors import DataError, StorageError
from stealing.text import printable

Block = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Some images, uint8 (n, 3, size, size), and their labels (n,); -1 if the source has none."""

_MAY_WRITE = ContextVar("_MAY_WRITE", default=True)


@contextmanager
def without_writing() -> Iterator[None]:
    """Decode and download nothing in the body; images that are not in the cache are stand-ins."""
    token = _MAY_WRITE.set(False)
    try:
        yield
    finally:
        _MAY_WRITE.reset(token)


def may_write() -> bool:
    """Return False inside `without_writing`."""
    return _MAY_WRITE.get()


def is_decoded(pixels: NDArray[np.uint8]) -> bool:
    """Return False for the pixels of a stand-in."""
    # A stand-in repeats one black pixel: NumPy broadcasts it with strides of 0.
    return any(pixels.strides)


@dataclass(frozen=True)
class DecodedImages:
    """A decoded source.

    Attributes:
        pixels: uint8 (N, 3, size, size), a memory map.
        labels: int64 (N,).
        checksum: of both; empty for a stand-in.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    checksum: str


def load_or_decode(
    folder: str | Path,
    name: str,
    source: Mapping[str, object],
    count: int,
    size: int,
    blocks: Callable[[], Iterator[Block]],
    labels: Callable[[], NDArray[np.int64]] | None = None,
) -> DecodedImages:
    """Return the decoded images of a source; decode them first if they are not in the cache.

    Inside `without_writing` black images are returned instead of decoding.

    Args:
        folder: of the cache.
        name: start of the entry's name, also shown beside the progress bar.
        source: everything that decides the pixels, the labels and their order, as JSON values; its
            hash is in the entry's name.
        count: number of images that `blocks` yields in all.
        size: height and width in pixels.
        blocks: opens the source; called only if the cache has no entry.
        labels: returns only the labels, for a stand-in; None for a source without labels.

    Raises:
        DataError: The source cannot be decoded, or the entry was changed after it was made.
        StorageError: The entry cannot be written, as on a full disk.
    """
    identity = json.dumps({**source, "count": count, "size": size}, sort_keys=True, default=str)
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    entry = Path(folder) / f"{name}-{digest}"
    if not (entry / "meta.json").exists():
        if not may_write():
            return _stand_in(count, size, labels)
        try:
            _decode(entry, name, count, size, blocks)
        except OSError as error:  # of the cache's disk: a source's own files raise DataError
            raise StorageError(
                f"Decoded images cannot be written to {entry.parent} "
                f"({error.strerror or error}): make room, or set paths.cache to another disk."
            ) from None
    return _load(entry, count, size)


def _stand_in(
    count: int, size: int, labels: Callable[[], NDArray[np.int64]] | None
) -> DecodedImages:
    """Return black images that take no memory, with the source's labels."""
    black = np.broadcast_to(np.uint8(0), (count, 3, size, size))
    known = np.full(count, -1, np.int64) if labels is None else labels()
    return DecodedImages(black, known, "")


def _load(entry: Path, count: int, size: int) -> DecodedImages:
    """Map an entry of the cache into memory, and compare its checksum."""
    try:
        pixels = np.memmap(entry / "pixels.u8", np.uint8, "r", shape=(count, 3, size, size))
        labels = np.load(entry / "labels.npy")
        stored = json.loads((entry / "meta.json").read_text())["checksum"]
        is_whole = _checksum(pixels, labels) == stored
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise DataError(
            f"The cached images in {entry} were changed after decoding: "
            "delete that folder and run again."
        )
    return DecodedImages(pixels, labels, stored)


def _decode(
    entry: Path,
    name: str,
    count: int,
    size: int,
    blocks: Callable[[], Iterator[Block]],
) -> None:
    """Decode a source into a folder beside the entry, and rename it to the entry."""
    partial = unfinished(entry)
    partial.mkdir(parents=True)
    try:
        _reserve(partial / "pixels.u8", count * 3 * size * size)
        pixels = np.memmap(partial / "pixels.u8", np.uint8, "r+", shape=(count, 3, size, size))
        labels = np.full(count, -1, np.int64)
        _fill(pixels, labels, name, blocks())
        pixels.flush()
        np.save(partial / "labels.npy", labels)
        facts = {"checksum": _checksum(pixels, labels), "count": count}
        (partial / "meta.json").write_text(json.dumps(facts))
        # On the disk before the rename: a power cut must not leave a whole name on half a file.
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        try:
            partial.rename(entry)
        except OSError:
            # Another process may have made the same entry first. Its bytes are the same.
            if not (entry / "meta.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    name: str,
    blocks: Iterator[Block],
) -> None:
    """Copy the blocks of a source into `pixels` and `labels`, with a progress bar on a terminal."""
    count = len(labels)
    done = 0
    title = escape(printable(f"decoding {name}"))
    is_terminal = sys.stderr.isatty()
    for images, targets in track(
        blocks, title, console=Console(stderr=True), disable=not is_terminal
    ):
        end = done + len(images)
        if end <= count:
            pixels[done:end] = images
            labels[done:end] = targets
        done = end
    if done != count:
        raise DataError(
            f"{name} announced {count} images and held {done}: "
            "the source is cut short, fetch it again."
        )


def _reserve(path: Path, size: int) -> None:
    """Make a file whose bytes are allocated on the disk.

    Without allocation a full disk would kill the process as it writes to the memory map.
    """
    try:
        with path.open("wb") as handle:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, size)
            else:
                handle.truncate(size)
    except OSError as error:
        raise StorageError(
            f"{size / 2**20:.0f} MiB of decoded images do not fit in {path.parent.parent} "
            f"({error.strerror}): make room, or set paths.cache to another disk."
        ) from None


def _checksum(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    digest.update(labels.tobytes())
    return digest.hexdigest()
