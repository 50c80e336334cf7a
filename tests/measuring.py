"""How much memory a process takes at most, for the tests of hostile inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def within_mebibytes(most: float, process: int | str = "self") -> Iterator[None]:
    """The process takes at most so much memory more than it has now, at any moment of the body."""
    place = Path(f"/proc/{process}")

    def mebibytes(name: str) -> float:
        [line] = [
            line for line in (place / "status").read_text().splitlines() if line.startswith(name)
        ]
        return int(line.split()[1]) / 1024

    (place / "clear_refs").write_text("5")  # the peak begins anew
    before = mebibytes("VmRSS")
    yield
    peak = mebibytes("VmHWM") - before
    assert peak < most, f"{peak:.0f} MiB"
