"""What an attack recovered of what an encoder is worth: as a figure, by role, and of which tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stealing.evaluation.protocol import INFORMATIVE
from stealing.evaluation.statistics import SHARES
from stealing.report.frontier import percent, pooled
from stealing.report.runs import Setting
from stealing.report.table import LONG, left_out, reference_of


@dataclass(frozen=True)
class Share:
    """The share of the encoder's value beyond the best control that an attack recovered, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> int:
        """As reports write it: less than nothing is zero."""
        return percent(self.value)

    def reaches(self, enough: float) -> bool:
        """Return whether the attack succeeded, by the rounded figures that reports write."""
        return self.percent >= percent(enough)

    def __str__(self) -> str:
        if self.value < 0.005:  # the surrogate is worse than what an attacker has anyway
            return f"nothing [at most {self.high:.0%}]" if self.high >= 0.005 else "nothing"
        return f"{self.value:.0%} [{max(self.low, 0):.0%} to {self.high:.0%}]"


def share(setting: Setting, head: str) -> Share | None:
    """Return what a setting recovered of all its informative tasks, pooled; None if it has none."""
    return _share(setting.overall(head))


def share_by_role(setting: Setting, head: str) -> dict[str, Share | None]:
    """Return what a setting recovered of the tasks of each role; None if no task of a role is informative."""
    return {role: _share(row) for role, row in setting.overall(head)["roles"].items()}


def _share(row: dict[str, Any]) -> Share | None:
    for name in SHARES:
        if row.get(name) is not None:
            low, high = row["intervals"][name]
            return Share(row[name], low, high)
    return None


def roles_of(found: Sequence[Setting], head: str) -> list[str]:
    """Return the roles of the tasks of these settings, in the order of the tasks."""
    return list(dict.fromkeys(role for setting in found for role in setting.overall(head)["roles"]))


def pooled_over(found: Sequence[Setting], head: str) -> str:
    """Return the words that say of which roles the shares of these settings are; see `frontier.pooled`.

    A role whose tasks are all left out is in no share, so it is not named.
    """
    told = dict[str, None]()
    for setting in found:
        for role, row in setting.overall(head)["roles"].items():
            if row["tasks"]:
                told[role] = None
    return pooled(list(told))


def reasons(setting: Setting, head: str) -> dict[str, str]:
    """Return why each task that is left out of the figures over tasks is left out; empty if none is."""
    informative = setting.overall(head).get("informative", [])
    said = dict[str, str]()
    for task, heads in setting.joined["tasks"].items():
        if task not in informative:
            said[task] = _reason(heads[head])
    return said


def _reason(row: dict[str, Any]) -> str:
    if why := left_out(row):
        return why
    name = row["control"]["name"]
    gap = row["held"][reference_of(row)] - row["held"][name]
    if gap < INFORMATIVE:
        return (
            f"the target is {100 * gap:.1f} points ahead of {LONG[name]} on the slice of train, "
            f"and figures over tasks need {100 * INFORMATIVE:.0f}"
        )
    return "it is not informative for another of the settings that are compared here"
