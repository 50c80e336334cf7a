"""Recorded answers: a Parquet file of images or digests with vectors in, rows of a ledger out."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from stealing.data.decoding import decode
from stealing.data.parquet import check_image_column, encoded_images, open_table, read_batches
from stealing.errors import DataError
from stealing.queries.answers import checksum
from stealing.queries.database import Execute
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger

ACCOUNT = "recorded"

SOURCE = ("target", "defense", "account", "codec", "repeat")
"""Columns of an export that distinguish several answers to one image."""

DIGEST = 16
"""Bytes of an image's digest."""

PAGE = 1000
"""Rows in memory at a time."""


def source_name(name: str) -> str:
    """Return the target's name in the ledger for a recording."""
    return f"recording/{name}"


@dataclass(frozen=True)
class Answer:
    """One row of a recording.

    Attributes:
        at: file and row, for messages.
        digest: of the image.
        size: height and width of the image.
        vector: float32 (D,), finite.
    """

    at: str
    digest: bytes
    size: int
    vector: NDArray[np.float32]


def record(
    ledger: Ledger,
    path: Path,
    name: str,
    size: int | None,
    chosen: Mapping[str, str | int] | None = None,
) -> int:
    """Write the answers of a file into the ledger, as those of a target; return their number.

    Args:
        ledger: gets all of the file, or nothing.
        path: Parquet with a column `vector`, and a column `image` (a file's bytes, or a struct with
            `bytes`) or, as in an export, `digest` and `size`.
        name: of the recording, which becomes the target's name.
        size: height and width of the images, if the file holds images.
        chosen: values of `SOURCE`, by column: only these rows of an export are read.

    Raises:
        DataError: the file is not one of these, its answers are not one vector an image, or there
            is a recording of this name; the message names the row.
    """
    table = open_table(path)
    _check_columns(path, table.schema_arrow, size)
    only = _one_source(path, table, chosen or {})
    if ledger.was_asked(source_name(name)):
        raise DataError(f"There is a recording {name} already: choose another name.")
    first: Answer | None = None
    known: dict[bytes, tuple[str, bytes]] = {}  # row and checksum by image
    now = ledger.database.now()
    # one transaction: an error in the last row leaves nothing of the file behind
    with ledger.database.transaction() as execute:
        for answer in _answers(path, table, size, only):
            if first is None:
                first = answer
                source, request = _add_source(execute, name, answer)
            _check_shape(answer, first)
            content = answer.vector.tobytes()
            proof = checksum(answer.digest, content)
            if answer.digest not in known:  # an image may stand in several rows
                known[answer.digest] = (answer.at, proof)
                _add_answer(execute, (source, answer.digest, request, content, proof, now))
            at, first_proof = known[answer.digest]
            if proof != first_proof:
                raise DataError(
                    f"{answer.at} and {at} are two answers to one image: keep one of them."
                )
    if first is None:
        raise DataError(f"{path} has no rows: name a file with answers.")
    return len(known)


def _check_columns(path: Path, schema: pa.Schema, size: int | None) -> None:
    """Raise unless there are vectors, and images or their digests and sizes."""
    columns = set(schema.names)
    if "vector" not in columns or not ("image" in columns or {"digest", "size"} <= columns):
        raise DataError(
            f"{path} needs a column vector, and a column image or the columns digest and size: "
            "add them."
        )
    kind = schema.field("vector").type
    if not _is_list_of_numbers(kind):
        raise DataError(
            f"{path} has a column vector of {kind}: write each vector as a list of numbers."
        )
    if "image" in columns:
        check_image_column(path, schema)
        if size is None:
            raise DataError(f"{path} holds images: give their height and width by --size.")
        return
    if size is not None:
        raise DataError(f"{path} holds digests, and the sizes of their images: leave --size out.")
    kind = schema.field("digest").type
    if not _is_bytes(kind):
        raise DataError(f"{path} has a column digest of {kind}: write it as 16 bytes.")
    kind = schema.field("size").type
    if not pa.types.is_integer(kind):
        raise DataError(f"{path} has a column size of {kind}: write it as whole numbers.")


def _is_list_of_numbers(kind: Any) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list:
        return False
    number = kind.value_type
    return bool(pa.types.is_floating(number) or pa.types.is_integer(number))


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _one_source(
    path: Path, table: pq.ParquetFile, chosen: Mapping[str, str | int]
) -> dict[str, Any]:
    """Return the one value that each column of `SOURCE` has in the chosen rows of an export.

    Returns:
        Values by column; nothing for a file that is not an export.

    Raises:
        DataError: the chosen rows are of several sources, or there are none.
    """
    names = table.schema_arrow.names
    columns = list[str]()
    if "image" not in names:
        columns = [name for name in SOURCE if name in names]
    for name in chosen:
        if name not in columns:
            raise DataError(
                f"{path} has no column {name} to choose by, as an export has: leave --{name} out."
            )
    if not columns:
        return {}
    sources = set[tuple[Any, ...]]()
    for batch in read_batches(path, table, PAGE, columns):
        parts = [_values(path, batch, name) for name in columns]
        sources.update(zip(*parts, strict=True))
    for name, value in chosen.items():
        place = columns.index(name)
        existing = _listed(source[place] for source in sources)
        sources = {source for source in sources if source[place] == value}
        if not sources:
            raise DataError(
                f"{path} has no such answers with {name} {value}, only {existing}: "
                "choose among these."
            )
    for place, name in enumerate(columns):
        values = {source[place] for source in sources}
        if len(values) > 1:
            raise DataError(
                f"{path} has answers of several {name}s, {_listed(values)}: choose one by --{name}."
            )
    if not sources:  # the file has no rows
        return {}
    return dict(zip(columns, sources.pop(), strict=True))


