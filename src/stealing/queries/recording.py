"""Recorded answers: a Parquet file of images, or of their digests, with vectors in; rows of a ledger out."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stealing.data.decoding import decode
from stealing.errors import DataError
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger
from stealing.queries.tables import checksum

ACCOUNT = "recorded"


def source_name(name: str) -> str:
    """What a recording is called where targets are."""
    return f"recording/{name}"


def record(ledger: Ledger, path: Path, name: str, size: int | None) -> int:
    """Put the answers of a file into the ledger, as those of a target of this name; their number.

    Args:
        ledger: where to; all of the file, or nothing.
        path: Parquet with a column `vector`, and a column `image` (a file's bytes, or a struct with `bytes`) or, as an
            export has them, `digest` and `size`.
        name: of the recording.
        size: height and width of the images, where the file holds those.

    Raises:
        DataError: the file is none of these, or there is a recording of this name.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no Parquet file ({str(error).splitlines()[0]}): name one.") from None
    columns = set(file.schema_arrow.names)
    if "vector" not in columns or not ("image" in columns or {"digest", "size"} <= columns):
        raise DataError(f"{path} needs a column vector, and a column image or the columns digest and size: add them.")
    if ledger.database.read("SELECT 1 FROM sources WHERE target = ?", (source_name(name),)):
        raise DataError(f"There is a recording {name} already: choose another name.")
    if "image" in columns and size is None:
        raise DataError(f"{path} holds images: say their height and width by --size.")
    count, seen, now = 0, set[bytes](), ledger.database.now()
    with ledger.database.transaction() as execute:
        source: int | None = None
        for batch in file.iter_batches(1000):
            table = batch.to_pydict()
            names, found = _named(table, path, size)
            vectors = [np.asarray(vector, np.float32) for vector in table["vector"]]
            if source is None:
                width, key = len(vectors[0]), (source_name(name), "recorded", ACCOUNT, "", found)
                sql = "INSERT INTO sources (target, defense, account, codec, size, width) VALUES (?, ?, ?, ?, ?, ?) "
                [(source,)] = execute(sql + "RETURNING id", (*key, width))
                sql = (
                    "INSERT INTO requests (source, idempotency, owner, lease) VALUES (?, ?, 'recorded', 0) RETURNING id"
                )
                [(request,)] = execute(sql, (source, uuid.uuid4().hex))
                known = found
            for digest, vector in zip(names, vectors, strict=True):
                if len(vector) != width or found != known or not np.isfinite(vector).all():
                    raise DataError(f"{path} mixes sizes of images or widths of vectors, or has numbers that are none.")
                if digest not in seen:
                    seen.add(digest)
                    answer = vector.tobytes()
                    row = (source, digest, request, answer, checksum(answer), now)
                    execute(
                        "INSERT INTO queries (source, digest, request, answer, checksum, stored, repeat, view, "
                        "purpose, state, charged, cost, precision) "
                        "VALUES (?, ?, ?, ?, ?, ?, 0, 'raw', 'attack', 'stored', 0, 0, 'float32')",
                        row,
                    )
                    count += 1
    return count


def _named(table: dict[str, Any], path: Path, size: int | None) -> tuple[list[bytes], int]:
    """Digests of a batch's images, and their size."""
    if size is None:
        return [bytes(digest) for digest in table["digest"]], int(table["size"][0])
    files = [image["bytes"] if isinstance(image, dict) else image for image in table["image"]]
    images = [decode(file, f"{path}, row {row}", size, "none", "refuse") for row, file in enumerate(files)]
    return digests(torch.from_numpy(np.stack(images))), size
