"""Stored cells of a frontier: results of single seeds in; attacks on common tasks and seeds out.

Two shares can be compared if they are of the same tasks and beyond the same controls. Both are
decided once for all cells, on the held rows of the cells that lend the controls: of each seed, the
one that sent the most images, without a defense if there are several. Controls and informative
tasks are those of the mean over these seeds.

Stored results hold figures of each task, not the answers to each image. So shares are computed anew
from accuracies, and an interval is put together from those of the tasks, whose images are drawn
independently. Of several seeds, the errors over test images are taken to be the
same, because the images are: an interval is rather too wide than too narrow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import hypot
from statistics import fmean
from typing import Any, Self

import numpy as np

from stealing.errors import DataError
from stealing.evaluation.bootstrap import margin, standard_error
from stealing.evaluation.protocol import INFORMATIVE, RECOVERABLE
from stealing.evaluation.shares import reaches, strongest_control
from stealing.evaluation.statistics import control_accuracy
from stealing.report.common_controls import NO_TASK, check_scene
from stealing.report.defenses import strongest
from stealing.report.shares import held_lead

Result = dict[str, Any]
"""`result.json` of a cell, with `cell` saying which one it is."""

Seeds = dict[int, Result]
"""Cells that differ only in their seed."""

NORMAL = margin(1.0, np.inf)
"""Half the width of a 95 % interval, in standard errors."""


@dataclass(frozen=True)
class CommonGround:
    """Tasks and controls that all cells of a table share.

    Attributes:
        head: of the accuracies.
        lenders: the cells that lend their controls, by seed.
        rows: figures of each task, means over the lenders.
        tasks: those that are informative.
    """

    head: str
    lenders: Seeds
    rows: dict[str, dict[str, Any]]
    tasks: list[str]

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        head: str = "linear",
        tasks: Sequence[str] | None = None,
    ) -> Self:
        """Decide controls and tasks.

        Args:
            results: of one attack, target, data, protocol and number of images.
            head: of the accuracies.
            tasks: that others decided on; None for those that are informative here.

        Raises:
            DataError: they cannot be compared, none is undefended, or no task is informative.
        """
        check_scene(results)
        lenders = _lenders(results)
        rows = dict[str, dict[str, Any]]()
        informative = []
        for task in next(iter(lenders.values()))["tasks"]:
            rows[task] = _mean_row([cell["tasks"][task][head] for cell in lenders.values()])
            if reaches(held_lead(rows[task]), INFORMATIVE):
                informative.append(task)
        counted = informative if tasks is None else list(tasks)
        if not counted:
            raise DataError(NO_TASK)
        return cls(head, lenders, rows, counted)

    def attacks(self, results: Sequence[Result]) -> list[Result]:
        """Return the attacks on each defense, joined over the seeds that the defense is judged on.

        Args:
            results: as for `of`. Those of a seed without an undefended cell are left out.

        Returns:
            First the attacks without a defense, once for each list of seeds that others have.
        """
        by_strength = dict[tuple[str, str], dict[str, Seeds]]()
        for result in results:
            cell = result["cell"]
            if cell["seed"] in self.lenders:
                plans = by_strength.setdefault((cell["defense"], cell["strength"]), {})
                plans.setdefault(cell["plan"], {})[cell["seed"]] = result
        bare = by_strength.pop(("none", ""))
        defended = []
        lists = {self._seeds_of(bare): None}
        for plans in by_strength.values():
            seeds = self._seeds_of(plans)
            lists[seeds] = None
            defended += self._joined(plans, seeds)
        undefended = []
        for seeds in lists:
            undefended += self._joined(bare, seeds)
        return [*undefended, *defended]

    def _seeds_of(self, plans: Mapping[str, Seeds]) -> tuple[int, ...]:
        """Return the seeds that a defense is judged on: all those of the strongest plan.

        Plans are compared on the seeds that all of them have.
        """
        common = set[int].intersection(*map(set, plans.values()))
        if not common:
            most: Seeds = max(plans.values(), key=len)
            return tuple(sorted(most))
        best = strongest(self._joined(plans, tuple(sorted(common))), self.head)
        return tuple(sorted(plans[best["cell"]["plan"]]))

    def _joined(self, plans: Mapping[str, Seeds], seeds: tuple[int, ...]) -> list[Result]:
        """Return one result of each plan that has these seeds."""
        joined = []
        for cells in plans.values():
            if cells.keys() >= set(seeds):
                joined.append(self.join({seed: cells[seed] for seed in seeds}))
        return joined

    def join(self, cells: Seeds) -> Result:
        """Return one result with means over seeds, and shares on the common ground."""
        first = next(iter(cells.values()))
        recovered = self._share(cells, self.tasks)
        held = self._share(cells, self.tasks, is_held=True)
        # A quotient by a number that is not above 0 means nothing.
        if recovered is None or held is None:
            raise DataError(NO_TASK)
        roles = dict[str, list[str]]()
        tasks = dict[str, Any]()
        for task, heads in first["tasks"].items():
            rows = [cell["tasks"][task][self.head] for cell in cells.values()]
            tasks[task] = {"role": heads["role"], self.head: _mean_row(rows)}
            of_role = roles.setdefault(heads["role"], [])
            if task in self.tasks:
                of_role.append(task)
        figures = {
            "informative": self.tasks,
            "recovered": recovered,
            "held": {"recovered": held},
            "roles": {},
            **self._honest_loss(cells),
        }
        for role, names in roles.items():
            figures["roles"][role] = {"tasks": names, "recovered": self._share(cells, names)}
        figures["intervals"]["recovered"] = self._interval(recovered, cells, self.tasks)
        worst = max(tasks, key=lambda task: _loss(tasks[task][self.head]["held"]))
        figures["worst"] = {"task": worst, "honest_loss": _loss(tasks[worst][self.head])}
        cost = _means([cell["defense"] for cell in cells.values()], ("milliseconds", "bytes"))
        overall = {self.head: figures}
        return {**first, "seeds": list(cells), "tasks": tasks, "overall": overall, "defense": cost}

    def share(self, cells: Seeds, tasks: Sequence[str]) -> tuple[float, tuple[float, float]] | None:
        """Return what cells of one attack recovered, with its 95 % interval; None without a gap.

        Args:
            cells: by seed, of seeds that `lenders` has.
            tasks: some of those that are informative.
        """
        share = self._share(cells, tasks)
        if share is None:
            return None
        low, high = self._interval(share, cells, tasks)
        return share, (low, high)

    def _share(self, cells: Seeds, tasks: Iterable[str], *, is_held: bool = False) -> float | None:
        """Return (SA - C) / (TA_clean - C), each a sum over tasks and seeds; None without a gap."""
        taken, whole = self._gaps(cells, tasks, is_held=is_held)
        return taken / whole if whole > 0 else None

    def _gaps(
        self, cells: Seeds, tasks: Iterable[str], *, is_held: bool = False
    ) -> tuple[float, float]:
        """Return SA - C and TA_clean - C, each a sum over tasks and seeds."""
        taken = 0.0
        whole = 0.0
        for task in tasks:
            name = self.rows[task]["control"]["name"]
            for seed, cell in cells.items():
                stolen = _accuracies(cell["tasks"][task][self.head], is_held=is_held)["SA"]
                lent = _accuracies(self.lenders[seed]["tasks"][task][self.head], is_held=is_held)
                taken += stolen - lent[name]
                whole += lent["TA_clean"] - lent[name]
        return taken, whole

    def _interval(self, share: float, cells: Seeds, tasks: Sequence[str]) -> list[float]:
        """Return the 95 % interval of the share over these tasks."""
        below = []
        above = []
        for task in tasks:
            errors = [_errors(cell["tasks"][task][self.head]) for cell in cells.values()]
            below.append(fmean(low for low, _ in errors))
            above.append(fmean(high for _, high in errors))
        # Tasks are resampled independently, so their variances add up.
        _, whole = self._gaps(cells, tasks)
        low = hypot(*below) * len(cells) / whole
        high = hypot(*above) * len(cells) / whole
        if len(cells) == 1:
            return [share - low, share + high]
        by_seed = [self._share({seed: cell}, tasks) for seed, cell in cells.items()]
        return _interval(share, (low + high) / 2, [one for one in by_seed if one is not None])

    def _honest_loss(self, cells: Seeds) -> dict[str, Any]:
        """Return the honest loss over all tasks, and its interval."""
        losses = []
        halves = []
        for cell in cells.values():
            figures = cell["overall"][self.head]
            low, high = figures["intervals"]["honest_loss"]
            losses.append(figures["honest_loss"])
            halves.append((high - low) / 2)
        loss = fmean(losses)
        interval = [low, high] if len(cells) == 1 else _interval(loss, fmean(halves), losses)
        return {"honest_loss": loss, "intervals": {"honest_loss": interval}}


def _lenders(results: Iterable[Result]) -> Seeds:
    """Return the cell of each seed that lends its controls."""
    by_seed = dict[int, list[Result]]()
    for result in results:
        by_seed.setdefault(result["cell"]["seed"], []).append(result)
    lenders = Seeds()
    for seed, cells in by_seed.items():
        # A defense is compared with what is undefended of the same seed.
        if any(cell["cell"]["defense"] == "none" for cell in cells):
            lenders[seed] = max(cells, key=_lends)
    return dict(sorted(lenders.items()))


def _lends(result: Result) -> tuple[int, bool]:
    return int(result["queries"]["images"]), result["cell"]["defense"] == "none"


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a task without intervals, means over seeds."""
    row: dict[str, Any] = _means(rows, ("TA", "TA_clean", "SA"))
    for name in ("controls", "held"):
        row[name] = _means([one[name] for one in rows], rows[0][name])
    row["control"] = asdict(strongest_control(row["held"]))
    row["recovered"] = None
    whole = row["TA_clean"] - control_accuracy(row)
    if reaches(held_lead(row), RECOVERABLE) and whole > 0:
        row["recovered"] = (row["SA"] - control_accuracy(row)) / whole
    return row


