"""The books of a service: accounts with quotas, rates and prices; what was billed and answered.

    python -m stealing.service.accounts add attacker/0 --quota 30000 --price 0.002
    python -m stealing.service.accounts show

A key is printed once, when it is made; the books hold its hash. An answer under an idempotency key,
its bill and the defense's memory of the account are written in one transaction.
"""

import argparse
import hashlib
import hmac
import secrets
import time
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.artefacts import WORK
from stealing.commands import one_line_errors
from stealing.errors import ConfigError
from stealing.numbers import LEAST, as_number, check_integer, check_number
from stealing.queries.database import Execute, connect
from stealing.service.errors import ApiError
from stealing.text import printable

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash BLOB NOT NULL, quota INTEGER, rate REAL,
    price REAL NOT NULL, billed INTEGER NOT NULL DEFAULT 0 CHECK (billed >= 0),
    CHECK (billed <= quota));
CREATE TABLE IF NOT EXISTS memories (
    account TEXT NOT NULL REFERENCES accounts (name), version TEXT NOT NULL, memory BLOB NOT NULL,
    PRIMARY KEY (account, version));
CREATE TABLE IF NOT EXISTS answers (
    account TEXT NOT NULL REFERENCES accounts (name), idempotency TEXT NOT NULL, body BLOB NOT NULL,
    features BLOB NOT NULL, width INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (account, idempotency));
CREATE INDEX IF NOT EXISTS answers_time ON answers (time)
"""


@dataclass(frozen=True)
class Account:
    """One client of the service.

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
        # a second connection: keys are looked up while a batch holds its transaction
        self._reading = connect(place, "")

    def add(self, name: str, quota: int | None, rate: float | None, price: float) -> str:
        """Make an account and return its key, which is stored nowhere.

        Args:
            name: as defenses know it.
            quota: most images that are ever answered, at least 1; None for no limit.
            rate: most images a second, 1e-6 to 1e9; None for no limit.
            price: of an image, 0 to 1e9.

        Raises:
            ConfigError: there is an account of this name, or a number is out of its range.
        """
        if quota is not None:
            check_integer("--quota", quota, low=1)
        if rate is not None:
            check_number("--rate", rate, LEAST)
        check_number("--price", price)
        if not (name and name.isprintable()):
            raise ConfigError(
                "The name of an account is a word of printable letters, such as attacker/0: "
                "choose one."
            )
        identity = secrets.token_hex(6)
        secret = secrets.token_urlsafe(24)
        with self.database.transaction() as execute:
            if execute("SELECT 1 FROM accounts WHERE name = ?", (name,)):
                raise ConfigError(f"There is an account {name} already: choose another name.")
            execute(
                "INSERT INTO accounts (name, id, hash, quota, rate, price) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (name, identity, _hash(secret), quota, rate, price),
            )
        return f"{identity}.{secret}"

    def all(self) -> list[Account]:
        """Return every account, by name."""
        rows = self._reading.read(
            "SELECT name, quota, rate, price, billed FROM accounts ORDER BY name"
        )
        return [Account(*row) for row in rows]

    def account(self, key: str) -> Account | None:
        """Return the account of a key, or None; the time it takes reveals nothing of the key."""
        identity, _, secret = key.partition(".")
        sql = "SELECT hash, name, quota, rate, price, billed FROM accounts WHERE id = ?"
        rows = self._reading.read(sql, (identity,))
        # compare in any case, so that an unknown account takes as long as a wrong secret
        stored_hash = bytes(rows[0][0]) if rows else bytes(32)
        is_right = hmac.compare_digest(stored_hash, _hash(secret))
        if not rows or not is_right:
            return None
        return Account(*rows[0][1:])

    def close(self) -> None:
        """Close the database."""
        self._reading.close()
        self.database.close()

    def forget(self, before: float) -> None:
        """Delete answers to requests before this moment (seconds since 1970), with their keys."""
        with self.database.transaction() as execute:
            execute("DELETE FROM answers WHERE time < ?", (before,))


