"""Which differences are more than chance: settings in, paired tests out, adjusted for how many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from stealing.evaluation.statistics import Right, paired
from stealing.report.runs import RESAMPLES, TRIED, VARIED, Setting


@dataclass(frozen=True)
class Comparison:
    """Two settings that differ in one choice, on the same seeds and test images.

    Attributes:
        first, second: what they differ in.
        alike: what else tells each from other settings of the report, the same of both.
        budget: of both.
        seeds: how many both have.
        difference: SA of the first less the second's, the mean over tasks, with its interval.
        p: of no difference, for this test alone.
        adjusted: for all tests of the report together, after Holm.
    """

    first: str
    second: str
    alike: str
    budget: int
    seeds: int
    difference: float
    interval: tuple[float, float]
    p: float
    adjusted: float


def comparisons(found: Sequence[Setting], head: str) -> list[Comparison]:
    """Every two settings that differ in attack, defense or plan alone and share seeds and test images."""
    tests, pairs = [], []
    varied = [name for name in VARIED if len({setting.choices[name] for setting in found}) > 1]
    for first, second in combinations(found, 2):
        apart = [name for name in VARIED if first.choices[name] != second.choices[name]]
        if len(apart) != 1 or apart[0] not in TRIED or first.budget != second.budget:
            continue
        both = sorted(set(first.joined["seeds"]) & set(second.joined["seeds"]))
        if both:
            pair = [[run.right for run in one.runs if run.result["seed"] in both] for one in (first, second)]
            alike = ", ".join(first.choices[name] for name in varied if name != apart[0])
            pairs.append(((first.choices[apart[0]], second.choices[apart[0]], alike, first.budget), len(both), pair))
    for named, count, pair in pairs:
        tests.append((*named, count, *paired(pair[0], pair[1], head, resamples=RESAMPLES)))
    order = sorted(range(len(tests)), key=lambda place: tests[place][-1])
    adjusted, greatest = dict[int, float](), 0.0
    for rank, place in enumerate(order):
        greatest = max(greatest, min(1.0, (len(tests) - rank) * tests[place][-1]))
        adjusted[place] = greatest
    return [Comparison(*test, adjusted[place]) for place, test in enumerate(tests)]


def clearly_best(rivals: Sequence[Setting], head: str, task: str | None = None) -> Setting | None:
    """Return the setting whose SA is above that of every other by the paired 95 % interval, or None.

    One seed shows nothing of the luck of training: if two settings share fewer than two seeds, none is best.

    Args:
        rivals: settings with the same test images.
        head: of the accuracies.
        task: of which SA is compared; None for the mean over all tasks.
    """
    if len(rivals) < 2:
        return None
    first = max(rivals, key=lambda one: _stolen(one, head, task))
    for other in rivals:
        if other is first:
            continue
        both = set(first.joined["seeds"]) & set(other.joined["seeds"])
        if len(both) < 2:
            return None
        pair = [_tables(one, both, task) for one in (first, other)]
        _, (low, _), _ = paired(pair[0], pair[1], head, resamples=RESAMPLES)
        if low <= 0:
            return None
    return first


def _stolen(setting: Setting, head: str, task: str | None) -> float:
    row = setting.overall(head) if task is None else setting.joined["tasks"][task][head]
    return float(row["SA"])


def _tables(setting: Setting, seeds: set[int], task: str | None) -> list[Right]:
    """The tables of these seeds, of one task or of all."""
    tables = [run.right for run in setting.runs if run.result["seed"] in seeds]
    if task is None:
        return tables
    return [{place: rows for place, rows in table.items() if place.startswith(f"{task}/")} for table in tables]
