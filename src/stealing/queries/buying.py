"""Buy: images that the ledger has no answer to in, a ledger that has them all out, whatever stops on the way.

Requests go out side by side from threads; the ledger is spoken to by the calling thread alone.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stealing.errors import BudgetExceeded, Refused
from stealing.queries.bar import Bar
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.tables import Purpose, Reservation, Source

MARGIN = 10.0
"""Seconds by which a lease outlasts its request."""

POLL = 0.1
"""Seconds between two looks at what another process has reserved."""


@contextmanager
def _unbroken() -> Iterator[None]:
    """Ctrl-C waits for what is inside, or a request would stay booked and not sent; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where it never comes
        return
    came = list[int]()

    def later(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for number in came:
            signal.raise_signal(number)


class NotServed(Exception):
    """Around an error of a request that was surely not served: `__cause__` says why."""


class Target(Protocol):
    """What answers. Local or remote, it owns its defense.

    Attributes:
        fingerprint: which encoder, endpoint and version.
        defense_fingerprint: which defense.
        codec: how pixels are changed on their way, empty where they are not.
        version: what the target says of itself, or None.
        size: height and width of the images that it takes.
        images_a_request: most images a request.
        in_flight: most requests at a time.
        deadline: seconds within which a request ends.
        pace: how fast it may be asked.
        is_known: whether it is ours, so that its answers need no first trial.
    """

    fingerprint: str
    defense_fingerprint: str
    codec: str
    version: str | None
    size: int
    images_a_request: int
    in_flight: int
    deadline: float
    pace: Pace
    is_known: bool

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Features (B, D) of uint8 images (B, 3, size, size).

        Raises:
            NotServed: the request was surely not served, so that it need not be counted.
        """


@runtime_checkable
class Settling(Protocol):
    """A target in this process whose answers depend on what the account asked before.

    `answer` is what can be computed side by side; `settle` has the last word, within the transaction that stores it, so
    that requests of an account follow each other and no crash comes between an answer and its memory.
    """

    remembers: bool

    def settle(
        self, features_BD: Tensor, images_uint8: Tensor, account: str, memory: bytes | None
    ) -> tuple[Tensor, bytes]:
        """The answers (B, D), and the account's memory after them.

        Raises:
            Refused: this account gets no answer any more.
        """


@dataclass(frozen=True)
class Order:
    """What to buy and on which terms.

    Attributes:
        source: in the ledger.
        account: who asks.
        images: uint8 (B, 3, size, size).
        places: of each distinct digest in `images`.
        purpose, view, repeat, price: as in the ledger.
        in_doubt: `resend` or `forfeit`, what becomes of requests that a crash left open.
    """

    source: Source
    account: str
    images: Tensor
    places: dict[bytes, int]
    purpose: Purpose
    view: str
    repeat: int
    price: float
    in_doubt: str


def buy(order: Order, target: Target, ledger: Ledger) -> dict[bytes, Tensor]:
    """Have every image of the order answered and stored; what this process stored, (D,) by digest.

    Raises:
        BudgetExceeded: it does not fit what is left; nothing is sent.
        StealingError: the target's; what was answered until then is stored.
    """
    return _Purchase(order, target, ledger).made()


class _Purchase:
    def __init__(self, order: Order, target: Target, ledger: Ledger) -> None:
        self.order, self.target, self.ledger = order, target, ledger
        self.flying: dict[Future[Tensor], Reservation] = {}
        self.doubtful: list[Reservation] = []
        self.stopping, self.bought = threading.Event(), dict[bytes, Tensor]()
        self.lease = target.deadline + MARGIN
        self.settles = isinstance(target, Settling) and target.remembers

    def made(self) -> dict[bytes, Tensor]:
        free, theirs = self._sorted(list(self.order.places))
        threads = torch.get_num_threads()  # each thread has a number of its own, and results depend on it
        pool = ThreadPoolExecutor(self.target.in_flight, initializer=torch.set_num_threads, initargs=(threads,))
        total = len(free) + len(theirs) + sum(len(reservation.digests) for reservation in self.doubtful)
        try:
            left = self.ledger.left(self.order.source.target, self.order.purpose)
            if len(free) > left:
                raise BudgetExceeded(
                    f"{len(free)} images were to be sent for {self.order.purpose} and {left:.0f} are left to all runs "
                    "together: ask about fewer, or raise the total."
                )
            with Bar(self.order.purpose, total, self.order.price) as self.bar:
                while free or theirs or self.doubtful or self.flying:
                    with _unbroken():
                        while self.doubtful:
                            self._send(pool, self.doubtful.pop())
                        self._reserve(pool, free, theirs)
                    if self.flying:
                        self._gather()
                    elif theirs:
                        time.sleep(POLL)
                    if theirs and not free:
                        free, theirs = self._sorted(theirs)
        finally:
            self.stopping.set()
            for reservation in self.doubtful:  # adopted, and not sent after all
                self.ledger.doubt(reservation)
            self._drain()
            pool.shutdown()
        return self.bought

    def _sorted(self, names: list[bytes]) -> tuple[deque[bytes], list[bytes]]:
        """Images that nobody has reserved, and those that another has; requests in doubt that hold some are adopted."""
        order = self.order
        states = self.ledger.states(order.source, names, order.repeat)
        mine = {reservation.request for reservation in self.flying.values()}
        open_ = {name: request for name, (state, request) in states.items() if state == "reserved"}
        doubtful = self.ledger.adopt(order.source, set(open_.values()) - mine, self.lease)
        unasked = {name for name in names if states.get(name, ("failed", 0))[0] == "failed"}
        if order.in_doubt == "forfeit":
            for reservation in doubtful:
                self.ledger.forfeit(reservation)
                unasked |= order.places.keys() & set(reservation.digests)
            doubtful = []
        free = deque(name for name in names if name in unasked)  # as a run that was never stopped would ask
        settled = {name for reservation in doubtful for name in reservation.digests}.union(free)
        theirs = [name for name in names if name in open_ and name not in settled]
        self.doubtful += doubtful
        return free, theirs

    def _reserve(self, pool: ThreadPoolExecutor, free: deque[bytes], theirs: list[bytes]) -> None:
        """Send out as many requests of free images as may be in flight."""
        order, size = self.order, self.target.images_a_request
        slots = max(0, self.target.in_flight - len(self.flying))
        now = [free.popleft() for _ in range(min(len(free), slots * size))]
        batches = [now[start : start + size] for start in range(0, len(now), size)]
        if batches:
            made = self.ledger.reserve(
                order.source,
                [(names, order.images[[order.places[name] for name in names]]) for names in batches],
                purpose=order.purpose, view=order.view, repeat=order.repeat, price=order.price,
                lease=self.lease, pace=self.target.pace,
            )  # fmt: skip
            for reservation in made:
                self._send(pool, reservation)
            theirs += set(now) - {name for reservation in made for name in reservation.digests}

    def _send(self, pool: ThreadPoolExecutor, reservation: Reservation) -> None:
        early = max(0.0, reservation.start - self.ledger.database.now())
        self.flying[pool.submit(self._answered, reservation, early)] = reservation
        self.bar.flying(len(self.flying))

    def _answered(self, reservation: Reservation, early: float) -> Tensor:
        """In a thread of the pool: wait for the request's turn, then ask."""
        if self.stopping.wait(early):
            raise NotServed
        return self.target.answer(reservation.images, self.order.account, reservation.idempotency)

    def _gather(self) -> None:
        """Store what has been answered, and say what went wrong.

        Raises:
            StealingError: the first thing that did.
        """
        done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
        with _unbroken():
            self._keep(done)

    def _keep(self, done: set[Future[Tensor]]) -> None:
        ended = [(future, self.flying.pop(future)) for future in done]
        try:
            self._store([(reservation, future.result()) for future, reservation in ended if not future.exception()])
        finally:
            for future, reservation in ended:
                error = future.exception()
                if isinstance(error, NotServed | Refused):
                    self.ledger.release(self.order.source, reservation, self.order.purpose)
                elif error is not None:
                    self.ledger.doubt(reservation)
        for future, _ in ended:
            error = future.exception()
            if isinstance(error, NotServed):
                error = error.__cause__
            if error is not None:
                raise error from None

    def _store(self, answered: Sequence[tuple[Reservation, Tensor]]) -> None:
        try:
            settle = self._settled if self.settles else None
            kept = self.ledger.store(self.order.source, answered, self.target.version, settle)
        except Refused:
            for reservation, _ in answered:
                self.ledger.release(self.order.source, reservation, self.order.purpose)
            raise
        except BaseException:
            for reservation, _ in answered:
                self.ledger.doubt(reservation)
            raise
        for reservation, _ in answered:
            if reservation.request in kept:
                self.bought |= dict(zip(reservation.digests, kept[reservation.request], strict=True))
        self.bar.answered(len(self.bought), len(self.flying))

    def _settled(self, features_BD: Tensor, reservation: Reservation, memory: bytes | None) -> tuple[Tensor, bytes]:
        assert isinstance(self.target, Settling)
        return self.target.settle(features_BD, reservation.images, self.order.account, memory)

    def _drain(self) -> None:
        """After an error or Ctrl-C, keep what is in flight; a second Ctrl-C leaves it in doubt."""
        while self.flying:
            with suppress(Exception):
                self._gather()