def stored_answer(execute: Execute, account: str, idempotency: str, body: bytes) -> Tensor | None:
    """Return the answer (B, D) that was given under an idempotency key, or None.

    Raises:
        ApiError: the key was used for another request.
    """
    rows = execute(
        "SELECT body, features, width FROM answers WHERE account = ? AND idempotency = ?",
        (account, idempotency),
    )
    if not rows:
        return None
    [(stored_body, features, width)] = rows
    if bytes(stored_body) != body:
        raise ApiError(422, "This Idempotency-Key was used for another request: send a new one.")
    # a bytearray, because a tensor needs memory that it may write to
    rows_BD = torch.frombuffer(bytearray(features), dtype=torch.float32)
    return rows_BD.view(-1, width)


def bill(
    execute: Execute, account: str, idempotency: str | None, body: bytes, features_BD: Tensor
) -> None:
    """Bill an answer, and store it under its idempotency key if it has one.

    Raises:
        ApiError: the quota has too few images left.
    """
    count = len(features_BD)
    # one statement checks and bills, so that two batches cannot pass the quota together
    billed = execute(
        "UPDATE accounts SET billed = billed + ? "
        "WHERE name = ? AND (quota IS NULL OR billed + ? <= quota) RETURNING name",
        (count, account, count),
    )
    if not billed:
        sql = "SELECT quota - billed FROM accounts WHERE name = ?"
        [(left,)] = execute(sql, (account,))
        raise ApiError(
            403,
            f"{count} images exceed the {left} that are left of this account's quota: send fewer.",
        )
    if idempotency is not None:
        width = features_BD.shape[1]
        content = features_BD.float().contiguous().numpy().tobytes()
        row = (account, idempotency, body, content, width, time.time())
        execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)


def load_memory(execute: Execute, account: str, version: str) -> bytes | None:
    """Return the memory of an account that a version's defense stored, or None if it has none."""
    sql = "SELECT memory FROM memories WHERE account = ? AND version = ?"
    rows = execute(sql, (account, version))
    return bytes(rows[0][0]) if rows else None


def store_memory(execute: Execute, account: str, version: str, memory: bytes) -> None:
    """Store what the defense of this version remembers of the account."""
    execute(
        "INSERT INTO memories VALUES (?, ?, ?) "
        "ON CONFLICT (account, version) DO UPDATE SET memory = excluded.memory",
        (account, version, memory),
    )


def _hash(secret: str) -> bytes:
    # a client may send half of a surrogate pair; it is a wrong key, no error
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stealing.service.accounts", description="Accounts of a service."
    )
    parser.add_argument(
        "--books",
        default=str(WORK / "service" / "books.sqlite"),
        help="file of the accounts (%(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="make an account and print its key, this once")
    adding.add_argument("name", help="such as attacker/0 or honest/cifar10")
    adding.add_argument("--quota", type=as_number, help="most images ever")
    adding.add_argument("--rate", type=as_number, help="most images a second")
    adding.add_argument("--price", type=as_number, default=0.0, help="of an image")
    commands.add_parser("show", help="accounts, what they were billed and what it costs")
    return parser


def main() -> None:
    """Add an account, or show all."""
    chosen = _arguments().parse_args()
    with one_line_errors(), closing(Books(chosen.books)) as books:
        if chosen.command == "add":
            print(books.add(chosen.name, chosen.quota, chosen.rate, chosen.price))
        else:
            for account in books.all():
                print(printable(_line(account)))


def _line(account: Account) -> str:
    """Return an account with what it was billed, as one line."""
    quota = "no quota" if account.quota is None else f"of {account.quota}"
    cost = account.billed * account.price
    return f"{account.name}: {account.billed} images {quota}, cost {cost:.2f}"


if __name__ == "__main__":
    main()
