"""Waits between requests: for their turn, and while a service is busy.

Each wait ends if the purchase stops. Waits are measured by the monotonic clock, so that no change
of the machine's time makes them longer.
"""

import math
import random
import sys
import threading
import time
from collections.abc import Callable

from torch import Tensor

from stealing.errors import TargetError

LONG = 10.0
"""Seconds beyond which a wait is announced."""

FIRST = 0.5
"""Seconds of the first wait for a busy service that names no time; the next are twice as long."""

SHORTEST = 0.05
"""Seconds of the shortest wait, whatever a service names: it must not be asked too often."""

LONGEST = 60.0
"""Seconds of the longest of those waits."""

# a generator of its own: jitter must take nothing from the one that results may depend on
_random = random.Random()


class NotServed(Exception):
    """A request was surely not served; `__cause__` is the error that says why."""


class Busy(Exception):
    """A service refuses a request for now, and may take the same one later.

    Args:
        why: what it answered.
        after: seconds after which it wants to be asked again, or None if it did not say.
        patience: seconds that one request may wait in all.
        served: True if an earlier attempt of this request may have been served.
        error: what to raise if it is busy for longer.
    """

    def __init__(
        self, why: str, *, after: float | None, patience: float, served: bool, error: TargetError
    ) -> None:
        super().__init__(why)
        self.after = after
        self.patience = patience
        self.served = served
        self.error = error


class Waits:
    """The waits of one purchase, in all its threads."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._announced_until = 0.0

    def stop(self) -> None:
        """End every wait, now and later."""
        self._stopped.set()

    def pause(self, seconds: float, why: str) -> bool:
        """Wait; return False if the purchase stopped meanwhile.

        Args:
            seconds: how long.
            why: the beginning of the announcement of a long wait.
        """
        self._announce(seconds, why)
        return not self._stopped.wait(max(0.0, seconds))

    def answered(self, ask: Callable[[], Tensor]) -> Tensor:
        """Return what the target answers; ask again each time that it is busy.

        Raises:
            Busy: it was for longer than its patience, or the purchase stopped.
        """
        waited = 0.0
        refusals = 0
        until = math.inf
        while True:
            try:
                return ask()
            except Busy as busy:
                refusals += 1
                seconds = max(busy.after, SHORTEST) if busy.after else backoff(refusals)
                now = time.monotonic()
                # the clock counts too: refusals that come slowly and name short waits must end
                until = min(until, now + busy.patience)
                if now > until or waited + seconds > busy.patience:
                    raise
                if not self.pause(seconds, str(busy)):
                    raise
                waited += seconds

    def _announce(self, seconds: float, why: str) -> None:
        """Print a long wait, once for all that begin before an announced one ends."""
        now = time.monotonic()
        with self._lock:
            if seconds <= LONG or now < self._announced_until:
                return
            self._announced_until = now + seconds
        print(f"{why}: the next request goes out in {seconds:.0f} s.", file=sys.stderr, flush=True)


def backoff(refusals: int) -> float:
    """Return the seconds to wait after so many refusals that named no time.

    There is jitter, so that requests that were refused together do not return together.
    """
    longest = min(LONGEST, FIRST * 2.0 ** min(refusals - 1, 16))
    return _random.uniform(longest / 2, longest)
