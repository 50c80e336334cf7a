"""Where a ledger lies: a file of this machine (SQLite), or a PostgreSQL server that several machines share.

Both write in one transaction at a time, durable when it ends, and tell whether another owner of reservations lives.
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
"""Takes SQL with a `?` for each parameter, and the parameters; gives the rows."""

PATIENCE = 120
"""Seconds to wait for other processes to finish their transactions."""


class Database(Protocol):
    """What a ledger needs of a database.

    Attributes:
        owner: names this process in its reservations.
    """

    owner: str

    def transaction(self) -> AbstractContextManager[Execute]:
        """The body's statements take effect all together, after every transaction before them, or not at all."""

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement that writes nothing."""

    def lives(self, owner: str) -> bool:
        """Whether the process that reserved under this name is still there."""

    def now(self) -> float:
        """Seconds since 1970 by the one clock that leases go by."""

    def check(self) -> str | None:
        """What the database says is wrong with itself, or None."""

    def close(self) -> None:
        """Let go of it; reservations of this process that are still open become those of a process that is gone."""


def connect(place: str, schema: str) -> Database:
    """Open, or make, a database with these tables.

    Args:
        place: a file's path, or a URL that begins with `postgresql://` and holds no password.
        schema: `CREATE ... IF NOT EXISTS` statements, with SQLite's names of types.

    Raises:
        LedgerError: it is no database of ours, or cannot be reached.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return PostgreSQL(place, schema)
    return SQLite(Path(place), schema)


class SQLite:
    """One file: write-ahead log, flushed to the disk at every commit.

    An owner holds a lock on a file of its own beside the database, which the operating system lets go when it dies.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path, self.owner = path, uuid.uuid4().hex
        self._mutex = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._owners = path.with_name(path.name + ".owners")
            self._owners.mkdir(exist_ok=True)
            self._alive = FileLock(self._owners / self.owner, thread_local=False)
            self._alive.acquire()
            # the change to a write-ahead log, and its end, wait for nobody: SQLite says "locked" at once
            self._one_at_a_time = FileLock(self._owners / "opening", timeout=PATIENCE, thread_local=False)
            with self._one_at_a_time:
                self._connection = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
                for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
            with self.transaction() as execute:
                for statement in schema.split(";"):
                    execute(statement)  # an empty one does nothing
        except (sqlite3.DatabaseError, OSError) as error:
            raise _unusable(path, error) from None

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database`."""
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield lambda sql, parameters=(): self._connection.execute(sql, parameters).fetchall()
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError:
                raise
            except sqlite3.DatabaseError as error:
                raise _unusable(self.path, error) from None

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See `Database`."""
        with self._mutex:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                raise _unusable(self.path, error) from None

    def lives(self, owner: str) -> bool:
        """See `Database`."""
        if owner == self.owner:
            return True
        if not (self._owners / owner).exists():
            return False
        lock = FileLock(self._owners / owner, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return True
        (self._owners / owner).unlink(missing_ok=True)
        lock.release()
        return False

    def now(self) -> float:
        """See `Database`."""
        return time.time()

    def check(self) -> str | None:
        """See `Database`."""
        [(found,)] = self.read("PRAGMA integrity_check(1)")
        return None if found == "ok" else str(found)

    def close(self) -> None:
        """See `Database`."""
        with self._one_at_a_time:
            self._connection.close()
        (self._owners / self.owner).unlink(missing_ok=True)
        self._alive.release()


class PostgreSQL:
    """A server: a lock that every transaction takes makes them follow each other, and an owner holds one of its own.

    The server lets go of an owner's lock when its connection ends, on whatever machine it was.
    """

    def __init__(self, url: str, schema: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise LedgerError("A ledger on PostgreSQL needs psycopg: pip install -e '.[postgres]'.") from None
        if urlsplit(url).password is not None:
            raise LedgerError(
                "paths.ledger holds a password, which would be written into every run's config.yaml: "
                "take it out and set PGPASSWORD or a .pgpass file."
            )
        self.url, self.owner, self._errors = url, uuid.uuid4().hex, psycopg
        self._mutex = threading.Lock()
        try:
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=10)
            self._cursor = self._connection.cursor(binary=True)
            self._cursor.execute("SET enable_seqscan = off")  # rows are found by keys, whatever stale statistics say
            with self.transaction() as execute:
                for statement in schema.replace("BLOB", "BYTEA").replace("REAL", "DOUBLE PRECISION").split(";"):
                    if statement.strip():
                        execute(statement.replace("INTEGER PRIMARY KEY", "BIGSERIAL PRIMARY KEY"))
            self._cursor.execute(f"SELECT pg_advisory_lock({_number(self.owner)})")
        except psycopg.Error as error:
            raise _unusable(url, error) from None

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database`."""
        with self._mutex:
            try:
                with self._connection.transaction():
                    self._cursor.execute(f"SELECT pg_advisory_xact_lock({_number('ledger')})")
                    yield self._execute
            except self._errors.IntegrityError as error:
                raise sqlite3.IntegrityError(str(error)) from None  # one error for both
            except self._errors.Error as error:
                raise _unusable(self.url, error) from None

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See `Database`."""
        with self._mutex:
            try:
                return self._execute(sql, parameters)
            except self._errors.Error as error:
                raise _unusable(self.url, error) from None

    def lives(self, owner: str) -> bool:
        """See `Database`."""
        if owner == self.owner:
            return True
        [(free,)] = self.read(f"SELECT pg_try_advisory_lock({_number(owner)})")
        if free:
            self.read(f"SELECT pg_advisory_unlock({_number(owner)})")
        return not free

    def now(self) -> float:
        """See `Database`; the server's, as machines differ."""
        [(seconds,)] = self.read("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(seconds)

    def check(self) -> str | None:
        """See `Database`; the server looks after its own pages."""
        return None

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self._cursor.execute(sql.replace("?", "%s"), parameters)
        return self._cursor.fetchall() if self._cursor.description else []


def _number(name: str) -> int:
    """A lock's number, of 63 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _unusable(place: object, error: Exception) -> LedgerError:
    why = " ".join(str(error).split()).rstrip(".")
    return LedgerError(f"The ledger {place} cannot be used ({why}): mend or restore it; what was paid stands in it.")
