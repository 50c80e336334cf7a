"""Buying answers: images that the ledger has no answer to in, a ledger that has all of them out.

`buy` is the second half of "how is a query counted?"; `stealing.queries.door` is the first. Each
image of an order passes these stages, in this order:

1. `_look_up`: the ledger says which images are unasked, which are reserved by another process that
   lives, and which are in requests in doubt. Those requests are adopted or given up.
2. `_send_unasked`: the ledger reserves unasked images, which counts them, before they are sent. If
   they exceed what is left of the total of all runs, nothing is counted and nothing is sent.
3. `_ask`, in a thread of a pool: the request waits for its turn and is sent; it is sent again while
   the service is busy.
4. `_gather`: what was answered is stored. What was surely not served is taken back. Anything else
   that failed stays counted and is in doubt, because the service may have billed it.

Requests are sent from threads; only the calling thread speaks to the ledger.
"""

import sys
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.errors import Refused
from stealing.queries.ledger import Ledger
from stealing.queries.progress import QueryProgress
from stealing.queries.schema import Reservation, Source, Terms
from stealing.queries.target import InProcessTarget, StatefulTarget, Target
from stealing.queries.totals import exceeded
from stealing.queries.waiting import LONG, Busy, NotServed, Waits
from stealing.signals import Deferred

MARGIN = 10.0
"""Seconds by which a lease outlasts the request; the lease of one that waits longer is renewed."""

POLL = 0.1
"""Seconds between two looks at what another process has reserved."""


@dataclass(frozen=True)
class Order:
    """What to buy and on which terms.

    Attributes:
        source: in the ledger.
        account: who asks.
        images: uint8 (B, 3, size, size).
        places: a place in `images` by digest; only these images are bought, each once.
        terms: what the ledger writes beside each image.
        in_doubt: `resend` or `forfeit`, what becomes of requests that a crash left open.
    """

    source: Source
    account: str
    images: Tensor
    places: dict[bytes, int]
    terms: Terms
    in_doubt: str


def buy(order: Order, target: Target, ledger: Ledger) -> tuple[list[bytes], Tensor]:
    """Buy the answers to all images of the order, and store them.

    Returns:
        Digests and answers, (M, D), of the images whose answers this process bought. The ledger has
        the others.

    Raises:
        BudgetExceeded: the images do not fit what is left; nothing is sent.
        StealingError: the target failed; what was answered until then is stored.
    """
    return _Purchase(order, target, ledger).run()


