"""How fast a service may be asked: its limits in, the moment at which each request may start out.

The moments lie in the ledger, so that a limit holds over all processes that share it.
"""

from dataclasses import dataclass

from stealing.queries.database import Execute


@dataclass(frozen=True)
class Pace:
    """Most images and requests a second, None for no limit.

    Requests follow each other evenly: a second's worth is not sent at once after a pause.
    """

    images: float | None = None
    requests: float | None = None

    def book(self, execute: Execute, target: str, images: int, now: float) -> float:
        """The moment at which a request with so many images may start; the next one's are moved on."""
        if self.images is None and self.requests is None:
            return now
        rows = execute("SELECT images, requests FROM paces WHERE target = ?", (target,))
        start = max(now, *rows[0]) if rows else now
        after = start + images / (self.images or float("inf")), start + 1 / (self.requests or float("inf"))
        execute(
            "INSERT INTO paces VALUES (?, ?, ?) ON CONFLICT (target) DO UPDATE SET images = excluded.images, "
            "requests = excluded.requests",
            (target, *after),
        )
        return start
