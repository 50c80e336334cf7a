"""The bank: answers in, the same answers out, in files that are read as memory maps.

The bank is a cache of the ledger: what it lacks is copied again, so deleting it loses nothing. A
shard is two files and exists from the moment that the index names it. The index holds a checksum
of itself and of each file of digests, and that file holds a checksum of each row. All are compared
on reading; of the rows, those that are read. A damaged shard is dropped, and its answers are copied
from the ledger again.

Shape letters: B images, M of them that are here, N rows of a shard, D feature width.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.artefacts import claim, write_sealed
from stealing.errors import DamageError
from stealing.queries.shards import (
    DIGEST,
    DamagedShard,
    OpenShard,
    Shard,
    gather_rows,
    join_shards,
    open_shard,
    read_index,
    shard_in_memory,
)

WORTH_A_SHARD = 500
"""Images from which on answers are written into a bank.

Fewer answers stay out of the bank: a few at a time would make many small files.
"""

PAGE = 10_000
"""Answers written into a bank at a time."""

PRECISION = np.dtype(np.float32)
"""Type of the numbers that are returned."""


class Bank:
    """Answers of one source.

    Args:
        folder: its shards.
        identity: of the ledger that they are copied from; shards of another ledger do not count.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        self._shards = list[OpenShard]()
        self._reported = set[str]()
        self._open()

    def has(self, digests: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return for each of B images whether its answer is here."""
        shards_B, _ = self._locate(digests)
        return shards_B >= 0

    def read(self, digests: Sequence[bytes]) -> Tensor:
        """Return answers (B, D), float32, in the order asked for; all must be here.

        Raises:
            DamageError: one is not as it was written.
        """
        shards_B, rows_B = self._locate(digests)
        return torch.from_numpy(gather_rows(self._shards, shards_B, rows_B, PRECISION))

    def find(self, digests: Sequence[bytes]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return the answers (M, D), float32, that are here, and for which of B images, (B,).

        A damaged shard is dropped and reported.
        """
        while True:
            shards_B, rows_B = self._locate(digests)
            is_here = shards_B >= 0
            if not is_here.any():
                return torch.empty(0, 0), is_here
            try:
                answers = gather_rows(self._shards, shards_B[is_here], rows_B[is_here], PRECISION)
            except DamagedShard as damage:
                with claim(self.folder, patient=True):
                    self._drop(damage)
            else:
                return torch.from_numpy(answers), is_here

    def add(self, digests: Sequence[bytes], features_BD: Tensor) -> None:
        """Write answers as a new shard, except those that another process wrote meanwhile.

        A shard that is no larger than all after it is joined with them. So N images are in log N
        shards, and each is written log N times.
        """
        with claim(self.folder, patient=True):
            self._open()  # another process may have written since
            is_new = ~self.has(digests)
            if not is_new.any():
                return
            new_digests = np.frombuffer(b"".join(digests), DIGEST)[is_new]
            added = shard_in_memory(new_digests, features_BD.numpy()[is_new])
            while True:
                parts = [*self._shards, added]
                first = _first_to_join(parts)
                try:
                    joined = join_shards(self.folder, parts[first:])
                    break
                except DamagedShard as damage:
                    # damaged rows must not be written again under checksums that fit them
                    self._drop(damage)
            self._publish([*(part.shard for part in self._shards[:first]), joined])
            self._open()

    def _open(self) -> None:
        """Open the shards that the index names, except damaged ones."""
        self._shards = []
        try:
            shards = read_index(self.folder, self.identity)
        except DamageError as damage:
            self._report(damage)
            shards = []
        for shard in shards:
            try:
                self._shards.append(open_shard(self.folder, shard))
            except DamagedShard as damage:
                self._report(damage)
            except FileNotFoundError:  # another process has just joined it with others
                continue

    def _drop(self, damage: DamagedShard) -> None:
        """Take a shard out of the index; the caller has claimed the folder."""
        self._report(damage)
        self._open()
        self._shards = [part for part in self._shards if part.shard.name != damage.name]
        self._publish([part.shard for part in self._shards])

    def _report(self, damage: DamageError) -> None:
        """Print what is damaged, once: a damaged file is opened again before it is replaced."""
        text = str(damage)
        if text not in self._reported:
            self._reported.add(text)
            line = f"{text.rstrip('.')}: its answers are copied again."
            print(line, file=sys.stderr, flush=True)

    def _locate(self, digests: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shard of each digest, or -1, and its row there, both (B,)."""
        wanted = np.frombuffer(b"".join(digests), DIGEST)
        shards_B = np.full(len(wanted), -1)
        rows_B = np.zeros(len(wanted), np.int64)
        for number, part in enumerate(self._shards):
            rows = np.searchsorted(part.digests, wanted).clip(max=len(part.digests) - 1)
            is_here = part.digests[rows] == wanted
            shards_B[is_here] = number
            rows_B[is_here] = rows[is_here]
        return shards_B, rows_B

    def _publish(self, shards: list[Shard]) -> None:
        """Write the index, and remove the files that it does not name."""
        index = {"ledger": self.identity, "shards": [asdict(shard) for shard in shards]}
        # the index first: it must never name a file that is gone
        write_sealed(self.folder / "index.json", index)
        in_index = set[Path]()
        for shard in shards:
            in_index.add(shard.path(self.folder, "digests"))
            in_index.add(shard.path(self.folder, "features"))
        for path in self.folder.iterdir():
            if path.suffix in (".digests", ".features") and path not in in_index:
                path.unlink()


def _first_to_join(parts: list[OpenShard]) -> int:
    """Return the first shard that is no larger than all after it; the last if there is none."""
    counts = [len(part.digests) for part in parts]
    for place, count in enumerate(counts[:-1]):
        if count <= sum(counts[place + 1 :]):
            return place
    return len(counts) - 1
