"""A watch over code that reads what a stranger made: it may refuse in one sentence, and nothing
else may happen."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from measuring import mebibytes, within_mebibytes

from stealing.errors import StealingError, UnexpectedError

T = TypeVar("T")

MEMORY = 200
"""MiB by which no input may let a process grow."""

SECONDS = 30
"""Of the processor, within which every call ends."""

ROOM = 2048
"""MiB that a call may ask the system for: beyond, it gets a MemoryError, and the machine lives."""

SECRET = "nightingale"
"""Stands in the environment variable FUZZ_SECRET, and must not come out anywhere."""

DEEDS = (
    "os.exec",
    "os.fork",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.system",
    "os.truncate",
    "shutil.rmtree",
    "socket.connect",
    "subprocess.Popen",
)
"""Audit events that no reader of a stranger's file may raise."""


class Watch:
    """Notes files opened to write, programs started, connections made and the canary imported,
    while it is on.

    Attributes:
        deeds: what was noted.
        allowed: where paths may begin that are changed.
        on: Python cannot take an audit hook off again.
    """

    def __init__(self) -> None:
        self.deeds = list[str]()
        self.allowed: tuple[str, ...] = ()
        self.on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and self._is_deed(event, arguments):
            subject = str(arguments[0]) if arguments else ""
            if not subject.startswith(self.allowed):
                self.deeds.append(f"{event} {subject}")

    def _is_deed(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            is_written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            return bool(is_written) and "__pycache__" not in str(path)
        if event == "import":
            return str(arguments[0]).startswith("canary")
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return False  # a part of `shutil.rmtree`, which has an event of its own
        if event == "socket.connect" and arguments[1][0] == "127.0.0.1":
            return False
        return event in DEEDS


WATCH = Watch()


def tried(call: Callable[[], T], *allowed: Path) -> T | None:
    """What a call returns, or None if it refuses in one sentence; any other error fails the test.

    It also fails if the call runs code, writes outside these folders, grows by 200 MiB or does not
    end.

    Args:
        call: reads what a stranger made.
        allowed: folders in which it may make, change and remove files.
    """
    try:
        with _watched(allowed):
            return call()
    except UnexpectedError:
        raise
    except StealingError as error:
        refusal = str(error)
    assert refusal
    assert "\n" not in refusal
    assert SECRET not in refusal
    return None


@contextmanager
def _watched(allowed: tuple[Path, ...]) -> Iterator[None]:
    space = resource.getrlimit(resource.RLIMIT_AS)
    room = int((mebibytes("self", "VmSize") + ROOM) * 2**20)
    handler = signal.signal(signal.SIGPROF, _late)
    WATCH.deeds = []
    WATCH.allowed = tuple(map(str, allowed))
    try:
        with within_mebibytes(MEMORY):
            resource.setrlimit(resource.RLIMIT_AS, (room, space[1]))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            WATCH.on = True
            try:
                yield
            finally:
                WATCH.on = False
                signal.setitimer(signal.ITIMER_PROF, 0)
                resource.setrlimit(resource.RLIMIT_AS, space)
    finally:
        signal.signal(signal.SIGPROF, handler)
        assert not WATCH.deeds, f"what a stranger made did this: {WATCH.deeds}"


def _late(number: int, frame: FrameType | None) -> None:
    raise AssertionError("it does not end")
