"""A leaderboard: a folder of claims in; attacks on common tasks, and paired tests, out.

Attacks are compared in two ways, and no table mixes them: at equal queries (one budget), and at
equal images (as many images with an answer). An attack that sends ten views of an image has a tenth
of the images for the same budget.

All shares of a head are of the same tasks: those that are informative for every claim without a
pool. An attack is measured against the controls of the rival that sent the most images, because any
attacker could train without answers on as many. Of rivals with equally many images, one with the
same network comes first, then one with as many training images, with the most seeds, and with the
strongest controls on the held rows. A shared control matters: controls that were trained on two
processors differ as two seeds do. An attack with a pool keeps its own controls.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from stealing.errors import DataError
from stealing.evaluation.bootstrap import p_value
from stealing.report.claim_checks import read_claim
from stealing.report.claim_figures import (
    Answers,
    Mean,
    accuracies_by_role,
    cells_of,
    heads_of,
    recovered_of,
    right_answers,
    roles_of,
    stacked,
)
from stealing.report.claims import Claim
from stealing.report.comparisons import Comparison, holm
from stealing.report.mixing import check_unmixed
from stealing.report.stored_cells import CommonGround, Seeds


@dataclass(frozen=True)
class Entry:
    """A claim of a board.

    Attributes:
        claim: as its file has it.
        cells: its seeds, for shares.
        answers: of each seed, which test images its surrogate got right.
    """

    claim: Claim
    cells: Seeds
    answers: dict[int, Answers]

    @classmethod
    def of(cls, claim: Claim) -> Self:
        """Return the entry of a claim."""
        answers = {int(number): right_answers(seed) for number, seed in claim["seeds"].items()}
        return cls(claim, cells_of(claim["seeds"]), answers)

    @property
    def attack(self) -> str:
        """Name of the attack's preset."""
        return str(self.claim["attack"])

    @property
    def budget(self) -> int:
        """Queries that each seed was allowed."""
        return int(self.claim["budget"])

    @property
    def images(self) -> int:
        """Images with an answer, of the first seed."""
        return int(self.claim["ledger"]["images"][0])

    @property
    def pool(self) -> int:
        """Images that the attacker held and did not send."""
        return int(self.claim["settings"]["attack"].get("pool") or 0)

    @property
    def held(self) -> int:
        """Images that the attacker held, of the first seed: SimCLR was trained on these."""
        queries = next(iter(self.cells.values()))["queries"]
        # Claims of earlier versions are of attacks without a pool.
        return int(queries.get("held", self.images))

    @property
    def arch(self) -> Any:
        """Network of the surrogate, which its control shares."""
        return self.claim["settings"]["arch"]

    @property
    def trained(self) -> int:
        """Images of all steps, of the first seed: its control trains on as many."""
        return int(next(iter(self.claim["seeds"].values()))["training"]["images"])

    @property
    def seeds(self) -> set[int]:
        """Seeds that it has."""
        return set(self.cells)

    def held_accuracy(self, head: str) -> float:
        """Return SA on the held rows, the mean over tasks and seeds: it chooses the best attack."""
        accuracies = []
        for cell in self.cells.values():
            for heads in cell["tasks"].values():
                accuracies.append(heads[head]["held"]["SA"])
        return fmean(accuracies)

    def control_accuracy(self, head: str, seeds: set[int]) -> float:
        """Return the accuracy of its controls on the held rows, the mean over tasks and seeds."""
        accuracies = []
        for seed in seeds:
            for heads in self.cells[seed]["tasks"].values():
                row = heads[head]
                accuracies.append(row["held"][row["control"]["name"]])
        return fmean(accuracies)


@dataclass(frozen=True)
class Figures:
    """What an entry shows under one head.

    Attributes:
        recovered: by role and of all together: mean and interval; None without a task.
        accuracies: SA over all tasks of each role, likewise.
        controls: the strongest control of each task that counts.
        lender: the entry whose controls these are.
    """

    recovered: dict[str, Any]
    accuracies: dict[str, Any]
    controls: dict[str, str]
    lender: Entry


