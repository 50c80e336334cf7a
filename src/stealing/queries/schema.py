"""The tables of a ledger, in SQL that SQLite and PostgreSQL share, and their rows in code.

- `about`: the ledger's identity, and the version of the tables.
- `sources`: answers that may be mixed.
- `budgets`: images that were counted by target and purpose, and the most that may be.
- `requests`: what was sent under which idempotency key. `images` stays until the answers are
  stored, so that any process can send the request again. It is empty until then if the target is
  in the process: nothing of such a request survives it.
- `queries`: one row an image, with its answer.
- `turns`: when the last request was booked, and from when on the next may be sent, by the limit on
  images and by the limit on requests.
- `memories`: the state of a stateful defense for one account, if the target is local.

Shape letters: B images, D feature width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Purpose = Literal["attack", "evaluation"]

VERSION = 1
"""Version of the tables below."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (
    identity TEXT NOT NULL,
    version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY,
    target TEXT NOT NULL,
    defense TEXT NOT NULL,
    account TEXT NOT NULL,
    codec TEXT NOT NULL,
    size INTEGER NOT NULL,
    width INTEGER,
    version TEXT,
    UNIQUE (target, defense, account, codec)
);
CREATE TABLE IF NOT EXISTS budgets (
    target TEXT NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('attack', 'evaluation')),
    total INTEGER,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    CHECK (spent <= total),
    PRIMARY KEY (target, purpose)
);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES sources (id),
    idempotency TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    lease REAL NOT NULL,
    images BLOB
);
CREATE TABLE IF NOT EXISTS queries (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES sources (id),
    digest BLOB NOT NULL,
    repeat INTEGER NOT NULL,
    view TEXT NOT NULL,
    purpose TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'stored', 'failed')),
    request INTEGER NOT NULL REFERENCES requests (id),
    charged INTEGER NOT NULL,
    cost REAL NOT NULL,
    precision TEXT,
    answer BLOB,
    checksum BLOB,
    stored REAL,
    UNIQUE (digest, source, repeat)
);
CREATE INDEX IF NOT EXISTS queries_request ON queries (request);
CREATE TABLE IF NOT EXISTS memories (
    source INTEGER NOT NULL UNIQUE REFERENCES sources (id),
    memory BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS turns (
    target TEXT PRIMARY KEY,
    booked REAL NOT NULL,
    images REAL NOT NULL,
    requests REAL NOT NULL
);
"""
"""Tables, with SQLite's names of types; `stealing.queries.database` translates them for PostgreSQL.

`lease`, `booked`, `images` and `requests` of `turns` are seconds since 1970. `charged` is how often
an image was counted, which is more than once if it was given up and sent again.
"""


@dataclass(frozen=True)
class Source:
    """Answers that may be mixed: they share target, defense, account and codec.

    Attributes:
        id: in the ledger.
        target: fingerprint, with endpoint and version.
        size: height and width of the images.
    """

    id: int
    target: str
    size: int


@dataclass(frozen=True)
class Terms:
    """What is written beside each image that is reserved.

    Attributes:
        purpose: whose total is charged.
        view: what the images are, for a reader of the ledger.
        repeat: which of several answers to the same image; 0 for the first.
        price: of one image.
    """

    purpose: Purpose
    view: str
    repeat: int
    price: float


@dataclass(frozen=True)
class Reservation:
    """One request that is counted and not answered yet.

    Attributes:
        request: its number in the ledger.
        idempotency: the key to send it under, however often it is sent.
        digests: of its images, in their order.
        images: uint8 (B, 3, size, size); none, if another process asked its own target.
        due: moment of the process's monotonic clock before which it must not be sent.
        resent: True if a process that is gone has sent it before, so that it may have been served.
    """

    request: int
    idempotency: str
    digests: list[bytes]
    images: Tensor
    due: float
    resent: bool = False


Settle = Callable[[Tensor, Reservation, bytes | None], tuple[Tensor, bytes]]
"""From features (B, D), request and account's state to the answer and the state after it."""


def marks(values: Sequence[object]) -> str:
    """Return a `?` for each value, separated by commas."""
    return ", ".join("?" * len(values))
