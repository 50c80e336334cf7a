"""Runs that differ in their seed alone, joined: their folders in, one result with seeds as the outer level out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from rich.console import Console
from safetensors.numpy import load_file

from stealing.artefacts import write_whole
from stealing.evaluation.statistics import Right, by_head, overall, summarise
from stealing.report.mixing import kind_of, mixture
from stealing.report.table import show


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder, its `result.json`, and which test images each encoder got right."""

    folder: Path
    result: dict[str, Any]
    right: Right

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a folder."""
        return cls(folder, json.loads((folder / "result.json").read_text()), load_file(folder / "right.safetensors"))


def join(runs: Sequence[FinishedRun], resamples: int) -> dict[str, Any]:
    """One result over all seeds; figures are means over them, intervals hold what varies with seeds and test images.

    Args:
        runs: with equal `group` and different seeds.
        resamples: of the bootstrap.
    """
    results, tables = [run.result for run in runs], [run.right for run in runs]
    first, tasks, found = results[0], dict[str, Any](), by_head(tables)
    for task, heads in first["tasks"].items():
        tasks[task] = {"role": heads["role"]}
        for head in heads:
            if head == "role":
                continue
            rows = [result["tasks"][task][head] for result in results]
            means = {name: fmean(row[name] for row in rows) for name in ("agreement", "agreement_ceiling")}
            tasks[task][head] = {**summarise(found[task][head], resamples=resamples), **means}
    roles = {task: heads["role"] for task, heads in first["tasks"].items()}
    together = overall(tables, roles, resamples)
    likeness = {name: fmean(result["fidelity"][name] for result in results) for name in first["fidelity"]}
    shared = {
        name: first[name]
        for name in (
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
    }
    seeds_ = [result["seed"] for result in results]
    seconds = [result["seconds"] for result in results]
    return {
        **shared,
        "defense": first.get("defense"),
        "made": [result.get("made") for result in results],
        "training": [result["training"] for result in results],
        "seeds": seeds_,
        "runs": [run.folder.name for run in runs],
        "seconds": seconds,
        "tasks": tasks,
        "overall": together,
        "fidelity": likeness,
    }


def score_for_search(folder: Path) -> float:
    """Return one figure of how much a finished run stole, for sweepers that search settings.

    It is SA on the slice of train that is held back, the mean over tasks and heads: a search that
    saw the test split would choose what suits its images.
    """
    tasks = json.loads((folder / "result.json").read_text())["tasks"]
    return fmean(row["held"]["SA"] for heads in tasks.values() for head, row in heads.items() if head != "role")


def siblings(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the finished runs beside this one that differ from it in their seed alone.

    Returns:
        Their folders, its own included, by seed; and a sentence for each run that has other code,
        another device or another precision, and so is left out.
    """
    own = json.loads((folder / "result.json").read_text())
    found = dict[int, Path]()
    left_out = []
    for path in sorted(folder.parent.glob("*/result.json")):
        result = json.loads(path.read_text())
        if result["group"] != own["group"]:
            continue
        if result.get("code") != own.get("code"):
            left_out.append(f"Left out: {path.parent}, which other code made. The same command makes it again.")
        elif kind_of(result) != kind_of(own):
            left_out.append(f"Left out: {path.parent}, which was made on another device or in another precision.")
        else:
            found[result["seed"]] = path.parent
    return [found[seed] for seed in sorted(found)], left_out


def conclude(folder: Path, resamples: int, console: Console) -> None:
    """Show a finished run's table, then the one over all its seeds where there are several."""
    show(json.loads((folder / "result.json").read_text()), console)
    found, left_out = siblings(folder)
    console.print(f"Written: {folder / 'result.json'}", soft_wrap=True)
    for sentence in left_out:
        console.print(sentence, soft_wrap=True)
    if len(found) > 1:
        joined = join([FinishedRun.read(sibling) for sibling in found], resamples)
        path = folder.parent / f"{folder.name.rsplit('-s', 1)[0]}-seeds-{joined['group']}.json"
        write_whole(path, json.dumps(joined, indent=1).encode())
        show(joined, console)
        if mixed := mixture([json.loads((sibling / "result.json").read_text()) for sibling in found]):
            console.print(mixed, soft_wrap=True)
        console.print(f"Written: {path}", soft_wrap=True)
