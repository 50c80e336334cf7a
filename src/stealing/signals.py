"""Handle Ctrl-C and SIGTERM: stop a command with one sentence, or wait until a block ends."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

RESUME_ADVICE = "what was done is kept, and the same command resumes from there."
"""End of the sentence that every stopped command prints."""


class Stopped(SystemExit):
    """The end of a command that a signal stops.

    It derives from `SystemExit`, so that no `except Exception` handles it as an error.

    Args:
        number: of the signal.

    Attributes:
        code: exit code of the command: 1 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        # 128 plus the number is the convention of shells; Ctrl-C ends like an error, by 1.
        super().__init__(1 if number == signal.SIGINT else 128 + number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Stop the command on Ctrl-C or SIGTERM, with one sentence and exit code 1 or 143.

    Blocks may be nested: a sweep's launcher runs a cell in this process or in another one. The
    innermost block prints the sentence. A process that was started to ignore SIGTERM still does.
    """
    before = signal.getsignal(signal.SIGTERM)
    # Python sets signal handlers in the main thread only.
    is_handled = _in_main_thread() and before is not signal.SIG_IGN
    if is_handled:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(f"Stopped: {RESUME_ADVICE}")
    except Stopped as stop:
        by = " by SIGTERM" if stop.code == 128 + signal.SIGTERM else ""
        print(f"Stopped{by}: {RESUME_ADVICE}", file=sys.stderr, flush=True)
        # A plain SystemExit, so that an outer block does not print the sentence again.
        sys.exit(stop.code)
    finally:
        if is_handled:
            signal.signal(signal.SIGTERM, before)


class Deferred:
    """A `with` block that ends before a signal takes effect; a second signal does not wait.

    The block may read `pending` and raise `Stopped` at a safe moment.

    Attributes:
        pending: number of the signal that waits, or None.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Deferred":
        if _in_main_thread():  # Python delivers signals to the main thread only
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # None is a handler that C code set: Python could not put it back.
                if handler is not None:
                    self._before[number] = handler
        self.take_over()
        return self

    def take_over(self) -> None:
        """Install the handlers; call it again after a library replaced them.

        A signal that was ignored before stays ignored.
        """
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is signal.SIG_IGN else self._defer)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self._restore()
            signal.raise_signal(number)
        self.pending = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        # If the block itself stopped for the signal, it is not raised a second time.
        is_stopping = isinstance(error, Stopped | KeyboardInterrupt)
        if self.pending is not None and not is_stopping:
            signal.raise_signal(self.pending)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