def _means(figures: Sequence[Mapping[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Return the mean of each of these figures."""
    means = {}
    for name in names:
        means[name] = fmean(one[name] for one in figures)
    return means


def _accuracies(row: dict[str, Any], *, is_held: bool) -> Mapping[str, float]:
    """Return accuracies by encoder, on the held rows or on the test split."""
    if is_held:
        held: Mapping[str, float] = row["held"]
        return held
    return {**row["controls"], "SA": row["SA"], "TA_clean": row["TA_clean"]}


def _loss(accuracies: Mapping[str, float]) -> float:
    return accuracies["TA_clean"] - accuracies["TA"]


def _errors(row: dict[str, Any]) -> tuple[float, float]:
    """Return how far SA - C of a task may be below and above its figure, at 95 %."""
    if row["recovered"] is None:
        low, high = row["intervals"]["SA"]
        return row["SA"] - low, high - row["SA"]
    # The interval of the share leaves out the errors that SA and TA_clean have in common.
    low, high = row["intervals"]["recovered"]
    gap = row["TA_clean"] - control_accuracy(row)
    return (row["recovered"] - low) * gap, (high - row["recovered"]) * gap


def _interval(mean: float, half: float, by_seed: Sequence[float]) -> list[float]:
    """Return the interval of a mean over seeds.

    Args:
        mean: the figure.
        half: half the width of its interval over test images only.
        by_seed: the figure of each seed.
    """
    width = margin(*standard_error((half / NORMAL) ** 2, np.array(by_seed)))
    return [mean - width, mean + width]