def _values(path: Path, batch: pa.RecordBatch, name: str) -> list[Any]:
    """Return a column's text or numbers."""
    column = batch.column(name)
    try:
        if not pa.types.is_nested(column.type):
            return column.to_pylist()
    except UnicodeDecodeError:
        pass
    raise DataError(
        f"{path} has a column {name} that is neither text nor numbers: "
        "write it as an export has it."
    )


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted({repr(value) for value in values}))


def _answers(
    path: Path, table: pq.ParquetFile, size: int | None, only: Mapping[str, Any]
) -> Iterator[Answer]:
    """Yield the answers of these rows in order.

    Raises:
        DataError: an image, a digest or a vector is invalid; the message names its row.
    """
    image_columns = ["digest", "size"] if size is None else ["image"]
    start = 0
    for batch in read_batches(path, table, PAGE, ["vector", *image_columns, *only]):
        rows = _matching_rows(path, batch, only)
        places = [f"{path}, row {start + row}" for row in rows]
        start += batch.num_rows
        batch = batch.take(pa.array(rows, pa.int64()))
        lists = batch.column("vector").to_pylist()
        vectors = [_vector(numbers, at) for numbers, at in zip(lists, places, strict=True)]
        image_digests, sizes = _images(batch, places, size)
        yield from map(Answer, places, image_digests, sizes, vectors)


def _matching_rows(path: Path, batch: pa.RecordBatch, only: Mapping[str, Any]) -> list[int]:
    """Return the rows whose columns have these values."""
    rows = list(range(batch.num_rows))
    for name, value in only.items():
        values = _values(path, batch, name)
        rows = [row for row in rows if values[row] == value]
    return rows


def _images(
    batch: pa.RecordBatch, places: list[str], size: int | None
) -> tuple[list[bytes], list[int]]:
    """Return the digest and the size of each row's image."""
    if size is None:
        return _digests_in_file(batch, places)
    images = list[NDArray[np.uint8]]()
    files = encoded_images(batch.column("image"), places)
    for file, at in zip(files, places, strict=True):
        images.append(decode(file, at, size, "none", "refuse"))
    if not images:
        return [], []
    return digests(torch.from_numpy(np.stack(images))), [size] * len(images)


def _digests_in_file(batch: pa.RecordBatch, places: list[str]) -> tuple[list[bytes], list[int]]:
    """Return the columns `digest` and `size`, checked."""
    image_digests: list[Any] = batch.column("digest").to_pylist()
    sizes: list[Any] = batch.column("size").to_pylist()
    for digest, size, at in zip(image_digests, sizes, places, strict=True):
        is_digest = digest is not None and len(digest) == DIGEST
        if not is_digest or size is None or size < 1:
            raise DataError(
                f"{at}: the digest is not {DIGEST} bytes, or the size is not a number from 1: "
                "correct it, or leave the row out."
            )
    return image_digests, sizes


def _vector(numbers: list[float | None] | None, at: str) -> NDArray[np.float32]:
    """Return a vector, float32 (D,).

    Raises:
        DataError: it is null or empty, or a number is null or not finite in float32.
    """
    if not numbers:
        problem = "null" if numbers is None else "empty"
        raise DataError(f"{at}: the vector is {problem}; correct it, or leave the row out.")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
        vector = np.array(numbers, np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise DataError(
            f"{at}: the vector has numbers that are null or not finite; "
            "correct it, or leave the row out."
        )
    return vector


def _check_shape(answer: Answer, first: Answer) -> None:
    """Raise unless an answer has the width and image size of the first."""
    if answer.size != first.size:
        raise DataError(
            f"{answer.at} has an image of size {answer.size}, and {first.at} {first.size}: "
            "import them as two recordings."
        )
    if len(answer.vector) != len(first.vector):
        raise DataError(
            f"{answer.at} has a vector of width {len(answer.vector)}, and {first.at} "
            f"{len(first.vector)}: import them as two recordings."
        )


def _add_source(execute: Execute, name: str, answer: Answer) -> tuple[int, int]:
    """Insert the recording and one request for all its answers; return their numbers."""
    [(source,)] = execute(
        "INSERT INTO sources (target, defense, account, codec, size, width) "
        "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (source_name(name), "recorded", ACCOUNT, "", answer.size, len(answer.vector)),
    )
    [(request,)] = execute(
        "INSERT INTO requests (source, idempotency, owner, lease) "
        "VALUES (?, ?, 'recorded', 0) RETURNING id",
        (source, uuid.uuid4().hex),
    )
    return source, request


def _add_answer(execute: Execute, row: tuple[Any, ...]) -> None:
    """Insert a stored answer that was never charged.

    Args:
        execute: of a transaction.
        row: source, digest, request, answer, checksum and the moment.
    """
    execute(
        "INSERT INTO queries (source, digest, request, answer, checksum, stored, repeat, view, "
        "purpose, state, charged, cost, precision) "
        "VALUES (?, ?, ?, ?, ?, ?, 0, 'raw', 'attack', 'stored', 0, 0, 'float32')",
        row,
    )
