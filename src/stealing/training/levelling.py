"""Whether an attack was trained to its end: the loss of its steps in, what `result.json` says of it out."""

from collections.abc import Mapping, Sequence
from csv import DictReader
from pathlib import Path
from statistics import fmean
from typing import Any

PART = 10
"""The last tenth of the logged steps is compared with the tenth before it."""

FEWEST = 3
"""Logged values that a tenth must hold: one batch's loss is too noisy to judge by."""

LEVEL = 0.02
"""Greatest relative change from the one tenth to the other of a loss that counts as levelled off."""


def last_change(losses: Sequence[float]) -> float | None:
    """Return how much the mean loss of the last tenth differs from that of the tenth before it.

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
    """Return whether the loss stayed within `LEVEL` over the last two tenths; too few values are not level."""
    change = last_change(losses)
    return change is not None and abs(change) <= LEVEL


def curve_of(folder: Path) -> list[tuple[int, float]]:
    """Return the logged steps of a surrogate's training with their losses; empty if there are none."""
    path = folder / "curves.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in DictReader(file) if row.get("steal/loss")]
    return sorted((int(row["step"]), float(row["steal/loss"])) for row in rows)


def is_finished(training: Mapping[str, Any] | None) -> bool:
    """Return whether nothing suggests that a longer attack would get more.

    The loss must have levelled off, and the attack must have trained for at least as many steps as
    its preset does. The first alone says little: a schedule that falls to zero levels any loss, after
    six steps as after six thousand. The second alone says little about other images or networks.

    Args:
        training: of `result.json`; None if it was not recorded.
    """
    if training is None or training["preset_steps"] is None:
        return False
    return bool(training["levelled"]) and training["steps"] >= training["preset_steps"]
