"""Databases of a ledger: a place in, transactions out.

The place is a file of this machine (SQLite), or a PostgreSQL server that machines share. Both run
one transaction after the other, durable when it ends, and know whether another owner of
reservations is alive.
"""

import hashlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from stealing.errors import LedgerError

Execute = Callable[..., list[tuple[Any, ...]]]
"""Takes SQL with a `?` for each parameter, and the parameters; returns the rows."""

PATIENCE = 120
"""Seconds to wait for other processes to finish their transactions."""


class Database(Protocol):
    """What a ledger needs of a database.

    Attributes:
        owner: names this process in its reservations.
    """

    owner: str

    def transaction(self) -> AbstractContextManager[Execute]:
        """Run all statements of the body after every earlier transaction, or none of them."""

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement that writes nothing."""

    def is_alive(self, owner: str) -> bool:
        """Return True if the process that reserved under this name is still running."""

    def now(self) -> float:
        """Return seconds since 1970 by the one clock that all leases follow."""

    def find_damage(self) -> str | None:
        """Return what the database finds wrong with itself, or None."""

    def check_place(self) -> None:
        """Refuse to continue if nobody would find what is written.

        Raises:
            LedgerError: the database is no longer where it was opened.
        """

    def close(self) -> None:
        """Close the connection; open reservations of this process become those of a dead one."""


def connect(place: str, schema: str) -> Database:
    """Open, or make, a database with these tables.

    Args:
        place: a file's path, or a URL that begins with `postgresql://` and holds no password.
        schema: `CREATE ... IF NOT EXISTS` statements, with SQLite's names of types.

    Raises:
        LedgerError: it is not a database of this project, or cannot be reached.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return PostgreSQL(place, schema)
    return SQLite(Path(place), schema)


