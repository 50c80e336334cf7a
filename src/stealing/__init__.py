"""Measure how easily an image encoder can be stolen through its API (StolenEncoder, arXiv:2201.05889, and beyond)."""

import os

# OpenMP reads this once, when torch is loaded. By default its threads spin while they wait for each other, and on a
# machine with other work they spin away the time of the thread that they wait for (figures: docs/machines.md).
# It stands here because this file runs before any other of the package; a value that the user set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
