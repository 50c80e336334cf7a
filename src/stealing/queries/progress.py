"""Progress of a purchase: counts in; a bar with speed, cost and time left, or a log, out."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 30.0
"""Seconds between two lines in a log file."""

BAR_SECONDS = 0.2
"""Seconds between two changes of the bar on a terminal."""


class QueryProgress:
    """A progress bar on a terminal; elsewhere a line every half minute, to keep log files readable.

    Args:
        purpose: of the images.
        total: images to be answered.
        price: of one.
    """

    def __init__(self, purpose: str, total: int, price: float) -> None:
        self.purpose = purpose
        self.total = total
        self.price = price
        self.start = time.monotonic()
        self.printed = self.start
        self.is_log = not sys.stderr.isatty()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=self.is_log,  # its control characters would fill a log file
        )
        self.task = self.bar.add_task(f"query ({purpose})", total=total, now="")

    def __enter__(self) -> "QueryProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def update(self, answered: int, in_flight: int) -> None:
        """Show how many images are answered and stored, and how many requests are in flight."""
        now = time.monotonic()
        if now - self.printed < (LOG_SECONDS if self.is_log else BAR_SECONDS):
            return
        self.printed = now
        rate = answered / max(now - self.start, 1e-9)
        cost = answered * self.price
        text = f"{in_flight} requests in flight, {rate:.0f} images/s, cost {cost:.2f}"
        if not self.is_log:
            self.bar.update(self.task, completed=answered, now=text)
            return
        left = "time left unknown"
        if rate:
            left = f"{(self.total - answered) / rate / 60:.1f} min left"
        line = f"query ({self.purpose}): {answered}/{self.total} answered, {text}, {left}"
        print(line, file=sys.stderr, flush=True)
