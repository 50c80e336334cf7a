"""Decode a source once: a folder of raw uint8 pixels, labels and a checksum goes in and out of the cache.

A cache entry is a folder that appears by one rename, so a half-written one is never taken for a whole one.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from stealing.errors import DataError

Block = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Some images, uint8 (n, 3, size, size), with as many labels (-1 where the source has none)."""


@dataclass(frozen=True)
class Decoded:
    """A source in memory-mapped form: pixels uint8 (N, 3, size, size), labels int64 (N,), and their checksum."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    checksum: str


def decoded(
    folder: str | Path,
    name: str,
    source: Mapping[str, object],
    count: int,
    size: int,
    blocks: Callable[[], Iterator[Block]],
) -> Decoded:
    """Return the cached decoding of a source, making it first where there is none.

    Args:
        folder: where cache entries live.
        name: readable start of the entry's name, also shown beside the progress bar.
        source: everything that decides the pixels; its hash names the entry.
        count: number of images that `blocks` yields in all.
        size: height and width in pixels.
        blocks: opens the source; called only where nothing is cached.

    Raises:
        DataError: the entry on disk was changed after it was made, or there is no room for it.
    """
    identity = json.dumps({**source, "count": count, "size": size}, sort_keys=True, default=str)
    entry = Path(folder) / f"{name}-{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}"
    if not (entry / "meta.json").exists():
        _make(entry, name, count, size, blocks)
    pixels = np.memmap(entry / "pixels.u8", np.uint8, "r", shape=(count, 3, size, size))
    labels = np.load(entry / "labels.npy")
    stored = json.loads((entry / "meta.json").read_text())["checksum"]
    if _checksum(pixels, labels) != stored:
        raise DataError(f"The cached images in {entry} were changed after decoding: delete that folder and run again.")
    return Decoded(pixels, labels, stored)


def _make(entry: Path, name: str, count: int, size: int, blocks: Callable[[], Iterator[Block]]) -> None:
    partial = entry.with_name(f"{entry.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _reserve(partial / "pixels.u8", count * 3 * size * size)
        pixels = np.memmap(partial / "pixels.u8", np.uint8, "r+", shape=(count, 3, size, size))
        labels, done = np.full(count, -1, np.int64), 0
        console = Console(stderr=True)
        for images, targets in track(blocks(), f"decoding {name}", console=console, disable=not sys.stderr.isatty()):
            pixels[done : done + len(images)], labels[done : done + len(images)] = images, targets
            done += len(images)
        if done != count:
            raise DataError(
                f"{name} announced {count} images and held {done}: the source is cut short, fetch it again."
            )
        pixels.flush()
        np.save(partial / "labels.npy", labels)
        (partial / "meta.json").write_text(json.dumps({"checksum": _checksum(pixels, labels), "count": count}))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        try:
            partial.rename(entry)
        except OSError:  # another process finished the same entry first: its bytes are the same
            if not (entry / "meta.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reserve(path: Path, size: int) -> None:
    """Make a file of this many bytes that are really there: a map into a hole on a full disk kills the process."""
    try:
        with path.open("wb") as handle:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, size)
            else:
                handle.truncate(size)
    except OSError as error:
        raise DataError(
            f"{size / 2**20:.0f} MiB of decoded images do not fit in {path.parent.parent} ({error.strerror}): "
            "make room, or set paths.cache to another disk."
        ) from None


def _checksum(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    digest.update(labels.tobytes())
    return digest.hexdigest()