class SQLite:
    """One file: write-ahead log, flushed to the disk at every commit.

    An owner holds a lock on a file of its own beside the database. The operating system releases
    the lock when the owner dies.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self.owner = uuid.uuid4().hex
        self._mutex = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._owners = path.with_name(path.name + ".owners")
            self._owners.mkdir(exist_ok=True)
            self._alive = FileLock(self._owners / self.owner, thread_local=False)
            self._alive.acquire()
            self._one_at_a_time = FileLock(
                self._owners / "opening", timeout=PATIENCE, thread_local=False
            )
            self._connection = self._open()
            with self.transaction() as execute:
                for statement in schema.split(";"):
                    execute(statement)  # an empty one does nothing
            self._file = _file_at(path)
        except (sqlite3.DatabaseError, OSError, UnicodeDecodeError) as error:
            raise _unusable(path, error) from None

    def _open(self) -> sqlite3.Connection:
        # SQLite does not wait for its lock while a write-ahead log begins or ends: it fails at once
        with self._one_at_a_time:
            connection = sqlite3.connect(
                self.path, PATIENCE, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA page_size=16384")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database`."""
        with self._mutex:
            try:
                # IMMEDIATE takes the lock now, so that no read becomes stale before the first write
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._execute
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                raise _unusable(self.path, error) from None

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See `Database`."""
        with self._mutex:
            try:
                return self._execute(sql, parameters)
            except sqlite3.DatabaseError as error:
                raise _unusable(self.path, error) from None

    def is_alive(self, owner: str) -> bool:
        """See `Database`."""
        if owner == self.owner:
            return True
        path = self._owners / owner
        if not path.exists():
            return False
        lock = FileLock(path, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        lock.release()
        return False

    def now(self) -> float:
        """See `Database`."""
        return time.time()

    def find_damage(self) -> str | None:
        """See `Database`."""
        [(verdict,)] = self.read("PRAGMA integrity_check(1)")
        return None if verdict == "ok" else str(verdict)

    def check_place(self) -> None:
        """See `Database`; an open file can still be written after it was deleted or moved."""
        try:
            is_there = _file_at(self.path) == self._file
        except OSError:
            is_there = False
        if not is_there:
            raise LedgerError(
                f"The ledger {self.path} was moved, deleted or replaced while it was in use: "
                "nothing more is spent; put it back, or restore it from a copy, and run the same "
                "command again."
            )

    def close(self) -> None:
        """See `Database`."""
        with self._one_at_a_time:
            self._connection.close()
        (self._owners / self.owner).unlink(missing_ok=True)
        self._alive.release()

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()


class PostgreSQL:
    """A server: every transaction takes one lock, so that they follow each other.

    An owner holds a lock of its own. The server releases it when the owner's connection ends, on
    whatever machine it was.
    """

    def __init__(self, url: str, schema: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise LedgerError(
                "A ledger on PostgreSQL needs psycopg: pip install -e '.[postgres]'."
            ) from None
        if urlsplit(url).password is not None:
            raise LedgerError(
                "paths.ledger holds a password, which would be written into every run's "
                "config.yaml: take it out and set PGPASSWORD or a .pgpass file."
            )
        self.url = url
        self.owner = uuid.uuid4().hex
        self._errors = psycopg
        self._mutex = threading.Lock()
        # SQLite's names of types are valid in PostgreSQL, except these
        schema = schema.replace("BLOB", "BYTEA").replace("REAL", "DOUBLE PRECISION")
        schema = schema.replace("INTEGER PRIMARY KEY", "BIGSERIAL PRIMARY KEY")
        try:
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=10)
            self._cursor = self._connection.cursor(binary=True)
            # rows are looked up by keys, even if the server's statistics are stale
            self._cursor.execute("SET enable_seqscan = off")
            with self.transaction() as execute:
                for statement in schema.split(";"):
                    if statement.strip():
                        execute(statement)
            self._cursor.execute(f"SELECT pg_advisory_lock({_lock_number(self.owner)})")
        except psycopg.Error as error:
            raise _unusable(url, error) from None

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database`."""
        with self._mutex:
            try:
                with self._connection.transaction():
                    number = _lock_number("ledger")
                    self._cursor.execute(f"SELECT pg_advisory_xact_lock({number})")
                    yield self._execute
            except self._errors.Error as error:
                raise _unusable(self.url, error) from None

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See `Database`."""
        with self._mutex:
            try:
                return self._execute(sql, parameters)
            except self._errors.Error as error:
                raise _unusable(self.url, error) from None

    def is_alive(self, owner: str) -> bool:
        """See `Database`."""
        if owner == self.owner:
            return True
        number = _lock_number(owner)
        [(is_free,)] = self.read(f"SELECT pg_try_advisory_lock({number})")
        if is_free:
            self.read(f"SELECT pg_advisory_unlock({number})")
        return not is_free

    def now(self) -> float:
        """See `Database`; by the server's clock, because those of machines differ."""
        [(seconds,)] = self.read("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(seconds)

    def find_damage(self) -> str | None:
        """See `Database`; the server checks its own pages."""
        return None

    def check_place(self) -> None:
        """See `Database`; a server that lost its tables raises an error by itself."""

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self._cursor.execute(sql.replace("?", "%s"), parameters)
        return self._cursor.fetchall() if self._cursor.description else []


def _file_at(path: Path) -> tuple[int, int]:
    """Return device and inode of the file at a path.

    Raises:
        OSError: there is none, or it is empty.
    """
    status = path.stat()
    # a file that was emptied in place has the same inode, and its write-ahead log lost its base
    if status.st_size == 0:
        raise FileNotFoundError(path)
    return status.st_dev, status.st_ino


def _lock_number(name: str) -> int:
    """Return the number of a lock, of 63 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _unusable(place: object, error: Exception) -> LedgerError:
    why = " ".join(str(error).split()).rstrip(".")
    return LedgerError(
        f"The ledger {place} cannot be used ({why}): repair it or restore a copy, and do not "
        "delete it, because it records what was paid."
    )
