"""The bank: answers copied out of the ledger into files that are written once and read as memory maps.

It is a cache: what it lacks is copied again, so deleting it loses nothing. A shard is two files, sorted digests and
their features, and is there from the moment that the index names it.

Shape letters: B images, N rows of a shard, D feature width.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.artefacts import claim, write_whole

DIGEST = np.dtype("S16")
BLOCK = 512
"""Rows that are looked up at a time: each brings the pages around it into memory."""

LARGE = 2**24
"""Bytes of a shard from which on pages that were read are let go at once, so that memory does not fill with them."""

Features = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """What the index says of one: its files' name, N, D and the type of its numbers."""

    name: str
    rows: int
    width: int
    precision: str


class Bank:
    """Answers of one source.

    Args:
        folder: its shards.
        identity: of the ledger that they are copied from; those of another are passed over.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self._open()

    def has(self, digests: Sequence[bytes]) -> NDArray[np.bool_]:
        """For each of B images, whether its answer is here."""
        return self._find(digests)[0] >= 0

    def read(self, digests: Sequence[bytes]) -> Tensor:
        """Answers (B, D), float32, in the order asked for; all must be here."""
        return torch.from_numpy(_gathered(self._features, *self._find(digests), np.dtype(np.float32)))

    def add(self, digests: Sequence[bytes], features_BD: Tensor) -> None:
        """Write answers as a new shard, but those that another process wrote meanwhile.

        A shard that is no larger than all after it becomes one with them: so N images lie in log N shards, and were
        each written log N times.
        """
        with claim(self.folder, patient=True):
            self._open()
            new = ~self.has(digests)
            if not new.any():
                return
            keys = [*self._keys, np.frombuffer(b"".join(digests), DIGEST)[new]]
            features = [*self._features, features_BD.numpy()[new]]
            after = np.cumsum([len(rows) for rows in keys[::-1]])[::-1]
            first = next(
                place for place, rows in enumerate(keys) if 2 * len(rows) <= after[place] or len(keys) == place + 1
            )
            self._publish([*self._shards[:first], self._write(keys[first:], features[first:])])
            self._open()
            kept = {self._path(shard, kind) for shard in self._shards for kind in ("digests", "features")}
            for path in self.folder.iterdir():
                if path.suffix in (".digests", ".features") and path not in kept:
                    path.unlink()

    def _open(self) -> None:
        """Read the index; one that is damaged, of another ledger, or names files that are not whole, is no index."""
        self._shards, self._keys, self._features = list[Shard](), list[NDArray[np.bytes_]](), list[Features]()
        try:
            index = json.loads((self.folder / "index.json").read_text())
            shards = [Shard(**shard) for shard in index["shards"]] if index["ledger"] == self.identity else []
            keys = [np.fromfile(self._path(shard, "digests"), DIGEST) for shard in shards]
            features = [
                np.memmap(self._path(shard, "features"), shard.precision, "r", shape=(shard.rows, shard.width))
                for shard in shards
            ]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if all(len(rows) == shard.rows for rows, shard in zip(keys, shards, strict=True)):
            self._shards, self._keys, self._features = shards, keys, list(features)

    def _find(self, digests: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard of each digest, or -1, and its row there."""
        wanted = np.frombuffer(b"".join(digests), DIGEST)
        shards, rows = np.full(len(wanted), -1), np.zeros(len(wanted), np.int64)
        for number, keys in enumerate(self._keys):
            places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            here = keys[places] == wanted
            shards[here], rows[here] = number, places[here]
        return shards, rows

    def _write(self, keys: list[NDArray[np.bytes_]], features: list[Features]) -> Shard:
        """Write the files of one shard with all these rows, flushed, which no index names yet."""
        joined, name = np.concatenate(keys), os.urandom(8).hex()
        order = np.argsort(joined)
        numbers = np.repeat(np.arange(len(keys)), [len(rows) for rows in keys])[order]
        rows = np.concatenate([np.arange(len(rows)) for rows in keys])[order]
        precision = np.result_type(*(part.dtype for part in features))
        with (self.folder / f"{name}.digests").open("wb") as file:
            _flushed(file, joined[order].tobytes())
        with (self.folder / f"{name}.features").open("wb") as file:
            for start in range(0, len(rows), BLOCK):
                block = slice(start, start + BLOCK)
                file.write(_gathered(features, numbers[block], rows[block], precision).tobytes())
            _flushed(file, b"")
        return Shard(name, len(rows), features[-1].shape[1], str(precision))

    def _publish(self, shards: list[Shard]) -> None:
        index = {"ledger": self.identity, "shards": [asdict(shard) for shard in shards]}
        write_whole(self.folder / "index.json", json.dumps(index, indent=1).encode())

    def _path(self, shard: Shard, kind: str) -> Path:
        return self.folder / f"{shard.name}.{kind}"


def _gathered(
    features: list[Features], shards: NDArray[np.int64], rows: NDArray[np.int64], precision: np.dtype[Any]
) -> Features:
    """One row of one shard for each of B places, (B, D)."""
    out = np.empty((len(rows), features[0].shape[1]), precision)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        for number in np.unique(shards[block]):
            of_it, shard = shards[block] == number, features[number]
            out[block][of_it] = shard[rows[block][of_it]]
            if shard.nbytes > LARGE and isinstance(shard.base, mmap):
                shard.base.madvise(MADV_DONTNEED)  # what was read stays in the system's cache of the file
    return out


def _flushed(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
