"""Measure how easily an image encoder can be stolen through its API.

Reproduces StolenEncoder (arXiv:2201.05889) and goes beyond it.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stealing.surrogates import load_surrogate

__all__ = ["load_surrogate"]

# OpenMP reads this once, when torch is loaded. By default its threads spin while they wait for each
# other, and on a machine with other work they spin away the time of the thread that they wait for
# (benchmarks/threads.py measures it). It stands here because this file runs before any other of the
# package. A value that the user set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """Import `load_surrogate` at its first use, so that `import stealing` does not load torch."""
    if name == "load_surrogate":
        from stealing.surrogates import load_surrogate

        return load_surrogate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
