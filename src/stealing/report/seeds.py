"""Runs that differ only in their seed: one of them in; its siblings, or a joined result, out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stealing.artefacts import read_object
from stealing.errors import DamageError
from stealing.evaluation.statistics import group_by_head, overall, summarise
from stealing.report.mixing import kind_of
from stealing.report.run_files import FinishedRun, readable

EQUAL = (
    "schema",
    "choices",
    "target",
    "group",
    "protocol_hash",
    "data",
    "hardware",
    "queries",
    "honest_user",
)
"""Parts of `result.json` that a joined result takes from its first run."""

SOMETIMES = ("pixels",)
"""Parts that it takes too, if the first run has them."""


def join(runs: Sequence[FinishedRun], resamples: int) -> dict[str, Any]:
    """Return one result over all seeds.

    Figures are means over seeds. Intervals hold what varies with seeds and with test images.

    Args:
        runs: with equal `group` and different seeds.
        resamples: of the bootstrap.
    """
    results = [run.result for run in runs]
    tables = [run.right for run in runs]
    first = results[0]
    rows_by_task = group_by_head(tables)

    def by_seed(name: str) -> list[Any]:
        return [result.get(name) for result in results]

    tasks = dict[str, Any]()
    roles = dict[str, str]()
    for task, heads in first["tasks"].items():
        roles[task] = heads["role"]
        tasks[task] = {"role": heads["role"]}
        for head in heads:
            if head == "role":
                continue
            # A mean of the seeds' intervals would not hold what varies with seeds.
            figures = summarise(rows_by_task[task][head], resamples=resamples)
            # Agreement needs predictions, which `right` does not hold: only the mean is known.
            for name in ("agreement", "agreement_ceiling"):
                figures[name] = fmean(result["tasks"][task][head][name] for result in results)
            tasks[task][head] = figures
    return {
        **{name: first[name] for name in EQUAL},
        **{name: first[name] for name in SOMETIMES if name in first},
        "defense": first.get("defense"),
        "made": by_seed("made"),
        "training": by_seed("training"),
        "seeds": by_seed("seed"),
        "runs": [run.folder.name for run in runs],
        "seconds": by_seed("seconds"),
        "tasks": tasks,
        "overall": overall(tables, roles, resamples),
        "fidelity": _mean_fidelity(by_seed("fidelity")),
    }


def _mean_fidelity(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean over seeds of each figure that all of them have."""
    means = dict[str, float]()
    for name in figures[0]:
        values = [of_seed[name] for of_seed in figures if name in of_seed]
        # A mean over other seeds than the rest would mislead.
        if len(values) == len(figures):
            means[name] = fmean(values)
    return means


def siblings(run: FinishedRun) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs beside a run that differ from it only in their seed.

    Returns:
        The runs, `run` included, by seed; and a sentence for each run that has other code, another
        device or another precision, and so is left out. A damaged run is left out too, with a line
        on the standard error.
    """
    by_seed = dict[int, FinishedRun]()
    left_out = []
    for other in readable(_of_group(run.folder.parent, run.result["group"])):
        if other.result["group"] != run.result["group"]:
            continue
        if other.result.get("code") != run.result.get("code"):
            left_out.append(
                f"Left out: {other.folder}, which other code made. The same command makes it again."
            )
        elif kind_of(other.result) != kind_of(run.result):
            left_out.append(
                f"Left out: {other.folder}, which was made on another device or in another "
                "precision."
            )
        else:
            by_seed[other.result["seed"]] = other
    ordered = dict(sorted(by_seed.items()))
    return list(ordered.values()), left_out


def _of_group(runs: Path, group: str) -> Iterator[Path]:
    """Yield the folders of the judged runs of a group.

    A run whose `result.json` is broken counts by its folder's name.
    """
    for path in sorted(runs.glob("*/result.json")):
        try:
            of_run = read_object(path).get("group")
        except DamageError:
            of_run = None
        if of_run == group or path.parent.name.endswith(f"-{group}"):
            yield path.parent
