"""The ledger: what was sent and what came back, on the disk before the run continues.

A query is counted in three steps. `reserve` counts the images of a request, in one transaction.
The request is sent outside of any transaction. `store` writes its answers, in one transaction.
If a process dies between the two, the request is *in doubt*: it stays counted, because the service
may have served and billed it. The next process that wants its images sends it again under the same
idempotency key (`adopt`), or gives it up (`forfeit`).

The statements are in `sources`, `totals`, `requests` and `answers`. Each method here is one
transaction of them, or one question.

Shape letters: B images, D feature width.
"""

import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stealing.errors import LedgerError
from stealing.numbers import check_number
from stealing.queries import requests, sources, totals
from stealing.queries.answers import (
    check_consistency,
    intact_vectors,
    read_memory,
    write_answers,
    write_memory,
)
from stealing.queries.database import connect
from stealing.queries.pace import Pace
from stealing.queries.schema import (
    SCHEMA,
    VERSION,
    Purpose,
    Reservation,
    Settle,
    Source,
    Terms,
    marks,
)

PAGE = 500
"""Images named in one statement, which may have only so many parameters."""


class Ledger:
    """Reservations, answers and totals behind one connection; used by one thread at a time.

    Args:
        place: a file, or the URL of a PostgreSQL server.

    Raises:
        LedgerError: it cannot be opened.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.database = connect(place, SCHEMA)
        # in one transaction: if two processes make a ledger, one of them gives it its identity
        with self.database.transaction() as execute:
            if not execute("SELECT identity FROM about"):
                execute("INSERT INTO about VALUES (?, ?)", (uuid.uuid4().hex, VERSION))
        [(self.identity, version)] = self.database.read("SELECT identity, version FROM about")
        if version != VERSION:
            raise LedgerError(
                f"The ledger {place} has tables of version {version}, and this code reads version "
                f"{VERSION}: name another ledger, or use the code that wrote it."
            )

    def close(self) -> None:
        """Close the database; requests of this process that are still open are in doubt."""
        self.database.close()

    def check_unchanged(self) -> None:
        """Refuse to spend by a ledger that was deleted, moved or replaced since it was opened.

        Raises:
            LedgerError: it was.
        """
        self.database.check_place()
        # another ledger may have been written into the same file
        if self.database.read("SELECT identity FROM about") != [(self.identity,)]:
            raise LedgerError(
                f"The ledger {self.place} was replaced while it was in use: restore it from a copy."
            )

    def source(self, target: str, defense: str, account: str, codec: str, size: int) -> Source:
        """Return the source under this key; add it if it is new.

        Raises:
            LedgerError: it is known with images of another size.
        """
        with self.database.transaction() as execute:
            key = (target, defense, account, codec)
            number, known_size = sources.find_or_add(execute, key, size)
        if known_size != size:
            raise LedgerError(
                f"{target} got images of {known_size} pixels before: set data.size={known_size}."
            )
        return Source(number, target, size)

    def was_asked(self, target: str) -> bool:
        """Return True if this target was ever asked."""
        return sources.has_target(self.database.read, target)

    def rename(self, old: str, new: str) -> None:
        """Give everything of one target the name of another, which the ledger does not know.

        Raises:
            LedgerError: the old name is unknown, or the new one is known.
        """
        if not self.was_asked(old) or self.was_asked(new):
            raise LedgerError(
                f"{old} cannot be renamed to {new}: {self.place} must hold the first name and not "
                "the second; python -m stealing.queries show lists all names."
            )
        with self.database.transaction() as execute:
            sources.rename_target(execute, old, new)

    def allow(self, target: str, purpose: Purpose, total: int | None) -> None:
        """Set, raise or remove the most images that all runs may send to a target.

        None means no limit. Only a person does this, by `python -m stealing.queries allow`; runs
        call `restrict`.

        Raises:
            ConfigError: `total` is not a count.
            BudgetExceeded: more were sent already.
        """
        with self.database.transaction() as execute:
            totals.set_total(execute, target, purpose, total, may_raise=True)

    def restrict(self, target: str, purpose: Purpose, total: int | None) -> None:
        """Set that limit if there is none or a higher one; None changes nothing.

        Raises:
            ConfigError: `total` is not a count.
            BudgetExceeded: more were sent already.
        """
        with self.database.transaction() as execute:
            totals.set_total(execute, target, purpose, total, may_raise=False)

    def spent(self, target: str, purpose: Purpose) -> int:
        """Return how many images were ever counted for this target and this purpose."""
        return totals.read_spent(self.database.read, target, purpose)

    def left(self, target: str, purpose: Purpose) -> float:
        """Return how many images may still be sent; infinity if there is no limit."""
        return totals.read_left(self.database.read, target, purpose)

    def in_doubt(self, target: str, purpose: Purpose) -> int:
        """Return how many images are counted and neither answered, given up nor waited for."""
        now = self.database.now()
        total = 0
        for owner, lease, images in requests.count_reserved(self.database.read, target, purpose):
            if self._is_abandoned(owner, lease, now):
                total += images
        return total

    def states(
        self, source: Source, digests: Sequence[bytes], repeat: int
    ) -> dict[bytes, tuple[str, int]]:
        """Return state (reserved, stored or failed) and request of each image that is known."""
        sql = (
            "SELECT digest, state, request FROM queries "
            "WHERE source = ? AND repeat = ? AND digest IN ({})"
        )
        rows = self._read_pages(sql, (source.id, repeat), digests)
        return {digest: (state, request) for digest, state, request in rows}

    def reserve(
        self,
        source: Source,
        batches: Sequence[tuple[list[bytes], Tensor]],
        terms: Terms,
        *,
        lease: float,
        pace: Pace,
        can_resend: bool = True,
    ) -> list[Reservation]:
        """Count images, one request a batch; leave out those that are counted already.

        Args:
            source: of the answers.
            batches: digests and images, uint8 (B, 3, size, size).
            terms: what is written beside each image.
            lease: seconds after the request's start until another process may adopt it.
            pace: how fast the target may be asked.
            can_resend: keep the images until they are answered, so that any process can send them
                again under the same key. A target in this process needs no such copy.

        Raises:
            BudgetExceeded: they do not fit what is left; none of them is counted.
            ConfigError: the price is not an amount.
            LedgerError: the ledger is no longer where it was opened.
        """
        check_number("budget.price", terms.price)
        self.check_unchanged()
        now = self.database.now()
        monotonic = time.monotonic()
        reservations = list[Reservation]()
        charged = Counter[Purpose]()
        with self.database.transaction() as execute:
            for digests, images in batches:
                free = requests.find_unreserved(execute, source, digests, terms.repeat)
                if not free:
                    continue
                # counted before it is sent: a crash in between leaves it in doubt, not uncounted
                free_digests = [digests[place] for place in free]
                # mostly all are free, and a copy of their pixels takes time
                free_images = images if len(free) == len(digests) else images[free]
                start = pace.book(execute, source.target, len(free), now)
                kept = free_images if can_resend else free_images[:0]
                request, idempotency = requests.write_request(
                    execute, source, kept, self.database.owner, start + lease
                )
                charged += requests.write_reserved(execute, source, free_digests, request, terms)
                # `start` is by the database's clock, which machines share; `due` is by our own
                due = monotonic + (start - now)
                made = Reservation(request, idempotency, free_digests, free_images, due)
                reservations.append(made)
            # an error here undoes everything above
            for purpose, count in charged.items():
                totals.charge(execute, source.target, purpose, count)
        return reservations

    def renew(self, reservations: Collection[Reservation], lease: float) -> None:
        """Extend leases of requests that this process still waits for, to `lease` from now."""
        until = self.database.now() + lease
        numbers = [reservation.request for reservation in reservations]
        with self.database.transaction() as execute:
            requests.extend_leases(execute, numbers, self.database.owner, until)

    def adopt(self, source: Source, numbers: set[int], lease: float) -> list[Reservation]:
        """Take over the requests among these that are in doubt, under their old keys."""
        if numbers:
            self.check_unchanged()
        adopted = list[Reservation]()
        for number in sorted(numbers):
            reservation = self._adopt(source, number, lease)
            if reservation is not None:
                adopted.append(reservation)
        return adopted

    def _adopt(self, source: Source, number: int, lease: float) -> Reservation | None:
        former = requests.read_lease(self.database.read, number)
        now = self.database.now()
        if former is None or not self._is_abandoned(*former, now):
            return None
        with self.database.transaction() as execute:
            request = requests.take_over(
                execute, source, number, former, self.database.owner, now + lease
            )
        if request is None:
            return None
        due = time.monotonic()  # it has waited for its turn before it was first sent
        return Reservation(number, *request, due, resent=True)

    def store(
        self,
        source: Source,
        answered: Sequence[tuple[Reservation, Tensor]],
        version: str | None,
        settle: Settle | None = None,
    ) -> dict[int, Tensor]:
        """Write answers (B, D), except to requests that another process adopted.

        Args:
            source: of the answers.
            answered: requests with what the target computed.
            version: of the target.
            settle: what decides the answers of a stateful target; the account's state after it is
                written in the same transaction.

        Returns:
            The answers that were written, by request.

        Raises:
            TargetError: they are of another width or version than those before; none is written.
            Refused, NotServed: by `settle`; no answer and no state is written.
        """
        now = self.database.now()
        stored = dict[int, Tensor]()
        with self.database.transaction() as execute:
            for reservation, features_BD in answered:
                if not requests.close_request(execute, reservation.request, self.database.owner):
                    continue  # another process adopted it, and stores its own answer
                # in this transaction: no crash comes between an answer and the state after it
                if settle is not None:
                    memory = read_memory(execute, source)
                    features_BD, memory_after = settle(features_BD, reservation, memory)
                    write_memory(execute, source, memory_after)
                check_consistency(execute, source, features_BD.shape[1], version)
                write_answers(execute, source, reservation, features_BD, now)
                stored[reservation.request] = features_BD
        return stored

    def mark_in_doubt(self, reservation: Reservation) -> None:
        """End the lease of a request that may have been served; any process may now adopt it."""
        with self.database.transaction() as execute:
            requests.end_lease(execute, reservation.request, self.database.owner)

    def release(self, source: Source, reservation: Reservation) -> None:
        """Take back the count of a request that was surely not served."""
        with self.database.transaction() as execute:
            if requests.close_request(execute, reservation.request, self.database.owner):
                for purpose, count in requests.take_back(execute, reservation.request).items():
                    totals.charge(execute, source.target, purpose, -count)

    def forfeit(self, reservation: Reservation) -> None:
        """Give up a request in doubt: it stays counted, and its images may be sent anew."""
        with self.database.transaction() as execute:
            if requests.close_request(execute, reservation.request, self.database.owner):
                requests.give_up(execute, reservation.request)

    def read(self, source: Source, digests: Sequence[bytes], repeat: int) -> Tensor:
        """Return stored answers (B, D), in the order asked for, in the precision received.

        Raises:
            LedgerError: an answer is absent, or is not as it was stored.
        """
        sql = (
            "SELECT digest, precision, answer, checksum FROM queries "
            "WHERE source = ? AND repeat = ? AND state = 'stored' AND digest IN ({})"
        )
        vectors = intact_vectors(self._read_pages(sql, (source.id, repeat), digests))
        widths = {len(vector) for vector in vectors.values()}
        if not vectors.keys() >= set(digests) or len(widths) > 1:
            raise LedgerError(
                f"An answer in {self.place} is damaged or absent: restore the ledger from a copy."
            )
        return torch.from_numpy(np.stack([vectors[digest] for digest in digests]))

    def _is_abandoned(self, owner: str, lease: float, now: float) -> bool:
        """Return True if the lease of a request is over or its owner is gone."""
        return lease < now or not self.database.is_alive(owner)

    def _read_pages(
        self, sql: str, before: tuple[object, ...], digests: Sequence[bytes]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a statement about images; its `{}` becomes marks of their digests."""
        for start in range(0, len(digests), PAGE):
            page = digests[start : start + PAGE]
            yield from self.database.read(sql.format(marks(page)), (*before, *page))