class Board:
    """Claims of one target, data and protocol.

    Args:
        entries: at least one.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self.heads = heads_of(self.entries[0].claim["seeds"])
        self.roles = roles_of(self.entries[0].claim["seeds"])
        self.tasks = {head: self._common_tasks(head) for head in self.heads}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the board of all claims in a folder.

        Raises:
            DamageError, DataError: a claim does not verify, or belongs to another board.
        """
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise DataError(
                f"{folder} holds no claim: make one by python -m stealing.report claim."
            )
        claims = {path: read_claim(path) for path in paths}
        for name, words in SAME.items():
            _check_same(claims, name, words)
        parts = dict[str, dict[str, Any]]()
        for path, claim in claims.items():
            for number, seed in claim["seeds"].items():
                parts[f"{path.name} seed {number}"] = seed
        check_unmixed(parts)
        return cls([Entry.of(claim) for claim in claims.values()])

    def at_budgets(self) -> dict[int, list[Entry]]:
        """Return the entries of each budget, in ascending order."""
        groups = dict[int, list[Entry]]()
        for entry in sorted(self.entries, key=lambda entry: (entry.budget, entry.attack)):
            groups.setdefault(entry.budget, []).append(entry)
        return groups

    def at_images(self) -> dict[int, list[Entry]]:
        """Return, by number of images, the entries of several budgets with that many images."""
        groups = dict[int, list[Entry]]()
        for entry in sorted(self.entries, key=lambda entry: (entry.images, entry.attack)):
            groups.setdefault(entry.images, []).append(entry)
        shared = dict[int, list[Entry]]()
        for images, entries in groups.items():
            # One budget is the other comparison, and one attack is none.
            if len({entry.budget for entry in entries}) > 1:
                shared[images] = entries
        return shared

    def figures(self, entry: Entry, rivals: Sequence[Entry], head: str) -> Figures | None:
        """Return what an entry shows beside its rivals; None if no task is informative.

        Args:
            entry: one of the rivals.
            rivals: with the same budget, or with as many images.
            head: of the accuracies.
        """
        tasks = self.tasks[head]
        if not tasks:
            return None
        lender = _lender(entry, rivals, head)
        lent = [lender.cells[seed] for seed in entry.cells]
        ground = CommonGround.of(lent, head, tasks)
        recovered = dict[str, Any]()
        for role, names in self.roles.items():
            recovered[role] = recovered_of(ground, entry.cells, names)
        answers = list(entry.answers.values())
        return Figures(
            recovered,
            accuracies_by_role(answers, head, self.roles),
            {task: ground.rows[task]["control"]["name"] for task in tasks},
            lender,
        )

    def tests(self, rivals: Sequence[Entry], head: str) -> list[Comparison]:
        """Compare the best of some attacks with each other one that has seeds in common.

        The best is that of the held rows. What is compared is SA, the mean over all tasks.
        """
        best = max(rivals, key=lambda entry: entry.held_accuracy(head))
        compared = []
        for other in rivals:
            shared = sorted(best.seeds & other.seeds)
            if other is best or not shared:
                continue
            compared.append((other, shared, self._difference(best, other, shared, head)))
        values = [p_value(mean.point, *mean.standard_error()) for _, _, mean in compared]
        tests = []
        for (other, shared, mean), p, adjusted in zip(compared, values, holm(values), strict=True):
            low, high = mean.interval()
            tests.append(
                Comparison(
                    first=best.attack,
                    second=other.attack,
                    both="",
                    budget=other.budget,
                    seeds=len(shared),
                    difference=mean.point,
                    interval=(low, high),
                    p=p,
                    adjusted=adjusted,
                )
            )
        return tests

    def _difference(self, first: Entry, second: Entry, seeds: Sequence[int], head: str) -> Mean:
        differences = []
        for task in next(iter(self.entries[0].cells.values()))["tasks"]:
            place = f"{task}/{head}"
            ours = stacked([first.answers[seed] for seed in seeds], place)
            theirs = stacked([second.answers[seed] for seed in seeds], place)
            # Of the same images and seeds: what both find hard cancels.
            differences.append(ours - theirs)
        return Mean.of(differences)

    def _common_tasks(self, head: str) -> list[str]:
        """Return the tasks that are informative for every claim without a pool.

        An attack with a pool has a stronger control, which would take tasks from all others.
        """
        common: list[str] | None = None
        plain = [entry for entry in self.entries if not entry.pool] or self.entries
        for entry in plain:
            try:
                tasks = CommonGround.of(list(entry.cells.values()), head).tasks
            except DataError:  # none is informative
                return []
            common = tasks if common is None else [task for task in common if task in tasks]
        return common or []


SAME = {
    "protocol_hash": "judged by another protocol",
    "target": "of another target",
    "data": "of other images",
}
"""What all claims of a board have in common, and words for a claim that differs."""


def _check_same(claims: dict[Path, Claim], name: str, words: str) -> None:
    """Refuse a claim that differs from most others of its board."""
    values = {path: str(claim[name]) for path, claim in claims.items()}
    [(usual, _)] = Counter(values.values()).most_common(1)
    for path, value in values.items():
        if value != usual:
            raise DataError(
                f"{path} is {words} than most claims of this board: make it again by its command, "
                "or give it a board of its own."
            )


def _lender(entry: Entry, rivals: Sequence[Entry], head: str) -> Entry:
    """Return the entry whose controls an entry is measured against."""
    if entry.pool:  # its own control was trained on all that it held
        return entry
    lenders = [one for one in rivals if not one.pool and one.seeds >= entry.seeds]

    def rank(one: Entry) -> tuple[int, bool, bool, int, float]:
        alike = one.arch == entry.arch, one.trained == entry.trained
        strength = one.control_accuracy(head, entry.seeds)
        # Most seeds before strength: entries with the same seeds then have the same lender.
        return one.images, *alike, len(one.seeds), strength

    return max(lenders, key=rank)
