"""One Parquet file, opened and read; errors name the file and the row."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stealing.errors import DataError

LARGEST_TEXT = 16 * 2**20
"""Bytes of one text in a file's metadata; Arrow needs ten times as much memory for it."""

POINTER = b"version https://git-lfs"
"""Beginning of the file that Git LFS leaves in place of one that was not fetched."""


def open_table(file: Path) -> pq.ParquetFile:
    """Open one Parquet file.

    Raises:
        DataError: It is absent, empty, a pointer of Git LFS, or not Parquet; or two of its columns
            have one name.
    """
    try:
        # Reading a pipe or a device may never end.
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is not a Parquet file (it is not a file): name one.")
        with file.open("rb") as handle:
            start = handle.read(len(POINTER))
        if start == POINTER:
            raise DataError(
                f"{file} is a pointer of Git LFS and not the file itself: fetch it by git lfs pull."
            )
        if not start:
            raise DataError(f"{file} is empty, 0 bytes: fetch it again.")
        table = pq.ParquetFile(file, thrift_string_size_limit=LARGEST_TEXT)
        names = table.schema_arrow.names  # a schema that Arrow cannot express fails only here
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} is not a Parquet file ({_reason(error)}): name one, or fetch it again."
        ) from None
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{file} has two columns {name!r}: keep one of them.")
    return table


def read_batches(
    file: Path, table: pq.ParquetFile, size: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a table, at most `size` rows at a time.

    Raises:
        DataError: The rest of the file is damaged; with the first row that cannot be read.
    """
    row = 0
    try:
        for batch in table.iter_batches(size, columns=list(columns)):
            yield batch
            row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} cannot be read from row {row} on ({_reason(error)}): fetch it again."
        ) from None


def check_image_column(file: Path, schema: pa.Schema) -> None:
    """Refuse a table without encoded images.

    An image is plain bytes, or a struct with a field `bytes`, as the hub writes it.

    Raises:
        DataError: With the columns, or the type of the column.
    """
    if "image" not in schema.names:
        raise DataError(
            f"{file} has no column 'image' among {', '.join(schema.names)}: "
            "save it in the hub's image schema."
        )
    kind = schema.field("image").type
    content: pa.DataType | None = kind
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        content = kind.field(place).type if place >= 0 else None
    if content is None or not _is_binary(content):
        raise DataError(
            f"{file} has a column 'image' of {kind}, and an image is bytes, alone or in a struct's "
            "field 'bytes': save it in the hub's image schema."
        )


def _is_binary(kind: pa.DataType) -> bool:
    """Return True for bytes, and for a column of nulls, whose rows are refused one by one."""
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_bytes or pa.types.is_null(kind))


def encoded_images(column: Any, places: Sequence[str]) -> list[bytes]:
    """Return the encoded image of each row.

    Args:
        column: an array of Arrow, of a type that `check_image_column` accepts.
        places: file and row of each image, for messages.

    Raises:
        DataError: A row has no image.
    """
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if values.null_count:
        at = places[values.is_null().index(True).as_py()]
        raise DataError(
            f"{at}: the image is null or has no bytes (a path without bytes is not followed); "
            "write the image into the file, or leave the row out."
        )
    encoded: list[bytes] = values.to_pylist()
    return encoded


def _reason(error: Exception) -> str:
    """Return the message of the operating system or of Arrow, in one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
    return " ".join(message.split()).rstrip(".")