class _Purchase:
    """The state of one purchase.

    An image that is not stored yet is in `unasked`, `foreign`, `adopted` or `in_flight`.

    Attributes:
        unasked: images that no process has reserved.
        foreign: images that another process has reserved; its answers are waited for.
        adopted: requests in doubt that this process took over and has not sent yet.
        in_flight: requests that were sent, by the future of their answer.
        bought: digests of images whose answers this process stored.
        answers: theirs, (B, D) of each request.
        lease: seconds until another process may take over a request of this one.
    """

    def __init__(self, order: Order, target: Target, ledger: Ledger) -> None:
        self.order = order
        self.target = target
        self.ledger = ledger
        self.unasked = deque[bytes]()
        self.foreign: list[bytes] = []
        self.adopted: list[Reservation] = []
        self.in_flight: dict[Future[Tensor], Reservation] = {}
        self.bought: list[bytes] = []
        self.answers: list[Tensor] = []
        self.lease = target.deadline + MARGIN
        self._renewed = time.monotonic()
        self._waits = Waits()
        self._polls = 0
        # torch counts threads per thread, and results depend on the number
        self._pool = ThreadPoolExecutor(
            target.in_flight,
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        )

    def run(self) -> tuple[list[bytes], Tensor]:
        self._look_up(list(self.order.places))
        try:
            self._check_total()
            with self._open_progress() as self._progress:
                while self.unasked or self.foreign or self.adopted or self.in_flight:
                    with Deferred():  # a signal here would leave a request counted and not sent
                        self._send_adopted()
                        self._send_unasked()
                    if self.in_flight:
                        self._gather()
                    elif self.foreign:
                        self._wait_for_others()
                    if self.foreign and not self.unasked:
                        self._look_up(self.foreign)
        finally:
            self._waits.stop()
            for reservation in self.adopted:  # taken over, and not sent after all
                self.ledger.mark_in_doubt(reservation)
            self._drain()
            self._pool.shutdown()
        return self.bought, torch.cat(self.answers) if self.answers else torch.empty(0, 0)

    def _look_up(self, digests: list[bytes]) -> None:
        """Find out who has reserved which of these images, and take over requests in doubt."""
        order = self.order
        states = self.ledger.states(order.source, digests, order.terms.repeat)
        unasked = set[bytes]()
        reserved: dict[bytes, int] = {}  # request by digest
        for digest in digests:
            state, request = states.get(digest, ("failed", 0))
            if state == "failed":  # given up, or never asked
                unasked.add(digest)
            elif state == "reserved":
                reserved[digest] = request
        own = {reservation.request for reservation in self.in_flight.values()}
        in_doubt = self.ledger.adopt(order.source, set(reserved.values()) - own, self.lease)
        settled = set[bytes]()
        for reservation in in_doubt:
            settled.update(reservation.digests)
            is_in_process = len(reservation.images) == 0  # it ended with the process that died
            if is_in_process:
                self._release(reservation)
            elif order.in_doubt == "forfeit":
                self.ledger.forfeit(reservation)
            else:
                self.adopted.append(reservation)
                continue
            unasked.update(order.places.keys() & set(reservation.digests))
        # in the order of the images, as a run that was never stopped asks
        self.unasked = deque(digest for digest in digests if digest in unasked)
        self.foreign = [digest for digest in reserved if digest not in settled]

    def _check_total(self) -> None:
        """Refuse the whole order, not its last part, if it exceeds the total of all runs."""
        target = self.order.source.target
        purpose = self.order.terms.purpose
        left = self.ledger.left(target, purpose)
        if len(self.unasked) > left:
            raise exceeded(len(self.unasked), left, target, purpose)

    def _open_progress(self) -> QueryProgress:
        total = len(self.unasked) + len(self.foreign)
        for reservation in self.adopted:
            total += len(reservation.digests)
        return QueryProgress(self.order.terms.purpose, total, self.order.terms.price)

    def _send_adopted(self) -> None:
        while self.adopted:
            self._send(self.adopted.pop())

    def _send_unasked(self) -> None:
        """Count unasked images and send them, as many requests as may be in flight."""
        size = self.target.images_a_request
        slots = max(0, self.target.in_flight - len(self.in_flight))
        count = min(len(self.unasked), slots * size)
        if count == 0:
            return
        digests = [self.unasked.popleft() for _ in range(count)]
        batches = list[tuple[list[bytes], Tensor]]()
        for start in range(0, count, size):
            batch = digests[start : start + size]
            rows = [self.order.places[digest] for digest in batch]
            batches.append((batch, _take(self.order.images, rows)))
        reservations = self.ledger.reserve(
            self.order.source,
            batches,
            self.order.terms,
            lease=self.lease,
            pace=self.target.pace,
            can_resend=not isinstance(self.target, InProcessTarget),
        )
        reserved = set[bytes]()
        for reservation in reservations:
            reserved.update(reservation.digests)
            self._send(reservation)
        # another process has reserved the others since they were looked up
        self.foreign += [digest for digest in digests if digest not in reserved]

    def _send(self, reservation: Reservation) -> None:
        future = self._pool.submit(self._ask, reservation)
        self.in_flight[future] = reservation
        self._progress.update(len(self.bought), len(self.in_flight))

    def _ask(self, reservation: Reservation) -> Tensor:
        """Wait for the request's turn and send it; send it again while the target is busy.

        It runs in a thread of the pool.

        Raises:
            NotServed: the purchase stopped before it was sent, or the target was busy for too long.
        """
        seconds = reservation.due - time.monotonic()
        if not self._waits.pause(seconds, "The pace of requests is limited"):
            raise NotServed
        try:
            return self._waits.answered(lambda: self._answer(reservation))
        except Busy as busy:
            if busy.served:
                raise busy.error from None
            raise NotServed from busy.error

    def _answer(self, reservation: Reservation) -> Tensor:
        images = reservation.images
        account = self.order.account
        if isinstance(self.target, InProcessTarget):
            return self.target.answer_digested(images, reservation.digests, account)
        return self.target.answer(images, account, reservation.idempotency)

    def _wait_for_others(self) -> None:
        """Pause before the next look at what another process has reserved."""
        self._polls += 1
        if self._polls == round(LONG / POLL):  # once
            print(
                f"Another process has sent {len(self.foreign)} of the images: this run waits for "
                "its answers.",
                file=sys.stderr,
            )
        time.sleep(POLL)

    def _gather(self) -> None:
        """Wait for an answer, then book every request that has ended.

        Raises:
            StealingError: the first request that failed.
        """
        often = self.lease / 3  # so that a lease is renewed long before it ends
        done, _ = wait(self.in_flight, often, return_when=FIRST_COMPLETED)
        with Deferred():  # a signal here would lose an answer that is paid
            self._book(done)
            if time.monotonic() - self._renewed > often:
                self.ledger.renew(self.in_flight.values(), self.lease)
                self._renewed = time.monotonic()

    def _book(self, done: set[Future[Tensor]]) -> None:
        """Store answers, take back what was not served, and leave the rest in doubt."""
        answered = list[tuple[Reservation, Tensor]]()
        failed = list[tuple[Reservation, BaseException]]()
        for future in done:
            reservation = self.in_flight.pop(future)
            error = future.exception()
            if error is None:
                answered.append((reservation, future.result()))
            else:
                failed.append((reservation, error))
        try:
            self._store(answered)
        finally:
            for reservation, error in failed:
                # a request that was sent before, by a process that is gone, may have been served
                if isinstance(error, NotServed | Refused) and not reservation.resent:
                    self._release(reservation)
                else:
                    self.ledger.mark_in_doubt(reservation)
        for _, error in failed:
            reason = error.__cause__ if isinstance(error, NotServed) else error
            if reason is not None:  # there is none if the purchase stopped
                raise reason from None

    def _store(self, answered: list[tuple[Reservation, Tensor]]) -> None:
        """Store answers; those that cannot be stored are in doubt, those refused are taken back."""
        is_stateful = isinstance(self.target, StatefulTarget) and self.target.remembers
        settle = self._settle if is_stateful else None
        try:
            stored = self.ledger.store(self.order.source, answered, self.target.version, settle)
        except (Refused, NotServed) as error:
            for reservation, _ in answered:
                self._release(reservation)
            if isinstance(error, NotServed) and error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        except BaseException:
            for reservation, _ in answered:
                self.ledger.mark_in_doubt(reservation)
            raise
        for reservation, _ in answered:
            answers = stored.get(reservation.request)
            if answers is not None:
                self.bought += reservation.digests
                self.answers.append(answers)
            else:  # another process adopted the request, and may have taken it back
                for digest in reservation.digests:
                    if digest in self.order.places:
                        self.foreign.append(digest)
        self._progress.update(len(self.bought), len(self.in_flight))

    def _settle(
        self, features_BD: Tensor, reservation: Reservation, memory: bytes | None
    ) -> tuple[Tensor, bytes]:
        assert isinstance(self.target, StatefulTarget)
        return self.target.settle(
            features_BD,
            reservation.images,
            reservation.digests,
            self.order.account,
            memory,
        )

    def _release(self, reservation: Reservation) -> None:
        self.ledger.release(self.order.source, reservation)

    def _drain(self) -> None:
        """Book what is in flight after an error, Ctrl-C or SIGTERM; a second signal ends this."""
        while self.in_flight:
            with suppress(Exception):
                self._gather()


def _take(images_uint8: Tensor, places: list[int]) -> Tensor:
    """Return these images; neighbours are a view, because a copy of pixels takes time."""
    first = places[0]
    after = first + len(places)
    if places == list(range(first, after)):
        return images_uint8[first:after]
    return images_uint8[places]
