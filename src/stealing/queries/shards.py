"""The files of a bank: answers in, files that are written once and compared on reading out.

A shard is a file of sorted digests, each with a checksum of its row, and a file of the rows.

Shape letters: B images, N rows of a shard, D feature width.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stealing.artefacts import read_sealed
from stealing.errors import DamageError

DIGEST = np.dtype("S16")

ENTRY = np.dtype([("digest", DIGEST), ("checksum", "<u4")])
"""What a file of digests holds of each row. The checksum is CRC-32, the fastest in the library."""

BLOCK = 512
"""Rows that are looked up at a time: each brings the pages around it into memory."""

LARGE = 2**24
"""Bytes of a shard from which on pages are released after reading, so that memory does not fill."""

Features = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """One entry of the index.

    Attributes:
        name: of both files, without what follows the dot.
        rows: N.
        width: D.
        precision: type of its numbers.
        checksum: hash of the file of digests.
    """

    name: str
    rows: int
    width: int
    precision: str
    checksum: str

    def path(self, folder: Path, kind: str) -> Path:
        """Return its file of `digests` or `features`."""
        return folder / f"{self.name}.{kind}"


@dataclass(frozen=True)
class OpenShard:
    """A shard with its digests in memory and its rows mapped.

    Attributes:
        shard: as in the index.
        path: of the rows.
        digests: sorted, (N,).
        checksums: of the rows, uint32 (N,).
        features: (N, D).
    """

    shard: Shard
    path: Path
    digests: NDArray[np.bytes_]
    checksums: NDArray[np.uint32]
    features: Features


class DamagedShard(DamageError):
    """A shard that is not as it was written.

    Args:
        path: the damaged file.
        name: of the shard.
    """

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(f"{path} is not as it was written (checksum).")
        self.name = name


def read_index(folder: Path, identity: str) -> list[Shard]:
    """Return the shards that a bank's index names.

    There are none if the index is absent, of an earlier version or of another ledger.

    Raises:
        DamageError: the index was changed after it was written.
    """
    if not (folder / "index.json").exists():
        return []
    index = read_sealed(folder / "index.json")
    if index.get("ledger") != identity:
        return []
    try:
        return [Shard(**shard) for shard in index["shards"]]
    except (KeyError, TypeError):  # of an earlier version, which stored no checksums
        return []


def open_shard(folder: Path, shard: Shard) -> OpenShard:
    """Read the digests of one shard and map its rows.

    Raises:
        DamagedShard: a file is not whole.
        FileNotFoundError: a file is not there.
    """
    path = shard.path(folder, "digests")
    content = path.read_bytes()
    if hash_of(content) != shard.checksum:
        raise DamagedShard(path, shard.name)
    entries = np.frombuffer(content, ENTRY)
    path = shard.path(folder, "features")
    if path.stat().st_size != shard.rows * shard.width * np.dtype(shard.precision).itemsize:
        raise DamagedShard(path, shard.name)
    return OpenShard(
        shard,
        path,
        np.ascontiguousarray(entries["digest"]),
        np.ascontiguousarray(entries["checksum"]),
        np.memmap(path, shard.precision, "r", shape=(shard.rows, shard.width)),
    )


def shard_in_memory(digests: NDArray[np.bytes_], features_BD: Features) -> OpenShard:
    """Return new rows as a shard that has no files yet; its digests need not be sorted."""
    shard = Shard("", len(digests), features_BD.shape[1], str(features_BD.dtype), "")
    return OpenShard(shard, Path(), digests, row_checksums(features_BD), features_BD)


def join_shards(folder: Path, parts: list[OpenShard]) -> Shard:
    """Write the files of one shard with all rows of the parts; no index names it yet.

    The checksum of each row is compared, and written again with the row.

    Raises:
        DamagedShard: a row of a part is not as it was written.
    """
    digests = np.concatenate([part.digests for part in parts])
    order = np.argsort(digests)  # for binary search
    counts = [len(part.digests) for part in parts]
    part_of_row = np.repeat(np.arange(len(parts)), counts)[order]
    row_in_part = np.concatenate([np.arange(count) for count in counts])[order]
    precision = np.result_type(*(part.features.dtype for part in parts))
    is_copied = all(part.features.dtype == precision for part in parts)
    width = parts[-1].features.shape[1]
    entries = np.empty(len(digests), ENTRY)
    entries["digest"] = digests[order]
    checksums = np.concatenate([part.checksums for part in parts])
    entries["checksum"] = checksums[order]
    shard = Shard(os.urandom(8).hex(), len(digests), width, str(precision), "")
    with shard.path(folder, "features").open("wb") as file:
        for start in range(0, len(digests), BLOCK):
            block = slice(start, start + BLOCK)
            rows_BD = gather_rows(parts, part_of_row[block], row_in_part[block], precision)
            if not is_copied:  # other numbers than those that the checksums are of
                entries["checksum"][block] = row_checksums(rows_BD)
            file.write(rows_BD.tobytes())
        _flush(file)
    content = entries.tobytes()
    with shard.path(folder, "digests").open("wb") as file:
        file.write(content)
        _flush(file)
    return replace(shard, checksum=hash_of(content))


def gather_rows(
    parts: Sequence[OpenShard],
    shards_B: NDArray[np.int64],
    rows_B: NDArray[np.int64],
    precision: np.dtype[Any],
) -> Features:
    """Return the given row of the given shard for each of B images, (B, D).

    Raises:
        DamagedShard: a row is not as it was written.
    """
    out_BD = np.empty((len(rows_B), parts[0].features.shape[1]), precision)
    for start in range(0, len(rows_B), BLOCK):
        block = slice(start, start + BLOCK)
        for number in np.unique(shards_B[block]):
            part = parts[number]
            is_of_part = shards_B[block] == number
            wanted = rows_B[block][is_of_part]
            rows = part.features[wanted]
            # only the rows that are used: to compare a whole shard would read all of it
            is_file = isinstance(part.features, np.memmap)
            if is_file and not np.array_equal(row_checksums(rows), part.checksums[wanted]):
                raise DamagedShard(part.path, part.shard.name)
            out_BD[block][is_of_part] = rows
            _release_pages(part)
    return out_BD


def _release_pages(part: OpenShard) -> None:
    """Release the pages of a large shard; the system still caches the file."""
    memory = part.features.base
    if part.features.nbytes > LARGE and isinstance(memory, mmap):
        memory.madvise(MADV_DONTNEED)


def find_damage(folder: Path, identity: str) -> list[str]:
    """Read all of a bank and return what is damaged, one sentence each."""
    try:
        shards = read_index(folder, identity)
    except DamageError as damage:
        return [str(damage)]
    sentences = list[str]()
    for shard in shards:
        try:
            part = open_shard(folder, shard)
            for start in range(0, shard.rows, BLOCK):
                rows = np.arange(start, min(start + BLOCK, shard.rows))
                gather_rows([part], np.zeros_like(rows), rows, part.features.dtype)
        except DamagedShard as damage:
            sentences.append(str(damage))
        except FileNotFoundError as absent:
            sentences.append(f"{absent.filename} does not exist.")
    return sentences


def row_checksums(rows_BD: Features) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row, (B,)."""
    return np.array([zlib.crc32(row) for row in np.ascontiguousarray(rows_BD)], np.uint32)


def hash_of(content: bytes) -> str:
    """Return the hash of a file of digests, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _flush(file: BinaryIO) -> None:
    # on the disk before the index names the file
    file.flush()
    os.fsync(file.fileno())
