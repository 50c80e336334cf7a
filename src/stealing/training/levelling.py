"""Whether an attack was trained to its end: the losses of its steps in, a verdict out."""

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from stealing.reading import InvalidContent, first_line, read_text

PART = 10
"""The last tenth of the logged steps is compared with the tenth before it."""

FEWEST = 3
"""Logged values that a tenth must hold: the loss of one batch is too noisy to judge by."""

LARGEST_CURVES = 4 * 2**20
"""Bytes of `curves.csv`, enough for a million steps. Its values take about 120 MiB of memory."""

LEVEL = 0.02
"""Greatest relative change between the two tenths of a loss that has levelled off."""


def last_change(losses: Sequence[float]) -> float | None:
    """Return the relative change of the mean loss from the second-last tenth to the last tenth.

    Args:
        losses: of the logged steps, in their order.

    Returns:
        The difference as a share of the earlier mean, negative if the loss still falls; None if a
        tenth holds fewer than `FEWEST` values, or the earlier mean is zero.
    """
    count = len(losses) // PART
    if count < FEWEST:
        return None
    before = fmean(losses[-2 * count : -count])
    if before == 0:
        return None
    return (fmean(losses[-count:]) - before) / abs(before)


def levelled(losses: Sequence[float]) -> bool:
    """Return True if the loss changed by at most `LEVEL`; too few values never count as level."""
    change = last_change(losses)
    return change is not None and abs(change) <= LEVEL


def curve_of(folder: Path) -> list[tuple[int, float]]:
    """Return the logged steps of a surrogate's training with their losses, perhaps none.

    A file that a fit does not write, which may be a stranger's, counts as none: one line says so.
    """
    path = folder / "curves.csv"
    if not path.exists():
        return []
    try:
        return sorted(_rows(read_text(path, LARGEST_CURVES)))
    except InvalidContent as why:
        line = f"{path} cannot be read ({why}): the curve is left out."
        print(line, file=sys.stderr, flush=True)
        return []


def _rows(text: str) -> list[tuple[int, float]]:
    """Return step and loss of each row that has a loss.

    Raises:
        InvalidContent: a row has no whole number as its step, or no finite number as its loss.
    """
    curve: list[tuple[int, float]] = []
    try:
        for row in csv.DictReader(StringIO(text, newline="")):
            if row.get("steal/loss"):
                step = int(row["step"])
                loss = float(row["steal/loss"])
                if not (0 <= step < 2**63 and math.isfinite(loss)):
                    raise InvalidContent("a step or a loss is out of range")
                curve.append((step, loss))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InvalidContent(first_line(error)) from None
    return curve


def is_finished(training: Mapping[str, Any] | None) -> bool:
    """Return True if nothing suggests that a longer attack would recover more.

    The loss must have levelled off, and the attack must have trained for at least as many steps as
    its preset does. Each condition alone says little. A schedule that falls to zero levels any
    loss, after six steps as after six thousand. The preset's steps were chosen for its own images
    and network.

    Args:
        training: of `result.json`; None if it was not recorded.
    """
    if training is None or training["preset_steps"] is None:
        return False
    return bool(training["levelled"]) and training["steps"] >= training["preset_steps"]
