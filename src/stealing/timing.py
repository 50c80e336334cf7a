"""How long work takes on a device: a function in, seconds out."""

import time
from collections.abc import Callable

import torch

clock = time.perf_counter
"""Seconds by which everything here is timed."""


def now(device: str) -> float:
    """Return the moment at which the device has computed what it was given."""
    if device == "cuda":  # a GPU computes while Python goes on
        torch.cuda.synchronize()
    return clock()


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Return how long the second of two calls takes; the first one also allocates memory."""
    work()
    start = now(device)
    work()
    return now(device) - start
