"""Shares of an encoder's value: figures of a task or a run group in; shares and reasons out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from stealing.evaluation.protocol import INFORMATIVE, RECOVERABLE
from stealing.evaluation.shares import reaches
from stealing.evaluation.statistics import SHARES, control_accuracy
from stealing.report.runs import RunGroup

SHORT = {
    "untrained": "untrained",
    "untrained_calibrated": "calibrated",
    "pixels": "pixels",
    "ssl_on_queries": "SimCLR",
    "public": "public",
    "majority": "majority",
}
"""Names of the controls in a narrow column."""

LONG = {
    "untrained": "the untrained surrogate",
    "untrained_calibrated": "the untrained surrogate with calibrated BatchNorm",
    "pixels": "raw pixels",
    "ssl_on_queries": "SimCLR on the query images",
    "public": "the public encoder that the surrogate starts from",
    "majority": "the most frequent class",
}
"""Names of the controls in a sentence."""


@dataclass(frozen=True)
class Share:
    """The share of the encoder's value that an attack recovered.

    Attributes:
        value: of what the encoder is worth beyond the strongest control; 1 is all of it.
        low, high: 95 % interval.
    """

    value: float
    low: float
    high: float

    @property
    def percent(self) -> int:
        """The value in percent, as reports write it; see `percent`."""
        return percent(self.value)

    def reaches(self, enough: float) -> bool:
        """Return whether the attack succeeded, by the rounded figures that reports write."""
        return self.percent >= percent(enough)

    def __str__(self) -> str:
        # Below half a percent the surrogate is no better than what an attacker has without queries.
        if self.value < 0.005:
            return f"nothing [at most {self.high:.0%}]" if self.high >= 0.005 else "nothing"
        return f"{self.value:.0%} [{max(self.low, 0):.0%} to {self.high:.0%}]"


def percent(recovered: float) -> int:
    """Return a share in percent as reports write it: a share below zero is zero."""
    return max(0, round(100 * recovered))


def share(group: RunGroup, head: str) -> Share | None:
    """Return what a run group recovered of its informative tasks; None if it has none."""
    return _share(group.overall(head))


def share_by_role(group: RunGroup, head: str) -> dict[str, Share | None]:
    """Return what a run group recovered by role; None for a role without an informative task."""
    return {role: _share(row) for role, row in group.overall(head)["roles"].items()}


def _share(row: dict[str, Any]) -> Share | None:
    # In this order: `offered` stands in only if `recovered` is unknown.
    for name in SHARES:
        if row.get(name) is not None:
            low, high = row["intervals"][name]
            return Share(row[name], low, high)
    return None


def pooled(roles: Sequence[str]) -> str:
    """Return words for the roles of a share, such as `pooled over own and unseen tasks`."""
    if not roles:
        return "of no task"
    return f"{'pooled over' if len(roles) > 1 else 'of'} {' and '.join(roles)} tasks"


def pooled_over(groups: Sequence[RunGroup], head: str) -> str:
    """Return the words that say of which roles the shares of these run groups are; see `pooled`.

    A role whose tasks are all left out is in no share, so it is not named.
    """
    roles = dict[str, None]()
    for group in groups:
        for role, row in group.overall(head)["roles"].items():
            if row["tasks"]:
                roles[role] = None
    return pooled(list(roles))


def roles_of(groups: Sequence[RunGroup], head: str) -> list[str]:
    """Return the roles of the tasks of these run groups, in the order of the tasks."""
    roles = dict[str, None]()
    for group in groups:
        roles |= dict.fromkeys(group.overall(head)["roles"])
    return list(roles)


def reference_of(row: dict[str, Any]) -> str:
    """Return what SA is compared with: TA_clean, or TA if the undefended target is unknown."""
    return "TA" if row["TA_clean"] is None else "TA_clean"


def share_of(row: dict[str, Any]) -> str:
    """Return the name of the share that belongs to `reference_of`: `recovered` or `offered`."""
    return "offered" if reference_of(row) == "TA" else "recovered"


def control_cell(row: dict[str, Any]) -> str:
    """Return C with the name of its control, and with its lead if there is a second control."""
    control = row["control"]
    text = f"{control_accuracy(row):.3f} {SHORT[control['name']]}"
    return text if control["lead"] is None else f"{text} {control['lead']:+.3f}"


def held_lead(row: dict[str, Any]) -> float:
    """Return how far the target is ahead of C on the held rows."""
    held: dict[str, float] = row["held"]
    return held[reference_of(row)] - held[row["control"]["name"]]


def held_loss(tasks: Mapping[str, Any], head: str) -> float:
    """Return the honest loss on the held rows, the mean over tasks, as a share of 1.

    Defenses are chosen by it, so that no test image decides which of them a page reports.

    Args:
        tasks: of `result.json`, of a target whose TA_clean is known.
        head: of the accuracies.
    """
    held = [heads[head]["held"] for heads in tasks.values()]
    return fmean(accuracies["TA_clean"] - accuracies["TA"] for accuracies in held)


def left_out(row: dict[str, Any]) -> str | None:
    """Return why a task says nothing about what was recovered, or None if it says something.

    Args:
        row: figures of one head on one task.
    """
    if row[share_of(row)] is not None:
        return None
    reference = reference_of(row)
    control = row["control"]["name"]
    gap = held_lead(row)
    lead = 100 * gap
    test_lead = 100 * (row[reference] - row["controls"][control])
    if reaches(gap, RECOVERABLE):
        return (
            f"the target is not ahead of {LONG[control]} on the test split "
            f"({test_lead:+.1f} points)"
        )
    if lead >= 0:
        points = _points(gap, RECOVERABLE)
        reason = f"the target is {points} points ahead of {LONG[control]} on the held rows"
        reason += f", and {100 * RECOVERABLE:.0f} are needed"
    else:
        reason = f"the target loses to {LONG[control]} by {-lead:.1f} points on the held rows"
    return f"{reason} ({test_lead:+.1f} on the test split)"


def _points(lead: float, limit: float) -> str:
    """Return a lead that is below a limit, in points, with one decimal.

    It never reads as the limit: "5.0 points ahead, and 5 are needed" would contradict itself.
    """
    points = min(round(100 * lead, 1), 100 * limit - 0.1)
    return f"{points:.1f}"


def reasons(group: RunGroup, head: str) -> dict[str, str]:
    """Return, by task, why it is left out of all figures over tasks; empty if none is left out."""
    informative = group.overall(head).get("informative", [])
    omitted = dict[str, str]()
    for task, heads in group.joined["tasks"].items():
        if task not in informative:
            omitted[task] = reason(heads[head])
    return omitted


def reason(row: dict[str, Any]) -> str:
    """Return why a task is in no figure over tasks.

    Args:
        row: figures of one head on it.
    """
    if why := left_out(row):
        return why
    control = row["control"]["name"]
    lead = held_lead(row)
    # The share is known, but the gap is small, so the share is mostly noise.
    if not reaches(lead, INFORMATIVE):
        points = _points(lead, INFORMATIVE)
        return (
            f"the target is {points} points ahead of {LONG[control]} on the held "
            f"rows, and figures over tasks need {100 * INFORMATIVE:.0f}"
        )
    # It is left out so that the shares of all groups are of the same tasks.
    return "it is not informative for another of the run groups that are compared here"
