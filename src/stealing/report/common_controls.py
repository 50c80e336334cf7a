"""Common controls: replace the controls of compared attacks, and compute their shares again.

`stealing.report.stored_cells` does the same for stored results, without the answers to each image.

A plan that sends fewer images several times has weaker controls of its own, and would look better
by them. But that attacker could have trained without answers on as many images as any other. So
attacks of one kind, budget and seed are measured against the controls of the one that sent the most
images. Controls of another attack are trained as long as that attack: they measure only it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from stealing.errors import DataError
from stealing.evaluation.protocol import controls_among
from stealing.evaluation.statistics import group_by_head, overall, summarise
from stealing.report.run_files import RESAMPLES, FinishedRun

NO_TASK = "A frontier needs a task on which the target beats all controls: add one to data.tasks."
"""What is wrong with results that have no share."""

Seeds = dict[int, FinishedRun]
"""Runs of one group, by seed."""


def use_common_controls(groups: dict[str, Seeds], rivals: Iterable[Sequence[str]]) -> None:
    """Replace the controls of runs in place.

    Only a group with all the seeds of another lends it controls: otherwise the seeds of one group
    would have controls of two kinds.

    Args:
        groups: of runs; those that get other controls are replaced.
        rivals: names of groups that are compared: of one attack, data, target and budget.
    """
    for names in rivals:
        for name in names:
            seeds = groups[name]
            lenders = [groups[other] for other in names if groups[other].keys() >= seeds.keys()]
            lender = max(lenders, key=lambda other: _images(other, seeds))
            # Groups that sent equally many images keep their own controls.
            if _images(lender, seeds) > _images(seeds, seeds):
                changed = Seeds()
                for seed, run in seeds.items():
                    changed[seed] = _with_controls(run, lender[seed])
                groups[name] = changed


def _images(group: Seeds, seeds: Iterable[int]) -> int:
    """Return how many images a group sent with these seeds."""
    return sum(int(group[seed].result["queries"]["images"]) for seed in seeds)


def _with_controls(run: FinishedRun, lender: FinishedRun) -> FinishedRun:
    """Return the run with the controls of another, and all figures computed anew."""
    right = dict(run.right)
    for place in run.right:
        # `<task>/<head>/<encoder>`, on the held rows with a last part `held`.
        _, _, name, *_ = place.split("/")
        # A control that the lender does not have stays as it is.
        if controls_among([name]) and place in lender.right:
            right[place] = lender.right[place]
    tasks = dict[str, Any]()
    for task, heads in group_by_head([right]).items():
        tasks[task] = dict(run.result["tasks"][task])
        for head, tables in heads.items():
            tasks[task][head] = tasks[task][head] | summarise(tables, resamples=RESAMPLES)
    over_tasks = overall([right], roles_of_tasks(run.result), RESAMPLES)
    result = {**run.result, "tasks": tasks, "overall": over_tasks}
    return replace(run, result=result, right=right)


def roles_of_tasks(result: dict[str, Any]) -> dict[str, str]:
    """Return the role of each task."""
    return {task: heads["role"] for task, heads in result["tasks"].items()}


def check_scene(results: Iterable[dict[str, Any]]) -> None:
    """Refuse results that no frontier can be drawn of.

    Raises:
        DataError: they are of several targets, data sets or protocols, or none is undefended.
    """
    scenes = set[tuple[object, ...]]()
    is_undefended = False
    for result in results:
        images = dict(result["data"])
        # The images that were sent differ by budget and plan.
        images.pop("asked", None)
        scenes.add((result["target"], result["protocol_hash"], *sorted(images.items())))
        is_undefended |= result["cell"]["defense"] == "none"
    if len(scenes) > 1:
        raise DataError(
            "The results of a frontier are of several protocols, targets or data sets: move those "
            "of an earlier version elsewhere, and measure them again."
        )
    if not is_undefended:
        raise DataError("A frontier needs the cell without a defense: measure defense=none too.")
