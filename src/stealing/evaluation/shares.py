"""The share of a target's value that an attack took: accuracies of tasks in, a ratio out.

For one task it is (SA - C) / (reference - C). C is the accuracy of the strongest control; the
reference is the target without its defense or the target as it is offered. For several tasks both
gaps are summed first. The share of a task with a small gap is noise, and a ratio of sums gives it
little weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stealing.evaluation.bootstrap import Estimate
from stealing.evaluation.protocol import RECOVERABLE, controls_among


@dataclass(frozen=True)
class Control:
    """The strongest control on the held rows: C.

    Attributes:
        name: of the control; see `controls_among`.
        next: name of the second strongest; None if there is only one control.
        lead: accuracy of the strongest minus that of the second, on the held rows; None likewise.
    """

    name: str
    next: str | None
    lead: float | None


def strongest_control(held: Mapping[str, float]) -> Control:
    """Return C; of equally strong controls, the first of `controls_among`.

    Args:
        held: accuracies on the held rows, by encoder.
    """
    # Sorting is stable: equal ones stay in their order.
    first, *others = sorted(controls_among(held), key=lambda name: -held[name])
    if not others:
        return Control(first, None, None)
    return Control(first, others[0], held[first] - held[others[0]])


def reaches(gap: float, limit: float) -> bool:
    """Return True if a gap between accuracies is at least this limit.

    Rounded: 0.44 - 0.34 is a tenth of the rows, but less than 0.1 as a float.
    """
    return round(gap - limit, 9) >= 0


@dataclass(frozen=True)
class TaskEstimates:
    """One task under one head.

    Attributes:
        estimates: of accuracies on the test split, by encoder.
        held: accuracies on the held rows, by encoder.
        control: C.
    """

    estimates: Mapping[str, Estimate]
    held: Mapping[str, float]
    control: Control

    def held_gap(self, name: str) -> float:
        """Return the accuracy of an encoder minus C, on the held rows."""
        return self.held[name] - self.held[self.control.name]


def share(tasks: Sequence[TaskEstimates], reference: str) -> tuple[float, list[float]] | None:
    """Return (SA - C) / (reference - C) on the test split, each a sum over tasks, and its interval.

    Args:
        tasks: of one head.
        reference: `TA_clean` or `TA`.

    Returns:
        None without a task or without the reference; if the reference is so close to C on the held
        rows that a share of the gap is noise; or if it is not ahead of C on the test split. The
        last is no choice by test images: a quotient by a number that is not above 0 means nothing.
    """
    if not tasks or any(reference not in task.estimates for task in tasks):
        return None
    # Decided on the held rows: otherwise the variance of the test images decides what is reported.
    if not reaches(_held_gap(tasks, reference), RECOVERABLE * len(tasks)):
        return None
    control = Estimate.sum([task.estimates[task.control.name] for task in tasks])
    taken = _test_sum(tasks, "SA") - control
    whole = _test_sum(tasks, reference) - control
    # There is no such figure then, whatever the held rows say.
    if whole.point <= 0:
        return None
    return taken.point / whole.point, (taken / whole).interval()


def held_share(tasks: Sequence[TaskEstimates], reference: str) -> float | None:
    """Return the same share on the held rows, or None if it is not known or there is no gap."""
    if not tasks or any(reference not in task.held for task in tasks):
        return None
    whole = _held_gap(tasks, reference)
    return _held_gap(tasks, "SA") / whole if whole > 0 else None


def _held_gap(tasks: Sequence[TaskEstimates], name: str) -> float:
    return sum(task.held_gap(name) for task in tasks)


def _test_sum(tasks: Sequence[TaskEstimates], name: str) -> Estimate:
    return Estimate.sum([task.estimates[name] for task in tasks])
