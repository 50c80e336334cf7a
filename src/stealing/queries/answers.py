"""What the ledger writes when answers arrive: vectors with checksums, and the account's state.

They are single statements; `Ledger.store` makes one transaction of them.

Shape letters: B images, D feature width.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.errors import TargetError
from stealing.queries.database import Execute
from stealing.queries.schema import Reservation, Source

PRECISIONS = ("float16", "float32", "float64")
"""Types of stored numbers."""


def checksum(digest: bytes, answer: bytes) -> bytes:
    """Return 8 bytes of a stored answer and its image, so that two answers cannot swap places."""
    return hashlib.blake2b(digest + answer, digest_size=8).digest()


def vector_of(
    digest: object, precision: object, answer: object, stored_checksum: object
) -> NDArray[Any] | None:
    """Return a stored answer (D,), or None if its row is not as it was written.

    Args:
        digest: of the image.
        precision: name of a floating point type.
        answer: its numbers, as bytes.
        stored_checksum: its `checksum`; in rows of earlier versions, that of only the answer.
    """
    if not (isinstance(digest, bytes) and isinstance(answer, bytes) and precision in PRECISIONS):
        return None
    # in rows of earlier versions, the checksum does not depend on the image
    if stored_checksum not in (checksum(digest, answer), checksum(b"", answer)):
        return None
    return np.frombuffer(answer, str(precision))


def intact_vectors(rows: Iterable[tuple[Any, ...]]) -> dict[bytes, NDArray[Any]]:
    """Return stored answers (D,) by digest; a damaged one is left out, as if it were absent.

    Args:
        rows: digest, precision, answer and checksum.
    """
    vectors = dict[bytes, NDArray[Any]]()
    for digest, *row in rows:
        vector = vector_of(digest, *row)
        if vector is not None:
            vectors[digest] = vector
    return vectors


def write_answers(
    execute: Execute, source: Source, reservation: Reservation, features_BD: Tensor, now: float
) -> None:
    """Write the answers to one request, as float16 if they came so and as float32 otherwise."""
    # the door returns float32, so float64 would only double the size of a ledger
    is_half = features_BD.dtype == torch.float16
    vectors_BD = (features_BD if is_half else features_BD.float()).contiguous().numpy()
    content = vectors_BD.tobytes()
    size = len(content) // len(vectors_BD)
    values = list[object]()
    for place, digest in enumerate(reservation.digests):
        answer = content[place * size : (place + 1) * size]
        values += [digest, answer, checksum(digest, answer)]
    rows = ", ".join(["(?, ?, ?)"] * len(vectors_BD))
    # SQLite and PostgreSQL both name the columns of VALUES column1, column2, ...
    execute(
        "UPDATE queries SET state = 'stored', precision = ?, stored = ?, answer = new.column2, "
        f"checksum = new.column3 FROM (VALUES {rows}) AS new "
        "WHERE queries.source = ? AND queries.digest = new.column1 AND queries.request = ?",
        (str(vectors_BD.dtype), now, *values, source.id, reservation.request),
    )


def check_consistency(execute: Execute, source: Source, width: int, version: str | None) -> None:
    """Compare width and version of an answer with those of the source's first answer.

    Raises:
        TargetError: they differ.
    """
    sql = "SELECT width, version FROM sources WHERE id = ?"
    [(first_width, first_version)] = execute(sql, (source.id,))
    if first_width is None:  # this is the first answer
        execute(
            "UPDATE sources SET width = ?, version = ? WHERE id = ?", (width, version, source.id)
        )
    elif (first_width, first_version) != (width, version):
        raise TargetError(
            f"An answer has {width} numbers and is of version {version}, and earlier answers have "
            f"{first_width} and are of version {first_version}: these are kept; to start with an "
            "empty bank, set another target.remote.version=."
        )


def read_memory(execute: Execute, source: Source) -> bytes | None:
    """Return the defense's state for this account, or None for a new account."""
    rows = execute("SELECT memory FROM memories WHERE source = ?", (source.id,))
    return bytes(rows[0][0]) if rows else None


def write_memory(execute: Execute, source: Source, memory: bytes) -> None:
    """Replace the defense's state for this account."""
    execute(
        "INSERT INTO memories VALUES (?, ?) "
        "ON CONFLICT (source) DO UPDATE SET memory = excluded.memory",
        (source.id, memory),
    )
