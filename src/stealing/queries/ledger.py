"""The ledger: every image that was sent and every answer that came back, durable before anything goes on.

One transaction reserves images and counts them, the request runs outside, one transaction stores its answers. What a
crash leaves between the two is *in doubt*: it stays counted, and whoever meets it sends it again under the same
idempotency key, or gives it up.

Shape letters: B images, D feature width.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stealing.errors import BudgetExceeded, LedgerError
from stealing.queries.database import Execute, connect
from stealing.queries.pace import Pace
from stealing.queries.tables import (
    SCHEMA,
    VERSION,
    Purpose,
    Reservation,
    Settle,
    Source,
    agree,
    charge,
    checksum,
    count,
    marks,
    recall,
    remember,
)

PAGE = 500
"""Rows a statement."""


class Ledger:
    """Reservations, answers and budgets behind one connection; used by one thread at a time.

    Args:
        place: a file, or the URL of a PostgreSQL server.

    Raises:
        LedgerError: it cannot be opened.
    """

    def __init__(self, place: str) -> None:
        self.place, self.database = place, connect(place, SCHEMA)
        with self.database.transaction() as execute:
            if not execute("SELECT identity FROM about"):
                execute("INSERT INTO about VALUES (?, ?)", (uuid.uuid4().hex, VERSION))
        [(self.identity, version)] = self.database.read("SELECT identity, version FROM about")
        if version != VERSION:
            raise LedgerError(f"The ledger {place} has tables of version {version}, this code {VERSION}: give another.")

    def source(self, target: str, defense: str, account: str, codec: str, size: int) -> Source:
        """The source under this key, made where it is new.

        Raises:
            LedgerError: it is known with images of another size.
        """
        key = (target, defense, account, codec)
        with self.database.transaction() as execute:
            made = "INSERT INTO sources (target, defense, account, codec, size) VALUES (?, ?, ?, ?, ?) "
            execute(made + "ON CONFLICT DO NOTHING", (*key, size))
            found = "SELECT id, size FROM sources WHERE target = ? AND defense = ? AND account = ? AND codec = ?"
            [(number, known)] = execute(found, key)
        if known != size:
            raise LedgerError(f"{target} was asked about images of {known} pixels before: set data.size={known}.")
        return Source(number, target, size)

    def allow(self, target: str, purpose: Purpose, total: int | None) -> None:
        """Set the most images that may ever be sent to this target for this purpose; None for no such limit.

        Raises:
            BudgetExceeded: more were sent already.
        """
        try:
            with self.database.transaction() as execute:
                execute(
                    "INSERT INTO budgets (target, purpose, total) VALUES (?, ?, ?) "
                    "ON CONFLICT (target, purpose) DO UPDATE SET total = excluded.total",
                    (target, purpose, total),
                )
        except sqlite3.IntegrityError:
            spent = self.spent(target, purpose)
            raise BudgetExceeded(
                f"{spent} images were sent for {purpose} already and {total} are allowed in all: raise the total."
            ) from None

    def spent(self, target: str, purpose: Purpose) -> int:
        """Images that were ever counted against this target for this purpose."""
        rows = self.database.read("SELECT spent FROM budgets WHERE target = ? AND purpose = ?", (target, purpose))
        return int(rows[0][0]) if rows else 0

    def left(self, target: str, purpose: Purpose) -> float:
        """Images that may still be sent."""
        sql = "SELECT total - spent FROM budgets WHERE target = ? AND purpose = ? AND total IS NOT NULL"
        rows = self.database.read(sql, (target, purpose))
        return int(rows[0][0]) if rows else float("inf")

    def in_doubt(self, target: str, purpose: Purpose) -> int:
        """Images counted for this purpose, and neither answered, given up nor being asked about."""
        sql = (
            "SELECT requests.owner, requests.lease, count(*) FROM queries "
            "JOIN requests ON requests.id = queries.request JOIN sources ON sources.id = queries.source "
            "WHERE sources.target = ? AND queries.purpose = ? AND queries.state = 'reserved' "
            "GROUP BY requests.owner, requests.lease"
        )
        now = self.database.now()
        rows = self.database.read(sql, (target, purpose))
        return sum(images for owner, lease, images in rows if lease < now or not self.database.lives(owner))

    def states(self, source: Source, digests: Sequence[bytes], repeat: int) -> dict[bytes, tuple[str, int]]:
        """State and request of each of these images that the ledger knows."""
        sql = "SELECT digest, state, request FROM queries WHERE source = ? AND repeat = ? AND digest IN ({})"
        return {row[0]: (row[1], row[2]) for row in self._among(sql, (source.id, repeat), digests)}

    def reserve(
        self,
        source: Source,
        batches: Sequence[tuple[list[bytes], Tensor]],
        *,
        purpose: Purpose,
        view: str,
        repeat: int,
        price: float,
        lease: float,
        pace: Pace,
    ) -> list[Reservation]:
        """Count the images of these batches, each to be one request; those that another process counted are left out.

        Raises:
            BudgetExceeded: they do not fit what is left; none of them is counted.
        """
        made, now = list[Reservation](), self.database.now()
        try:
            with self.database.transaction() as execute:
                for digests, images in batches:
                    sql = (
                        "SELECT digest FROM queries WHERE source = ? AND repeat = ? AND state <> 'failed' "
                        f"AND digest IN ({marks(digests)})"
                    )
                    taken = {row[0] for row in execute(sql, (source.id, repeat, *digests))}
                    free = [place for place, digest in enumerate(digests) if digest not in taken]
                    if not free:
                        continue
                    names, pixels = [digests[place] for place in free], images[free]
                    start, idempotency = pace.book(execute, source.target, len(free), now), uuid.uuid4().hex
                    [(request,)] = execute(
                        "INSERT INTO requests (source, idempotency, owner, lease, images) VALUES (?, ?, ?, ?, ?) "
                        "RETURNING id",
                        (source.id, idempotency, self.database.owner, start + lease, pixels.numpy().tobytes()),
                    )
                    count(execute, source, names, (repeat, view, purpose, "reserved", request, 1, price))
                    made.append(Reservation(request, idempotency, names, pixels, start))
                charge(execute, source.target, purpose, sum(len(each.digests) for each in made))
        except sqlite3.IntegrityError:
            wanted, left = sum(len(each.digests) for each in made), self.left(source.target, purpose)
            raise BudgetExceeded(
                f"{wanted} images were to be sent for {purpose} and {left:.0f} are left to all runs together."
            ) from None
        return made

    def adopt(self, source: Source, requests: set[int], lease: float) -> list[Reservation]:
        """Those of these requests that are in doubt, now reserved by this process under their old keys."""
        adopted = []
        for request in sorted(requests):
            sql = "SELECT owner, lease FROM requests WHERE id = ? AND images IS NOT NULL"
            for owner, until in self.database.read(sql, (request,)):
                now = self.database.now()
                if until >= now and self.database.lives(owner):
                    continue
                with self.database.transaction() as execute:
                    rows = execute(
                        "UPDATE requests SET owner = ?, lease = ? WHERE id = ? AND owner = ? AND lease = ? "
                        "AND images IS NOT NULL RETURNING idempotency, images",
                        (self.database.owner, now + lease, request, owner, until),
                    )
                    names = execute("SELECT digest FROM queries WHERE request = ? ORDER BY id", (request,))
                for idempotency, pixels in rows:
                    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
                    images = images.view(-1, 3, source.size, source.size)
                    adopted.append(Reservation(request, idempotency, [name for (name,) in names], images, now))
        return adopted

    def store(
        self,
        source: Source,
        answered: Sequence[tuple[Reservation, Tensor]],
        version: str | None,
        settle: Settle | None = None,
    ) -> dict[int, Tensor]:
        """Keep the answers (B, D) of these requests; one that another process adopted meanwhile is left to it.

        Args:
            source: of the answers.
            answered: requests with what the target said.
            version: of the target.
            settle: the last word of a target that remembers accounts; what it remembers is written with the answers.

        Returns:
            By request, the answers that were kept.

        Raises:
            TargetError: of another width or version than those before; they are not kept.
            Refused: by `settle`; nothing is kept or remembered.
        """
        now, stored = self.database.now(), dict[int, Tensor]()
        with self.database.transaction() as execute:
            for reservation, features_BD in answered:
                if not self._end(execute, reservation):
                    continue
                if settle is not None:
                    features_BD, memory = settle(features_BD, reservation, recall(execute, source))
                    remember(execute, source, memory)
                agree(execute, source, features_BD.shape[1], version)
                kept = features_BD if features_BD.dtype == torch.float16 else features_BD.float()
                precision = str(kept.dtype).removeprefix("torch.")
                rows = [row.tobytes() for row in kept.contiguous().numpy()]
                values = [
                    value
                    for digest, row in zip(reservation.digests, rows, strict=True)
                    for value in (digest, row, checksum(row))
                ]
                execute(
                    "UPDATE queries SET state = 'stored', precision = ?, stored = ?, answer = new.column2, "
                    f"checksum = new.column3 FROM (VALUES {', '.join(['(?, ?, ?)'] * len(rows))}) AS new "
                    "WHERE queries.source = ? AND queries.digest = new.column1 AND queries.request = ?",
                    (precision, now, *values, source.id, reservation.request),
                )
                stored[reservation.request] = features_BD
        return stored

    def doubt(self, reservation: Reservation) -> None:
        """End the lease of a request that may have been answered or not: the next who wants it sends it again."""
        with self.database.transaction() as execute:
            sql, mine = "UPDATE requests SET lease = 0 WHERE id = ? AND owner = ?", self.database.owner
            execute(sql, (reservation.request, mine))

    def release(self, source: Source, reservation: Reservation, purpose: Purpose) -> None:
        """Take back the count of a request that was surely not served."""
        with self.database.transaction() as execute:
            if not self._end(execute, reservation):
                return
            each = "UPDATE queries SET state = 'failed', cost = cost - cost / charged, charged = charged - 1 "
            execute(each + "WHERE request = ?", (reservation.request,))
            execute("DELETE FROM queries WHERE request = ? AND charged = 0", (reservation.request,))
            charge(execute, source.target, purpose, -len(reservation.digests))

    def forfeit(self, reservation: Reservation) -> None:
        """Give up a request in doubt: it stays counted, and its images are free to be asked about anew."""
        with self.database.transaction() as execute:
            if self._end(execute, reservation):
                execute("UPDATE queries SET state = 'failed' WHERE request = ?", (reservation.request,))

    def read(self, source: Source, digests: Sequence[bytes], repeat: int) -> Tensor:
        """Answers (B, D), in the order asked for, in the precision received; all must be stored.

        Raises:
            LedgerError: one is not as it was stored.
        """
        sql = (
            "SELECT digest, precision, answer, checksum FROM queries WHERE source = ? AND repeat = ? "
            "AND state = 'stored' AND digest IN ({})"
        )
        found = dict[bytes, np.ndarray[Any, Any]]()
        for digest, precision, answer, kept in self._among(sql, (source.id, repeat), digests):
            if checksum(answer) != bytes(kept):
                raise LedgerError(f"An answer in {self.place} is damaged: restore the ledger from a copy.")
            found[bytes(digest)] = np.frombuffer(answer, np.dtype(precision))
        return torch.from_numpy(np.stack([found[digest] for digest in digests]))

    def close(self) -> None:
        """Let go of it; requests of this process that are still open are in doubt."""
        self.database.close()

    def _end(self, execute: Execute, reservation: Reservation) -> bool:
        """Close a request; False where another process adopted it meanwhile."""
        sql = "UPDATE requests SET images = NULL WHERE id = ? AND owner = ? AND images IS NOT NULL RETURNING id"
        return bool(execute(sql, (reservation.request, self.database.owner)))

    def _among(self, sql: str, before: tuple[object, ...], digests: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(digests), PAGE):
            page = digests[start : start + PAGE]
            yield from self.database.read(sql.format(marks(page)), (*before, *page))
