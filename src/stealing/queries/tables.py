"""The tables of a ledger, in the SQL that SQLite and PostgreSQL share, and what passes for a row of them in code.

`sources`: answers that may be mixed. `budgets`: what was counted, and the most that may be. `requests`: what went out
under which idempotency key; `images` are kept until the answers are there, so that anyone can send it again.
`queries`: an image each, with its answer. `paces`: when the next request may go out.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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
