"""Parts of run groups: groups in; those of a kind, their budgets, choices or results out."""

from collections.abc import Iterable
from typing import Any

from stealing.report.runs import RunGroup


def without_defense(groups: Iterable[RunGroup]) -> list[RunGroup]:
    """Return the attacks without a defense."""
    return [group for group in groups if not group.defended]


def with_defense(groups: Iterable[RunGroup]) -> list[RunGroup]:
    """Return the attacks on a defense."""
    return [group for group in groups if group.defended]


def by_budget(groups: Iterable[RunGroup]) -> dict[int, list[RunGroup]]:
    """Return the attacks of each budget, the smallest budget first."""
    of_budget = dict[int, list[RunGroup]]()
    for group in sorted(groups, key=lambda group: group.budget):
        of_budget.setdefault(group.budget, []).append(group)
    return of_budget


def choices_of(groups: Iterable[RunGroup], kind: str) -> list[str]:
    """Return the different choices of a kind, in the order of the groups.

    Args:
        groups: run groups.
        kind: a part of a configuration, such as `defense`.
    """
    return list(dict.fromkeys(group.choices[kind] for group in groups))


def results_of(groups: Iterable[RunGroup]) -> list[dict[str, Any]]:
    """Return the results of all runs."""
    return [run.result for group in groups for run in group.runs]
