"""The Parquet files of one split in; their images and labels, or an error, out.

Files are read as they are, or refused: a corrected file would be a task of other images or labels.

Shape letters: N rows of all files.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stealing.data.labels import read_labels
from stealing.data.parquet import check_image_column, encoded_images, open_table, read_batches
from stealing.errors import DataError

SHARED = 0.05
"""From this share of images that another file has too, a file counts as a copy of its rows."""

NUMBERED = re.compile(r"(?P<set>.+)-(?P<number>\d+)-of-(?P<total>\d+)")
"""The name of a shard with its number and the number of all shards, as on the hub."""


@dataclass(frozen=True)
class Shards:
    """The files of one split, in order.

    Attributes:
        files: paths.
        tables: the opened files.
        labels: int64 (N,); -1 for a row without a label.
        class_names: by label, or empty if the files do not name them.
        unlabelled: why the split has no labels; empty if each row has one.
    """

    files: list[Path]
    tables: list[pq.ParquetFile]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    unlabelled: str

    @property
    def classes(self) -> int:
        """Number of classes, 0 without labels."""
        if self.unlabelled:
            return 0
        return len(self.class_names) or int(self.labels.max()) + 1

    def images(self, size: int) -> Iterator[tuple[list[bytes], list[str]]]:
        """Yield encoded images, at most `size` at a time, and the file and row of each.

        Raises:
            DataError: An image is absent, a file is damaged, or two files have the same rows.
        """
        copies = _CopyDetector()
        for file, table in zip(self.files, self.tables, strict=True):
            row = 0
            for batch in read_batches(file, table, size, ["image"]):
                places = [f"{file}, row {row + place}" for place in range(batch.num_rows)]
                encoded = encoded_images(batch.column(0), places)
                if len(self.files) > 1:  # within one file, equal images may be meant
                    copies.count(file, encoded)
                yield encoded, places
                row += len(encoded)
            copies.check(file)


def open_shards(path: Path, split: str) -> Shards:
    """Open a file, or all shards of a split in a folder.

    Args:
        path: a `.parquet` file, or a folder that holds `<split>.parquet` or shards named
            `<split>-*.parquet`.
        split: ignored for a single file.

    Raises:
        DataError: Files are absent; shards are missing or do not belong together; the schema is
            another; there are no rows; or a label is not a class. The message has file and row.
    """
    files = [path] if path.is_file() else _find_files(path, split)
    tables = [open_table(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        check_image_column(file, table.schema_arrow)
    count = sum(table.metadata.num_rows for table in tables)
    if count == 0:
        raise DataError(f"{files[0]} has no rows: fetch it again, or name another.")
    for file, table in zip(files, tables, strict=True):
        columns = table.schema_arrow.names
        if "label" not in columns:
            reason = f"{file} has no column 'label' among {', '.join(columns)}"
            return Shards(files, tables, np.full(count, -1), (), reason)
    by_file, names = read_labels(list(zip(files, tables, strict=True)))
    labels = np.concatenate(by_file)
    for file, labels_n in zip(files, by_file, strict=True):
        if (labels_n < 0).any():
            row = int(np.argmin(labels_n))
            reason = f"the label of {file}, row {row}, is -1 or null"
            return Shards(files, tables, labels, (), reason)
    return Shards(files, tables, labels, names, "")


def _find_files(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split by name, all of one set and none missing."""
    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    if not files:
        raise DataError(
            f"There is no {split}.parquet (or {split}-*.parquet) in {folder}: "
            "put the data there, or point STEALING_DATA or data.root at the folder that holds it "
            "(sources are named in README.md, 'Images')."
        )
    first = _set_of(files[0])
    numbers = set[int]()
    for file in files:
        if _set_of(file) != first:
            raise DataError(
                f"{files[0]} and {file} are not shards of one set: "
                "keep one of the sets in that folder."
            )
        match = NUMBERED.fullmatch(file.stem)
        if match is not None:
            numbers.add(int(match["number"]))
    if first is not None:
        name, total = first
        for number in range(int(total)):
            if number not in numbers:
                file = folder / f"{name}-{number:05d}-of-{int(total):05d}.parquet"
                raise DataError(f"Shard {number} of {int(total)} is missing: fetch {file}.")
    return files


def _set_of(file: Path) -> tuple[str, str] | None:
    """Return the name of a shard's set and how many shards it has, or None for another name."""
    match = NUMBERED.fullmatch(file.stem)
    return (match["set"], match["total"]) if match is not None else None


class _CopyDetector:
    """Finds a shard that is there twice, or one that is made of rows of another."""

    def __init__(self) -> None:
        # The first file of each image, by the image's digest.
        self._first = dict[bytes, Path]()
        # How many images of the present file each file before it has.
        self._shared = Counter[Path]()
        self._rows = 0

    def count(self, file: Path, encoded: Sequence[bytes]) -> None:
        """Count some rows of a file."""
        for image in encoded:
            digest = hashlib.blake2b(image, digest_size=8).digest()
            first = self._first.setdefault(digest, file)
            if first != file:
                self._shared[first] += 1
        self._rows += len(encoded)

    def check(self, file: Path) -> None:
        """Compare a file with those before it, after all of its rows are counted.

        Raises:
            DataError: Another file has more than a few of its images.
        """
        for other, count in self._shared.most_common(1):
            if count >= SHARED * self._rows:
                raise DataError(
                    f"{count} of the {self._rows} images of {file} are in {other} too: "
                    "take one of the two away "
                    "(or write them as one file, if images are meant to be there twice)."
                )
        self._shared.clear()
        self._rows = 0
