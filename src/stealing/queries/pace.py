"""How fast a target may be asked: its limits in, the moment at which each request may start out.

The moments are stored in the ledger, so that a limit holds over all processes that share it.
"""

import math
from dataclasses import dataclass

from stealing.numbers import LEAST, check_number
from stealing.queries.database import PATIENCE, Execute


@dataclass(frozen=True)
class Pace:
    """Limits on how fast a target is asked.

    Requests are evenly spaced: a pause does not allow a burst after it.

    Attributes:
        images: most images a second, 1e-6 to 1e9, or None for no limit.
        requests: most requests a second, 1e-6 to 1e9, or None for no limit.

    Raises:
        ConfigError: one of them is not such a number.
    """

    images: float | None = None
    requests: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("images", self.images), ("requests", self.requests)):
            if limit is not None:
                check_number(f"target.remote.pace.{name}", limit, LEAST)

    def book(self, execute: Execute, target: str, images: int, now: float) -> float:
        """Return the moment at which a request with so many images may start; move the next one's.

        Args:
            execute: of a transaction.
            target: fingerprint.
            images: in the request.
            now: by the database's clock, as is the result.
        """
        if self.images is None and self.requests is None:
            return now
        start = now
        rows = execute("SELECT booked, images, requests FROM turns WHERE target = ?", (target,))
        for booked, next_by_images, next_by_requests in rows:  # one row, or none
            start = max(next_by_images, next_by_requests)
            # Processes wait for each other up to PATIENCE. A clock that is further behind was set
            # back: the request then waits as if no time had passed, not until the clock is where
            # it was.
            set_back = booked - now
            if set_back > PATIENCE:
                start -= set_back
            start = max(now, start)
        after_images = start + images / (self.images or math.inf)
        after_request = start + 1 / (self.requests or math.inf)
        execute(
            "INSERT INTO turns VALUES (?, ?, ?, ?) "
            "ON CONFLICT (target) DO UPDATE SET booked = excluded.booked, "
            "images = excluded.images, requests = excluded.requests",
            (target, now, after_images, after_request),
        )
        return start
