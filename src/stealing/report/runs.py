"""Finished runs: folders in; run groups, each joined over its seeds, or a refusal, out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stealing.artefacts import key
from stealing.errors import DataError
from stealing.evaluation.statistics import SHARES, Outcomes, overall
from stealing.report.common_controls import roles_of_tasks, use_common_controls
from stealing.report.mixing import check_code, check_protocol, check_unmixed, flat_settings
from stealing.report.run_files import RESAMPLES, FinishedRun, readable
from stealing.report.seeds import join
from stealing.saved.files import read_choices, read_config
from stealing.saved.restore import add_later_parts
from stealing.sweeps.cells import cells

VARIED = (
    "data",
    "target",
    "target_arch",
    "pretrain",
    "arch",
    "start",
    "selection",
    "control",
    "attack",
    "defense",
    "plan",
)
"""Parts of a configuration that tell run groups apart, besides the budget."""

TRIED = ("attack", "defense", "plan")
"""Those parts in which run groups are compared, if all other parts are equal."""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed.

    Attributes:
        name: what tells it apart from the others of the report.
        choices: the option of each of `VARIED`, with the settings in which it differs from other
            groups of that option.
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
        """True if a known defense was active."""
        return self.choices["defense"] != "none"

    @property
    def scene(self) -> tuple[str, ...]:
        """All choices but attack, defense and plan. Groups of one scene can be compared."""
        return _scene(self.choices)

    def overall(self, head: str) -> dict[str, Any]:
        """Return the figures over all tasks; empty for a head that was not trained.

        See `stealing.evaluation.statistics.overall`.
        """
        figures: dict[str, Any] = self.joined["overall"].get(head, {})
        return figures

    def chosen_by(self, head: str) -> float:
        """Return the share that the attack recovered on the held rows.

        Attacks are compared by this when one of them is to be chosen, so that no test image decides
        which attack a page reports.
        """
        held = self.overall(head).get("held", {})
        for name in SHARES:
            if held.get(name) is not None:
                return float(held[name])
        return -math.inf

    def options(self, parts: Iterable[str]) -> list[str]:
        """Return the choices of these parts of a configuration, some of `VARIED`."""
        return [self.choices[part] for part in parts]

    @property
    def tables(self) -> list[Outcomes]:
        """Right answers of each seed."""
        return [run.right for run in self.runs]

    @property
    def heads(self) -> list[str]:
        """Kinds of classifier that were trained on features."""
        first_task = next(iter(self.joined["tasks"].values()))
        return [head for head in first_task if head != "role"]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return folders of finished runs.

    Args:
        paths: folders of runs, folders that hold such folders, or folders of sweeps.

    Raises:
        DataError: there is none.
    """
    # A dict keeps the order, and a run that is named twice counts once.
    runs = dict[Path, None]()
    for path in map(Path.resolve, paths):
        for folder in _candidates(path):
            if (folder / "done.json").exists() and (folder / "result.json").exists():
                runs[folder] = None
    if not runs:
        raise DataError(
            f"{' '.join(map(str, paths))} holds no judged run: name work/runs, a run's or a "
            "sweep's folder."
        )
    return list(runs)


def _candidates(path: Path) -> Iterator[Path]:
    """Yield folders that may be of finished runs: those of a sweep, or a folder and those in it."""
    if (path / "sweep.json").exists():
        for cell in cells(path):
            if cell.run:
                yield cell.run
    else:
        done = {*path.glob("done.json"), *path.glob("*/done.json")}
        for file in sorted(done):
            yield file.parent


def group_runs(folders: Sequence[Path], protocol: str | None = None) -> list[RunGroup]:
    """Group runs by all but their seed, in the order of attack, defense, plan and budget.

    Args:
        folders: of finished runs.
        protocol: hash of the protocol that the runs were judged by; others are left out.

    Raises:
        DataError: they were judged by several protocols, two are of the same choices and seed, or
            none can be read.
    """
    runs = _read(folders, protocol)
    check_protocol(runs)
    check_unmixed({str(run.folder): run.result for run in runs})
    by_group = _by_group(runs)
    first_runs = dict[str, FinishedRun]()
    for name, seeds in by_group.items():
        check_code(seeds.values())
        first_runs[name] = next(iter(seeds.values()))
    choices = _choices(first_runs)
    # Before the join, which computes intervals from the answers of all seeds and controls.
    use_common_controls(by_group, _rivals(first_runs, choices))
    groups = []
    for name, seeds in by_group.items():
        ordered = list(dict(sorted(seeds.items())).values())
        joined = join(ordered, RESAMPLES)
        groups.append(RunGroup("", choices[name], joined, ordered))
    groups = _with_names(groups)
    _check_distinct(groups)
    _use_common_tasks(groups)
    return sorted(groups, key=_order)


def check_head(groups: Sequence[RunGroup], head: str) -> None:
    """Refuse a kind of classifier that was not trained in all of these run groups.

    Raises:
        DataError: naming those of the first group.
    """
    for group in groups:
        if head not in group.heads:
            raise DataError(
                f"--head {head} was not trained in all of these runs: choose "
                f"{', '.join(groups[0].heads)}."
            )


def varied_choices(groups: Sequence[RunGroup]) -> list[str]:
    """Return those of `VARIED` in which these run groups differ."""
    varied = []
    for part in VARIED:
        options = {group.choices[part] for group in groups}
        if len(options) > 1:
            varied.append(part)
    return varied


