"""What a person sees while images are asked about: answered, spent, in flight, images a second, cost and time left."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A progress bar on a terminal; elsewhere one line every half minute, so that a log file stays readable.

    Args:
        purpose: of the images.
        total: images to be answered.
        price: of one.
    """

    def __init__(self, purpose: str, total: int, price: float) -> None:
        self.purpose, self.total, self.price, self.done = purpose, total, price, 0
        self.start = self.printed = time.monotonic()
        name, now = TextColumn("{task.description}"), TextColumn("{task.fields[now]}")
        self.quiet = not sys.stderr.isatty()
        self.bar = Progress(
            name, BarColumn(), MofNCompleteColumn(), now, TimeRemainingColumn(),
            console=Console(stderr=True), disable=self.quiet,
        )  # fmt: skip
        self.task = self.bar.add_task(f"query ({purpose})", total=total, now="")

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def flying(self, requests: int) -> None:
        """So many requests are on their way."""
        self._show(requests)

    def answered(self, images: int, requests: int) -> None:
        """So many images are answered and stored, and so many requests on their way."""
        self.done = images
        self._show(requests)

    def _show(self, requests: int) -> None:
        now = time.monotonic()
        if now - self.printed < (30 if self.quiet else 0.2):
            return
        self.printed, seconds = now, max(now - self.start, 1e-9)
        rate = self.done / seconds
        said = f"{requests} requests in flight, {rate:.0f} images/s, cost {self.done * self.price:.2f}"
        if self.quiet:
            left = f"{(self.total - self.done) / rate / 60:.1f} min left" if rate else "time left unknown"
            line = f"query ({self.purpose}): {self.done}/{self.total} answered, {said}, {left}"
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.update(self.task, completed=self.done, now=said)
