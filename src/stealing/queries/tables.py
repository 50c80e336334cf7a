"""The tables of a ledger, in the SQL that SQLite and PostgreSQL share: their rows in code, and single statements.

`sources`: answers that may be mixed. `budgets`: what was counted, and the most that may be. `requests`: what went out
under which idempotency key; `images` are kept until the answers are there, so that anyone can send it again.
`queries`: an image each, with its answer. `paces`: when the next request may go out. `memories`: what the target's
defense knows of an account, where the target is ours and remembers.

Shape letters: B images, D feature width.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stealing.errors import TargetError
from stealing.queries.database import Execute

Purpose = Literal["attack", "evaluation"]

VERSION = 1
"""Of the tables below."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (identity TEXT NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, target TEXT NOT NULL, defense TEXT NOT NULL, account TEXT NOT NULL, codec TEXT NOT NULL,
    size INTEGER NOT NULL, width INTEGER, version TEXT, UNIQUE (target, defense, account, codec));
CREATE TABLE IF NOT EXISTS budgets (
    target TEXT NOT NULL, purpose TEXT NOT NULL CHECK (purpose IN ('attack', 'evaluation')), total INTEGER,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0), CHECK (spent <= total), PRIMARY KEY (target, purpose));
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources (id), idempotency TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL, lease REAL NOT NULL, images BLOB);
CREATE TABLE IF NOT EXISTS queries (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources (id), digest BLOB NOT NULL,
    repeat INTEGER NOT NULL, view TEXT NOT NULL, purpose TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'stored', 'failed')),
    request INTEGER NOT NULL REFERENCES requests (id), charged INTEGER NOT NULL, cost REAL NOT NULL,
    precision TEXT, answer BLOB, checksum BLOB, stored REAL, UNIQUE (digest, source, repeat));
CREATE INDEX IF NOT EXISTS queries_request ON queries (request);
CREATE TABLE IF NOT EXISTS memories (source INTEGER NOT NULL UNIQUE REFERENCES sources (id), memory BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS paces (target TEXT PRIMARY KEY, images REAL NOT NULL, requests REAL NOT NULL);
"""


@dataclass(frozen=True)
class Source:
    """Answers that may be mixed: of one target, under one defense, to one account, sent by one codec.

    Attributes:
        id: in the ledger.
        target: fingerprint, with endpoint and version.
        size: height and width of the images.
    """

    id: int
    target: str
    size: int


@dataclass(frozen=True)
class Reservation:
    """One request: counted, not answered yet.

    Attributes:
        request: its number in the ledger.
        idempotency: the key to send it under, however often it is sent.
        digests: of its images, in their order.
        images: uint8 (B, 3, size, size).
        start: not to be sent before this moment of the ledger's clock.
    """

    request: int
    idempotency: str
    digests: list[bytes]
    images: Tensor
    start: float


Settle = Callable[[Tensor, Reservation, bytes | None], tuple[Tensor, bytes]]
"""What the target computed (B, D), the request and the account's memory in; the answer and the memory after it out."""


def checksum(answer: bytes) -> bytes:
    """8 bytes of a stored answer."""
    return hashlib.blake2b(answer, digest_size=8).digest()


def marks(values: Sequence[object]) -> str:
    """A `?` for each value."""
    return ", ".join("?" * len(values))


def count(execute: Execute, source: Source, names: list[bytes], row: tuple[object, ...]) -> None:
    """A row an image; one that was given up before is counted once more."""
    each = f"({marks((source, names, *row))})"
    execute(
        "INSERT INTO queries (source, digest, repeat, view, purpose, state, request, charged, cost) "
        f"VALUES {', '.join([each] * len(names))} ON CONFLICT (source, digest, repeat) DO UPDATE SET "
        "state = 'reserved', request = excluded.request, charged = queries.charged + 1, "
        "cost = queries.cost + excluded.cost",
        [value for name in names for value in (source.id, name, *row)],
    )


def charge(execute: Execute, target: str, purpose: str, images: int) -> None:
    """Count this many more against the budget."""
    execute("INSERT INTO budgets (target, purpose) VALUES (?, ?) ON CONFLICT DO NOTHING", (target, purpose))
    execute("UPDATE budgets SET spent = spent + ? WHERE target = ? AND purpose = ?", (images, target, purpose))


def agree(execute: Execute, source: Source, width: int, version: str | None) -> None:
    """The first answer says what all have to be like."""
    [(known, before)] = execute("SELECT width, version FROM sources WHERE id = ?", (source.id,))
    if known is None:
        execute("UPDATE sources SET width = ?, version = ? WHERE id = ?", (width, version, source.id))
    elif (known, before) != (width, version):
        raise TargetError(
            f"The target answers with {width} numbers an image as version {version}, and answered with {known} as "
            f"{before} before: what was bought is kept, and another target.remote.version= begins anew."
        )


def recall(execute: Execute, source: Source) -> bytes | None:
    """What the target's defense remembers of this account, or None for a new one."""
    rows = execute("SELECT memory FROM memories WHERE source = ?", (source.id,))
    return bytes(rows[0][0]) if rows else None


def remember(execute: Execute, source: Source, memory: bytes) -> None:
    """Keep what it knows of this account now."""
    sql = "INSERT INTO memories VALUES (?, ?) ON CONFLICT (source) DO UPDATE SET memory = excluded.memory"
    execute(sql, (source.id, memory))