def _read(folders: Sequence[Path], protocol: str | None) -> list[FinishedRun]:
    runs = readable(folders)
    if not runs:
        raise DataError("None of these runs can be read: run their commands again.")
    if protocol:
        runs = [run for run in runs if run.result["protocol_hash"] == protocol]
        if not runs:
            raise DataError(
                f"--protocol {protocol} judged none of these runs: leave it out to see which did."
            )
    return runs


def _by_group(runs: Sequence[FinishedRun]) -> dict[str, dict[int, FinishedRun]]:
    by_group = dict[str, dict[int, FinishedRun]]()
    for run in runs:
        seeds = by_group.setdefault(run.result["group"], {})
        # The run that came first, or this one.
        other = seeds.setdefault(run.result["seed"], run)
        if other is not run:
            raise DataError(
                f"{other.folder} and {run.folder} are of the same choices and seed: name one of "
                "them."
            )
    return by_group


def _rivals(
    first_runs: dict[str, FinishedRun], choices: dict[str, dict[str, str]]
) -> list[list[str]]:
    """Return the names of groups of one attack, scene and budget."""
    rivals = dict[tuple[object, ...], list[str]]()
    for name, run in first_runs.items():
        budget = run.result["queries"]["budget"]
        place = (choices[name]["attack"], _scene(choices[name]), budget)
        rivals.setdefault(place, []).append(name)
    return list(rivals.values())


def _with_names(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups, each named by the choices in which they differ."""
    # A group that differs in nothing still needs a name.
    varied = varied_choices(groups) or ["attack"]
    budgets = {group.budget for group in groups}
    renamed = []
    for group in groups:
        words = group.options(varied)
        if len(budgets) > 1:
            words.append(f"{group.budget} queries")
        renamed.append(replace(group, name=", ".join(words)))
    return renamed


def _order(group: RunGroup) -> tuple[object, ...]:
    return (*group.options(VARIED), group.budget)


def _scene(choices: dict[str, str]) -> tuple[str, ...]:
    return tuple(choices[name] for name in VARIED if name not in TRIED)


def _check_distinct(groups: Sequence[RunGroup]) -> None:
    """Refuse two groups that differ in what no table shows, such as prices."""
    known = dict[tuple[str, ...], RunGroup]()
    for group in groups:
        place = (*group.choices.values(), str(group.budget))
        other = known.setdefault(place, group)
        if other is not group:
            raise DataError(
                f"{other.runs[0].folder} and {group.runs[0].folder} differ only in prices, caps, "
                "numerics or versions, which no table shows: name one of them."
            )


def _use_common_tasks(groups: Sequence[RunGroup]) -> None:
    """Compute the shares of the groups of one scene on the same tasks.

    Those are the tasks that are informative for all groups that have any.
    """
    by_scene = dict[tuple[str, ...], list[RunGroup]]()
    for group in groups:
        by_scene.setdefault(group.scene, []).append(group)
    for of_scene in by_scene.values():
        common = dict[str, set[str]]()
        for group in of_scene:
            for head, tasks in _informative(group).items():
                common[head] = common.get(head, tasks) & tasks
        for group in of_scene:
            own = _informative(group)
            tasks_by_head = {head: common[head] for head in own}
            # Resampling takes long, so only what changes is computed again.
            if tasks_by_head != own:
                roles = roles_of_tasks(group.joined)
                figures = overall(group.tables, roles, RESAMPLES, tasks=tasks_by_head)
                group.joined["overall"] |= figures


def _informative(group: RunGroup) -> dict[str, set[str]]:
    """Return the informative tasks by head, of the heads that have any."""
    informative = dict[str, set[str]]()
    for head in group.heads:
        tasks = group.overall(head).get("informative")
        if tasks:
            informative[head] = set(tasks)
    return informative


def _choices(first_runs: dict[str, FinishedRun]) -> dict[str, dict[str, str]]:
    """Return, by group, the option of each part in `VARIED`, such as `topk k=16`.

    Settings that not all groups with this option share follow its name.

    Args:
        first_runs: one run of each group.
    """
    options = dict[str, dict[str, str]]()
    settings = dict[str, dict[str, set[str]]]()
    common = dict[tuple[str, str], set[str]]()
    for group, run in first_runs.items():
        # A network is chosen by `arch@<part>`, every other part by its own name.
        names = read_choices(run.folder, DataError)
        options[group] = {}
        settings[group] = _settings(run)
        for part, of_part in settings[group].items():
            option = str(names.get(f"arch@{part}", names.get(part, "")))
            options[group][part] = option
            common[part, option] = common.get((part, option), of_part) & of_part
    choices = dict[str, dict[str, str]]()
    for group, of_group in options.items():
        choices[group] = {}
        for part, option in of_group.items():
            own = settings[group][part] - common[part, option]
            choices[group][part] = " ".join([option, *sorted(own)])
    return choices


def _settings(run: FinishedRun) -> dict[str, set[str]]:
    """Return the settings of each of `VARIED`, as `name=value`."""
    config = read_config(run.folder, DataError)
    add_later_parts(config)
    settings = {part: set(flat_settings(config.get(part))) for part in VARIED}
    # Images and encoders count by what they are, not by where they lie.
    images = dict(run.result["data"])
    # The images that were sent differ by budget and plan.
    images.pop("asked", None)
    settings["data"] = {f"checksum={key(**images)[:8]}"}
    has_path = any(setting.startswith("path=") for setting in settings["target"])
    if has_path:
        settings["target"] = {f"fingerprint={run.result['target'][:8]}"}
    return settings
