"""Finished runs: folders in, settings over their seeds out; runs that cannot be compared are refused."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from stealing.errors import DataError
from stealing.evaluation.statistics import Right, paired
from stealing.report.seeds import join
from stealing.report.sweep import cells

RESAMPLES = 1000
"""Of every interval and test of a report."""

VARIED = ("data", "target", "attack", "defense", "plan")
"""Choices that tell settings apart, besides the budget."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        name: what tells it apart from the others of the report.
        choices: the option of each of `VARIED`, a defense with its strength.
        joined: one result over all seeds; see `join`.
        folders: of the runs, by seed.
        results: their `result.json`.
        right: which test images each encoder got right, by seed.
    """

    name: str
    choices: dict[str, str]
    joined: dict[str, Any]
    folders: list[Path]
    results: list[dict[str, Any]]
    right: list[Right]

    @property
    def budget(self) -> int:
        """Queries that the attack was allowed."""
        return int(self.joined["queries"]["budget"])

    @property
    def defended(self) -> bool:
        """Whether there was a defense that we know of."""
        return self.choices["defense"] not in ("none", "unknown")

    def overall(self, head: str) -> dict[str, Any] | None:
        """Honest loss and recovered over all tasks, or None for a target whose undefended features are unknown."""
        found: dict[str, Any] = self.joined["overall"]
        return found.get(head)

    @property
    def heads(self) -> list[str]:
        """Kinds of classifier that were trained on features."""
        return [head for head in next(iter(self.joined["tasks"].values())) if head != "role"]


def found_in(paths: Sequence[Path]) -> list[Path]:
    """Folders of finished runs: those that are named, those in a named folder, and those of a named sweep.

    Raises:
        DataError: there is none.
    """
    found = list[Path]()
    for path in paths:
        if (path / "sweep.json").exists():
            found += [cell.run for cell in cells(path) if cell.run and cell.state == "done"]
        else:
            found += [file.parent for file in sorted({*path.glob("result.json"), *path.glob("*/result.json")})]
    if not found:
        raise DataError(
            f"{' '.join(map(str, paths))} holds no finished run: name work/runs, a run's or a sweep's folder."
        )
    return list(dict.fromkeys(found))


def settings(folders: Sequence[Path]) -> list[Setting]:
    """Runs by all but their seed, in the order of attack, defense, plan and budget.

    Raises:
        DataError: they were judged by several protocols.
    """
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    protocols = Counter(result["protocol_hash"] for result in results)
    if len(protocols) > 1:
        told = "; ".join(f"{protocol}: {count} runs" for protocol, count in protocols.items())
        raise DataError(
            f"The runs were judged by {len(protocols)} protocols ({told}), whose figures cannot be compared: name the "
            "runs of one, or judge the others again by python eval.py run=<folder>."
        )
    groups = dict[str, list[tuple[Path, dict[str, Any]]]]()
    for folder, result in zip(folders, results, strict=True):
        groups.setdefault(result["group"], []).append((folder, result))
    strengths = _strengths(results)
    made = []
    for runs in groups.values():
        runs.sort(key=lambda run: int(run[1]["seed"]))
        first = runs[0][1]
        choices = {name: str(first["choices"].get(name, "")) for name in VARIED}
        choices["defense"] = strengths[first["group"]]
        made.append((choices, join([folder for folder, _ in runs], RESAMPLES), runs))
    varied = [name for name in VARIED if len({choices[name] for choices, _, _ in made}) > 1] or ["attack"]
    several = len({joined["queries"]["budget"] for _, joined, _ in made}) > 1
    found = []
    for choices, joined, runs in made:
        name = ", ".join(choices[name] for name in varied)
        name += f", {joined['queries']['budget']} queries" if several else ""
        right = [load_file(folder / "right.safetensors") for folder, _ in runs]
        found.append(Setting(name, choices, joined, [run for run, _ in runs], [result for _, result in runs], right))
    return sorted(found, key=lambda setting: (*(setting.choices[name] for name in VARIED), setting.budget))


def _strengths(results: list[dict[str, Any]]) -> dict[str, str]:
    """Of each group the name of its defense, with those settings in which it differs from others of that name."""
    flat = dict[str, tuple[str, dict[str, str]]]()
    for result in results:
        defense = result["defense"] or {"name": "unknown", "settings": {}}
        flat[result["group"]] = (
            defense["name"],
            {
                f"{name} {'[' + ','.join(map(str, value)) + ']' if isinstance(value, list) else value}": ""
                for part in defense["settings"].values()
                for name, value in part.items()
            },
        )
    named = {}
    for group, (name, parts) in flat.items():
        others = [other for label, other in flat.values() if label == name]
        own = [part for part in parts if not all(part in other for other in others)]
        named[group] = " ".join([name, *own])
    return named


@dataclass(frozen=True)
class Comparison:
    """Two settings that differ in one choice, on the same seeds and test images.

    Attributes:
        first, second: their names.
        budget: of both.
        seeds: how many both have.
        difference: SA of the first less the second's, the mean over tasks, with its interval.
        p: of no difference, for this test alone.
        adjusted: for all tests of the report together, after Holm.
    """

    first: str
    second: str
    budget: int
    seeds: int
    difference: float
    interval: tuple[float, float]
    p: float
    adjusted: float


def comparisons(found: Sequence[Setting], head: str) -> list[Comparison]:
    """Every two settings that differ in attack, defense or plan alone and share seeds and test images."""
    tests = []
    for first, second in combinations(found, 2):
        apart = [name for name in VARIED if first.choices[name] != second.choices[name]]
        alike = {name for name in first.joined["data"] if name.endswith("/test")}
        same = all(first.joined["data"][name] == second.joined["data"].get(name) for name in alike)
        if len(apart) != 1 or apart[0] in ("data", "target") or first.budget != second.budget or not same:
            continue
        both = sorted(set(first.joined["seeds"]) & set(second.joined["seeds"]))
        if both:
            pair = [[one.right[one.joined["seeds"].index(seed)] for seed in both] for one in (first, second)]
            told = paired(pair[0], pair[1], head, resamples=RESAMPLES)
            tests.append((first.name, second.name, first.budget, len(both), *told))
    order = sorted(range(len(tests)), key=lambda place: tests[place][-1])
    adjusted, greatest = dict[int, float](), 0.0
    for rank, place in enumerate(order):
        greatest = max(greatest, min(1.0, (len(tests) - rank) * tests[place][-1]))
        adjusted[place] = greatest
    return [Comparison(*test, adjusted[place]) for place, test in enumerate(tests)]
