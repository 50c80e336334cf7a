"""What a shared ledger says to PostgreSQL, without a server: locks, words and errors; test_ledger
asks a real one."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from stealing.errors import LedgerError
from stealing.queries.database import PostgreSQL, connect

URL = "postgresql://me@nowhere/x"


class Server(ModuleType):
    """Stands for psycopg, its connection and its cursor; writes down what is said, answers from a
    list."""

    class Error(Exception):
        pass

    class IntegrityError(Error):
        pass

    def __init__(self) -> None:
        super().__init__("psycopg")
        self.said: list[Any] = []
        self.rows: list[tuple[Any, ...]] = []
        self.description: object = True
        self.wrong: Exception | None = None

    def connect(self, url: str, **settings: object) -> "Server":
        self.said.append((url, settings))
        return self

    def cursor(self, binary: bool) -> "Server":
        assert binary
        return self

    def execute(self, sql: str, parameters: object = ()) -> None:
        self.said.append((sql, parameters) if parameters else sql)
        if self.wrong:
            raise self.wrong

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.said.append("BEGIN")
        yield
        self.said.append("COMMIT")

    def close(self) -> None:
        self.said.append("bye")


def number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") // 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setitem(sys.modules, "psycopg", made)
    return made


def test_a_server_gets_its_words_for_types_and_the_lock_of_this_owner(server: Server) -> None:
    schema = "CREATE x (id INTEGER PRIMARY KEY, a REAL, b BLOB);\nCREATE y (a INTEGER);\n"
    opened = connect(URL, schema)
    assert isinstance(opened, PostgreSQL) and isinstance(
        connect(URL.replace("ql:", ":"), ""), PostgreSQL
    )
    assert server.said[:8] == [
        (URL, {"autocommit": True, "connect_timeout": 10}),
        "SET enable_seqscan = off",
        "BEGIN",
        f"SELECT pg_advisory_xact_lock({number('ledger')})",
        "CREATE x (id BIGSERIAL PRIMARY KEY, a DOUBLE PRECISION, b BYTEA)",
        "\nCREATE y (a INTEGER)",
        "COMMIT",
        f"SELECT pg_advisory_lock({number(opened.owner)})",
    ]
    opened.close()
    assert server.said[-1] == "bye" and opened.find_damage() is None


def test_a_transaction_takes_the_one_lock_first_and_a_question_mark_is_a_parameter(
    server: Server,
) -> None:
    opened, server.said, server.rows = connect(URL, ""), [], [(1,)]
    with opened.transaction() as execute:
        assert execute("UPDATE x SET a = ?", (5,)) == [(1,)]
        server.description = None
        assert execute("UPDATE y") == []
    lock = f"SELECT pg_advisory_xact_lock({number('ledger')})"
    assert server.said == ["BEGIN", lock, ("UPDATE x SET a = %s", (5,)), "UPDATE y", "COMMIT"]
    server.description, server.said = True, []
    assert opened.read("SELECT ?, ?", (1, 2)) == [(1,)] and server.said == [
        ("SELECT %s, %s", (1, 2))
    ]
    server.rows = [(12.5,)]
    assert opened.now() == 12.5


def test_an_owner_lives_if_its_lock_cannot_be_had_and_the_lock_is_given_back(
    server: Server,
) -> None:
    opened, server.said = connect(URL, ""), []
    assert opened.is_alive(opened.owner) and server.said == []
    server.rows = [(False,)]
    assert opened.is_alive("other") and server.said == [
        f"SELECT pg_try_advisory_lock({number('other')})"
    ]
    server.rows = [(True,)]
    assert (
        not opened.is_alive("other")
        and server.said[-1] == f"SELECT pg_advisory_unlock({number('other')})"
    )


def test_a_servers_errors_are_told_apart_and_say_where_they_are_from(server: Server) -> None:
    opened = connect(URL, "")

    def write() -> None:
        with opened.transaction():
            pass

    deeds: list[Callable[[], object]] = [
        write,
        lambda: opened.read("SELECT 1"),
        lambda: connect(URL, ""),
    ]
    server.wrong = Server.Error("It is\n gone.")
    for deed in deeds:
        with pytest.raises(
            LedgerError, match=rf"The ledger {URL} cannot be used \(It is gone\): repair it"
        ):
            deed()
    server.wrong = Server.IntegrityError("Too many.")
    with pytest.raises(LedgerError, match="Too many"):
        write()


def test_a_password_and_an_absent_driver_are_one_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LedgerError, match="holds a password.*PGPASSWORD"):
        connect("postgresql://me:secret@nowhere/x", "")
    assert server.said == []
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match="needs psycopg"):
        connect(URL, "")
