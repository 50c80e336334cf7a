"""How much memory a process takes at most, for the tests of hostile inputs."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def within_mebibytes(most: float, process: int | str = "self") -> Iterator[None]:
    """Fail a body in which a process, by its number or `self`, grows by so much for a moment or for
    good."""
    if process == "self":
        # the processor's set-up keeps freed memory, and what is taken from it would not be seen
        ctypes.CDLL(None).malloc_trim(0)
    Path(f"/proc/{process}/clear_refs").write_text("5")  # forgets the most that it held
    before = mebibytes(process, "VmRSS")
    try:
        yield
    finally:
        grown = mebibytes(process, "VmHWM") - before
        assert grown < most, f"memory grew by {grown:.0f} MiB"


def mebibytes(process: int | str, field: str) -> float:
    """What a process holds, by a field of its status: VmRSS, VmSize, or VmHWM, the most that it
    held."""
    status = Path(f"/proc/{process}/status").read_text()
    line = next(row for row in status.splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024
