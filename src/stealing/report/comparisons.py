"""Paired comparisons: run groups in; differences with adjusted p-values, or the best group, out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from stealing.evaluation.statistics import Outcomes, paired_difference
from stealing.report.run_files import RESAMPLES
from stealing.report.runs import TRIED, VARIED, RunGroup, varied_choices


@dataclass(frozen=True)
class Comparison:
    """Two run groups that differ in one choice, on the same seeds and test images.

    Attributes:
        first, second: what they differ in.
        both: what else tells each from other groups of the report, the same of both.
        budget: of both.
        seeds: how many both have.
        difference: SA of the first less SA of the second, the mean over tasks.
        interval: of the difference, 95 %.
        p: of no difference, for only this test.
        adjusted: for all tests of the report together, after Holm.
    """

    first: str
    second: str
    both: str
    budget: int
    seeds: int
    difference: float
    interval: tuple[float, float]
    p: float
    adjusted: float


@dataclass(frozen=True)
class _Pair:
    """Two run groups that can be compared: they differ in one choice, and share seeds."""

    first: RunGroup
    second: RunGroup
    choice: str
    seeds: set[int]


def comparisons(groups: Sequence[RunGroup], head: str) -> list[Comparison]:
    """Compare every two groups that differ only in attack, defense or plan and share seeds.

    Args:
        groups: of a report.
        head: of the accuracies.
    """
    pairs = _pairs(groups)
    varied = varied_choices(groups)
    tests = []
    p_values = []
    for pair in pairs:
        first = _tables(pair.first, pair.seeds)
        second = _tables(pair.second, pair.seeds)
        test = paired_difference(first, second, head, resamples=RESAMPLES)
        tests.append(test)
        p_values.append(test[2])
    adjusted = holm(p_values)
    compared = []
    for pair, (difference, interval, p), raised in zip(pairs, tests, adjusted, strict=True):
        equal = pair.first.options(name for name in varied if name != pair.choice)
        compared.append(
            Comparison(
                first=pair.first.choices[pair.choice],
                second=pair.second.choices[pair.choice],
                both=", ".join(equal),
                budget=pair.first.budget,
                seeds=len(pair.seeds),
                difference=difference,
                interval=interval,
                p=p,
                adjusted=raised,
            )
        )
    return compared


def _pairs(groups: Sequence[RunGroup]) -> list[_Pair]:
    pairs = []
    for first, second in combinations(groups, 2):
        different = [name for name in VARIED if first.choices[name] != second.choices[name]]
        # If two choices differ, the cause of a difference is unknown.
        if len(different) != 1 or different[0] not in TRIED or first.budget != second.budget:
            continue
        shared = _shared_seeds(first, second)
        if shared:
            pairs.append(_Pair(first, second, different[0], shared))
    return pairs


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are, in the given order.

    The smallest p is multiplied by the number of tests, the next by one less, and so on; none
    becomes smaller than one before it. Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted = [0.0] * len(values)
    greatest = 0.0
    ascending = sorted(range(len(values)), key=lambda place: values[place])
    for rank, place in enumerate(ascending):
        raised = (len(values) - rank) * values[place]
        # A larger p is never adjusted to less than a smaller one.
        greatest = max(greatest, min(1.0, raised))
        adjusted[place] = greatest
    return adjusted


def clearly_best(rivals: Sequence[RunGroup], head: str, task: str | None = None) -> RunGroup | None:
    """Return the group whose SA is above that of every other by the paired 95 % interval, or None.

    One seed shows nothing of how training varies: if two groups share fewer than two seeds, none is
    best.

    Args:
        rivals: groups with the same test images.
        head: of the accuracies.
        task: of which SA is compared; None for the mean over all tasks.
    """
    if len(rivals) < 2:
        return None
    best = max(rivals, key=lambda group: _accuracy(group, head, task))
    for other in rivals:
        if other is best:
            continue
        shared = _shared_seeds(best, other)
        if len(shared) < 2:
            return None
        first = _tables(best, shared, task)
        second = _tables(other, shared, task)
        _, (low, _), _ = paired_difference(first, second, head, resamples=RESAMPLES)
        # One undecided comparison is enough.
        if low <= 0:
            return None
    return best


def _shared_seeds(first: RunGroup, second: RunGroup) -> set[int]:
    return set(first.joined["seeds"]) & set(second.joined["seeds"])


def _accuracy(group: RunGroup, head: str, task: str | None) -> float:
    row = group.overall(head) if task is None else group.joined["tasks"][task][head]
    return float(row["SA"])


def _tables(group: RunGroup, seeds: set[int], task: str | None = None) -> list[Outcomes]:
    """Return the right answers of these seeds, of one task or of all."""
    # Keys are `<task>/<head>/<encoder>`.
    start = "" if task is None else f"{task}/"
    tables = []
    for run in group.runs:
        if run.result["seed"] in seeds:
            rows = {place: row for place, row in run.right.items() if place.startswith(start)}
            tables.append(rows)
    return tables
