"""Finished runs: folders in, settings over their seeds out; runs that cannot be compared are refused."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stealing.artefacts import key
from stealing.errors import DataError
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import SHARES, by_head, overall, summarise
from stealing.report.mixing import check_unmixed
from stealing.report.seeds import FinishedRun, join
from stealing.report.sweep import cells

RESAMPLES = 1000
"""Of every interval and test of a report."""

VARIED = ("data", "target", "target_arch", "pretrain", "arch", "start", "control", "attack", "defense", "plan")
"""Parts of a configuration that tell settings apart, besides the budget."""

TRIED = ("attack", "defense", "plan")
"""Those of them that settings are compared in, where all others are alike."""

NEEDED = {"overall", "target", "training", "honest_user"}
"""What a report reads of `result.json` that earlier versions did not write."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        name: what tells it apart from the others of the report.
        choices: the option of each of `VARIED`, with what it has other than another setting of that option.
        joined: one result over all seeds; see `join`.
        runs: by seed.
    """

    name: str
    choices: dict[str, str]
    joined: dict[str, Any]
    runs: list[FinishedRun]

    @property
    def budget(self) -> int:
        """Queries that the attack was allowed."""
        return int(self.joined["queries"]["budget"])

    @property
    def defended(self) -> bool:
        """Whether there was a defense that we know of."""
        return self.choices["defense"] != "none"

    @property
    def scene(self) -> tuple[str, ...]:
        """All that is not tried out: settings of one scene can be compared."""
        return _scene(self.choices)

    def overall(self, head: str) -> dict[str, Any]:
        """Over all tasks; see `stealing.evaluation.statistics.overall`. Empty for a head that was not trained."""
        found: dict[str, Any] = self.joined["overall"].get(head, {})
        return found

    def chosen_by(self, head: str) -> float:
        """What the attack gets on the slice of train.

        Attacks are compared by this when one of them is to be chosen, so that no test image decides
        which one a page reports.
        """
        held = self.overall(head).get("held", {})
        known = [held[name] for name in SHARES if held.get(name) is not None]
        return float(known[0]) if known else -math.inf

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
    for path in map(Path.resolve, paths):
        if (path / "sweep.json").exists():
            found += [cell.run for cell in cells(path) if cell.run]
        else:
            found += [file.parent for file in sorted({*path.glob("done.json"), *path.glob("*/done.json")})]
    found = [run for run in found if (run / "done.json").exists() and (run / "result.json").exists()]
    if not found:
        named = " ".join(map(str, paths))
        raise DataError(f"{named} holds no judged run: name work/runs, a run's or a sweep's folder.")
    return list(dict.fromkeys(found))


def settings(folders: Sequence[Path], protocol: str | None = None) -> list[Setting]:
    """Runs by all but their seed, in the order of attack, defense, plan and budget.

    Args:
        folders: of finished runs.
        protocol: by which they were judged; others are left out.

    Raises:
        DataError: they were judged by several protocols, or two are of the same choices and seed.
    """
    runs = [FinishedRun.read(folder) for folder in folders]
    if protocol:
        runs = [run for run in runs if run.result["protocol_hash"] == protocol]
        if not runs:
            raise DataError(f"--protocol {protocol} judged none of these runs: leave it out to see which did.")
    _check_comparable(runs)
    check_unmixed([(run.folder, run.result) for run in runs])
    groups = dict[str, dict[int, FinishedRun]]()
    for run in runs:
        twice = groups.setdefault(run.result["group"], {}).setdefault(run.result["seed"], run)
        if twice is not run:
            raise DataError(f"{twice.folder} and {run.folder} are of the same choices and seed: name one of them.")
    _check_code(groups)
    chosen = _choices({group: next(iter(seeds.values())) for group, seeds in groups.items()})
    _on_common_controls(groups, chosen)
    made = []
    for group, seeds in groups.items():
        alike = [seeds[seed] for seed in sorted(seeds)]
        made.append((chosen[group], join(alike, RESAMPLES), alike))
    varied = [name for name in VARIED if len({choices[name] for choices, _, _ in made}) > 1] or ["attack"]
    several = len({joined["queries"]["budget"] for _, joined, _ in made}) > 1
    found = []
    for choices, joined, alike in made:
        name = ", ".join(choices[name] for name in varied)
        name += f", {joined['queries']['budget']} queries" if several else ""
        found.append(Setting(name, choices, joined, alike))
    _check_named_apart(found)
    _on_common_tasks(found)
    return sorted(found, key=lambda setting: (*(setting.choices[name] for name in VARIED), setting.budget))


def check_head(found: Sequence[Setting], head: str) -> None:
    """Refuse a kind of classifier that is not known of all of them.

    Raises:
        DataError: naming those that are.
    """
    if any(head not in setting.heads for setting in found):
        raise DataError(f"--head {head} was not trained in all of these runs: choose {', '.join(found[0].heads)}.")


def _scene(choices: dict[str, str]) -> tuple[str, ...]:
    return tuple(choices[name] for name in VARIED if name not in TRIED)


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    old = [run.folder for run in runs if not run.result.keys() >= NEEDED]
    if old:
        raise DataError(
            f"{old[0]} was judged by an earlier version: judge it again by python eval.py run={old[0]}, "
            "and leave it out here."
        )
    protocols = {run.result["protocol_hash"]: run.folder for run in runs}
    if len(protocols) > 1:
        judged = [set(_flat(_config(folder).get("probe"), "")) for folder in protocols.values()]
        apart = " ".join(sorted(judged[0].union(*judged) - judged[0].intersection(*judged)))
        counted = Counter(run.result["protocol_hash"] for run in runs)
        told = "; ".join(f"{protocol}: {count} runs" for protocol, count in counted.items())
        raise DataError(
            f"The runs were judged by {len(protocols)} protocols ({told}; they differ in {apart}), whose figures "
            "cannot be compared: choose one by --protocol, or judge the others again by python eval.py run=<folder>."
        )


def _check_code(groups: dict[str, dict[int, FinishedRun]]) -> None:
    """Refuse seeds of one setting that different code made."""
    for seeds in groups.values():
        by_code = {run.result.get("code"): run.folder for run in seeds.values()}
        if len(by_code) > 1:
            named = " and ".join(map(str, by_code.values()))
            raise DataError(
                f"{named} were made by different code: run their commands again, which makes the older anew."
            )


def _check_named_apart(found: Sequence[Setting]) -> None:
    """Refuse two settings that differ in what no table shows, such as prices or versions of a step."""
    known = dict[tuple[str, ...], Setting]()
    for setting in found:
        place = (*setting.choices.values(), str(setting.budget))
        other = known.setdefault(place, setting)
        if other is not setting:
            raise DataError(
                f"{other.runs[0].folder} and {setting.runs[0].folder} differ in prices, caps, numerics or versions "
                "alone, which no table shows: name one of them."
            )


def _on_common_controls(groups: dict[str, dict[int, FinishedRun]], chosen: dict[str, dict[str, str]]) -> None:
    """Hold thefts of one attack, scene, budget and seed against the controls of the one that asked about most images.

    A plan that asks several times about fewer images has weaker controls of its own, and would look better by them; but
    its thief could have trained without answers on as many images as any other. Another attack's controls are trained
    as long as that attack, and are no measure of this one.
    """
    rivals = dict[tuple[object, ...], list[str]]()
    for group, seeds in groups.items():
        budget = next(iter(seeds.values())).result["queries"]["budget"]
        rivals.setdefault((chosen[group]["attack"], _scene(chosen[group]), budget), []).append(group)

    def asked(group: str, seeds: Iterable[int]) -> int:
        return sum(int(groups[group][seed].result["queries"]["images"]) for seed in seeds)

    for alike in rivals.values():
        for group in alike:
            mine = groups[group]
            complete = [other for other in alike if groups[other].keys() >= mine.keys()]
            most = max(complete, key=lambda other: asked(other, mine))
            if asked(most, mine) > asked(group, mine):
                groups[group] = {seed: _with_controls(run, groups[most][seed]) for seed, run in mine.items()}


def _with_controls(run: FinishedRun, other: FinishedRun) -> FinishedRun:
    """The run, with the controls of another in their place."""
    right = {
        place: other.right[place] if place.split("/")[2] in CONTROLS else rows for place, rows in run.right.items()
    }
    tasks = dict[str, Any]()
    for task, heads in by_head([right]).items():
        told = run.result["tasks"][task]
        again = {head: told[head] | summarise(tables, resamples=RESAMPLES) for head, tables in heads.items()}
        tasks[task] = told | again
    together = overall([right], _roles(run.result), RESAMPLES)
    return replace(run, result={**run.result, "tasks": tasks, "overall": together}, right=right)


def _roles(result: dict[str, Any]) -> dict[str, str]:
    """The role of each task."""
    return {task: str(heads["role"]) for task, heads in result["tasks"].items()}


def _on_common_tasks(found: Sequence[Setting]) -> None:
    """Let what settings of one scene recover be of the same tasks: of those by which all that can tell do tell."""
    for scene in {setting.scene for setting in found}:
        alike = [setting for setting in found if setting.scene == scene]
        common = dict[str, set[str]]()
        for head in alike[0].heads:
            told = [set[str](rows) for one in alike if (rows := one.overall(head).get("informative"))]
            common[head] = told[0].intersection(*told[1:]) if told else set()
        for one in alike:
            mine = {head: tasks for head, tasks in common.items() if one.overall(head).get("informative")}
            if any(set(one.overall(head)["informative"]) != tasks for head, tasks in mine.items()):
                rights = [run.right for run in one.runs]
                one.joined["overall"] |= overall(rights, _roles(one.joined), RESAMPLES, tasks=mine)


def _config(folder: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    return {str(name): node for name, node in config.items()}


def _choices(first: dict[str, FinishedRun]) -> dict[str, dict[str, str]]:
    """Of each group the option of each of `VARIED`, with those settings in which it differs from others of that option.

    Args:
        first: one run of each group.
    """
    options, leaves = dict[str, dict[str, str]](), dict[str, dict[str, set[str]]]()
    for group, run in first.items():
        named = json.loads((run.folder / "choices.json").read_text())
        config = _config(run.folder)
        options[group] = {name: str(named.get(f"arch@{name}", named.get(name, ""))) for name in VARIED}
        leaves[group] = {name: set(_flat(config.get(name), "")) for name in VARIED}
        images = {name: checksum for name, checksum in run.result["data"].items() if name != "asked"}
        leaves[group]["data"] = {f"checksum={key(**images)[:8]}"}  # which images, and not where they lie
        if any(leaf.startswith("path=") for leaf in leaves[group]["target"]):
            leaves[group]["target"] = {f"fingerprint={run.result['target'][:8]}"}
    chosen = dict[str, dict[str, str]]()
    for group, parts in options.items():
        chosen[group] = {}
        for name, option in parts.items():
            alike = [leaves[other][name] for other in options if options[other][name] == option]
            own = leaves[group][name].difference(alike[0].intersection(*alike[1:]))
            chosen[group][name] = " ".join([option, *sorted(own)])
    return chosen


def _flat(node: Any, name: str) -> Iterator[str]:
    """Each setting as its own name and its value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, str(key))
    elif node is not None:
        yield f"{name}={node}".replace(" ", "")
