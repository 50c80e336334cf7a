"""How this process uses its processor: torch's threads, and memory that is kept between steps."""

import ctypes
import sys

import torch

TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
"""Parameters of `mallopt`, of malloc.h."""

MOST_TRIMMED = 2**31 - 1
"""Free bytes at the end of the heap that stay there; the largest number `mallopt` takes."""

MOST_OF_HEAP = 2**30
"""Bytes from which an allocation goes back to the system as soon as it is freed."""


def set_up_processor(threads: int) -> None:
    """Let torch compute with this many threads, and keep freed memory for later allocations.

    A step frees its activations, tens of MiB. glibc gives them back to the system, so that the next
    step takes page after page anew: up to a seventh of its time (docs/speed.md). Kept memory is
    used again, in pieces: a fit may need a tenth more at its peak. Other C libraries are left as
    they are.
    """
    torch.set_num_threads(threads)
    if not sys.platform.startswith("linux"):
        return
    # musl, for one, has no such function
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, MOST_TRIMMED)
        mallopt(MMAP_THRESHOLD, MOST_OF_HEAP)
