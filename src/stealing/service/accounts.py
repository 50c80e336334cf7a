"""The books of a service: who may ask how much at which price, what was billed, and what was answered under which key.

    python -m stealing.service.accounts add attacker/0 --quota 30000 --price 0.002
    python -m stealing.service.accounts show

A key is shown once, when it is made; the books hold its hash. Answers under an idempotency key, their bill and the
defense's memory of the account are written in one transaction.
"""

import argparse
import hashlib
import hmac
import secrets
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.artefacts import WORK
from stealing.errors import ConfigError, StealingError
from stealing.queries.database import Execute, connect
from stealing.service.errors import Denied

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash BLOB NOT NULL, quota INTEGER, rate REAL, price REAL NOT NULL,
    billed INTEGER NOT NULL DEFAULT 0 CHECK (billed >= 0), CHECK (billed <= quota));
CREATE TABLE IF NOT EXISTS memories (
    account TEXT NOT NULL REFERENCES accounts (name), version TEXT NOT NULL, memory BLOB NOT NULL,
    PRIMARY KEY (account, version));
CREATE TABLE IF NOT EXISTS answers (
    account TEXT NOT NULL REFERENCES accounts (name), idempotency TEXT NOT NULL, body BLOB NOT NULL,
    features BLOB NOT NULL, width INTEGER NOT NULL, time REAL NOT NULL, PRIMARY KEY (account, idempotency));
CREATE INDEX IF NOT EXISTS answers_time ON answers (time)
"""


@dataclass(frozen=True)
class Account:
    """One client.

    Attributes:
        name: as defenses know it.
        quota: most images that are ever answered, or None.
        rate: most images a second, or None.
        price: of an image.
        billed: images so far.
    """

    name: str
    quota: int | None
    rate: float | None
    price: float
    billed: int


class Books:
    """Accounts and answers, in one database.

    Args:
        place: a file, or the URL of a PostgreSQL server.
    """

    def __init__(self, place: str) -> None:
        self.database = connect(place, SCHEMA)
        self._reading = connect(place, "")  # of its own: keys are looked up while a batch holds its transaction

    def add(self, name: str, quota: int | None, rate: float | None, price: float) -> str:
        """A new account's key: told once.

        Raises:
            ConfigError: there is an account of this name.
        """
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(24)
        with self.database.transaction() as execute:
            if execute("SELECT 1 FROM accounts WHERE name = ?", (name,)):
                raise ConfigError(f"There is an account {name} already: choose another name.")
            execute(
                "INSERT INTO accounts (name, id, hash, quota, rate, price) VALUES (?, ?, ?, ?, ?, ?)",
                (name, identity, _hash(secret), quota, rate, price),
            )
        return f"{identity}.{secret}"

    def all(self) -> list[Account]:
        """Every account, by name."""
        rows = self._reading.read("SELECT name, quota, rate, price, billed FROM accounts ORDER BY name")
        return [Account(*row) for row in rows]

    def account(self, key: str) -> Account | None:
        """Whose key this is; the time that it takes tells nothing about the right one."""
        identity, _, secret = key.partition(".")
        sql = "SELECT hash, name, quota, rate, price, billed FROM accounts WHERE id = ?"
        rows = self._reading.read(sql, (identity,))
        kept, row = (bytes(rows[0][0]), rows[0][1:]) if rows else (bytes(32), ())
        return Account(*row) if hmac.compare_digest(kept, _hash(secret)) and row else None

    def close(self) -> None:
        """Let go of the database."""
        self._reading.close()
        self.database.close()

    def forget(self, before: float) -> None:
        """Drop answers to requests before this moment; their keys are free again."""
        with self.database.transaction() as execute:
            execute("DELETE FROM answers WHERE time < ?", (before,))


def kept(execute: Execute, account: str, idempotency: str, body: bytes) -> Tensor | None:
    """The answer (B, D) that was given under this key, or None.

    Raises:
        Denied: the key was used for another request.
    """
    sql = "SELECT body, features, width FROM answers WHERE account = ? AND idempotency = ?"
    for before, features, width in execute(sql, (account, idempotency)):
        if bytes(before) != body:
            raise Denied(422, "This Idempotency-Key was used for another request: send a new one.")
        return torch.frombuffer(bytearray(features), dtype=torch.float32).view(-1, width)
    return None


def book(execute: Execute, account: str, idempotency: str | None, body: bytes, features_BD: Tensor) -> None:
    """Bill an answer, and keep it under its key.

    Raises:
        Denied: it does not fit the quota.
    """
    sql = "UPDATE accounts SET billed = billed + ? WHERE name = ? AND (quota IS NULL OR billed + ? <= quota) "
    sql += "RETURNING name"
    if not execute(sql, (len(features_BD), account, len(features_BD))):
        [(left,)] = execute("SELECT quota - billed FROM accounts WHERE name = ?", (account,))
        raise Denied(403, f"{len(features_BD)} images were asked about and {left} are left of this account's quota.")
    if idempotency is not None:
        content = features_BD.float().contiguous().numpy().tobytes()
        row = (account, idempotency, body, content, features_BD.shape[1], time.time())
        execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)


def recall(execute: Execute, account: str, version: str) -> bytes | None:
    """What the defense of this version of the service remembered of the account, or None for a new one."""
    rows = execute("SELECT memory FROM memories WHERE account = ? AND version = ?", (account, version))
    return bytes(rows[0][0]) if rows else None


def remember(execute: Execute, account: str, version: str, memory: bytes) -> None:
    """Keep what the defense of this version knows of the account now."""
    sql = "INSERT INTO memories VALUES (?, ?, ?) ON CONFLICT (account, version) DO UPDATE SET memory = excluded.memory"
    execute(sql, (account, version, memory))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def main() -> None:
    """Add an account, or show all."""
    parser = argparse.ArgumentParser(prog="python -m stealing.service.accounts", description="Accounts of a service.")
    parser.add_argument("--books", default=str(WORK / "service" / "books.sqlite"), help="where they lie (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="make an account and print its key, this once")
    adding.add_argument("name", help="such as attacker/0 or honest/cifar10")
    adding.add_argument("--quota", type=int, help="most images ever")
    adding.add_argument("--rate", type=float, help="most images a second")
    adding.add_argument("--price", type=float, default=0.0, help="of an image")
    commands.add_parser("show", help="accounts, what they were billed and what it costs")
    chosen = parser.parse_args()
    try:
        books = Books(chosen.books)
        if chosen.command == "add":
            print(books.add(chosen.name, chosen.quota, chosen.rate, chosen.price))
        for account in books.all() if chosen.command == "show" else []:
            quota = "no quota" if account.quota is None else f"of {account.quota}"
            print(f"{account.name}: {account.billed} images {quota}, cost {account.billed * account.price:.2f}")
        books.close()
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
