"""Claims of a leaderboard: finished runs of one attack in; one file with all its numbers out.

A claim says what one attack recovered with one budget of queries. It holds, of each seed, the
accuracies of all tasks, which test images the surrogate got right, what the ledger billed, and what
made the run. Its figures follow from these numbers, so that a reader can compute them again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stealing.artefacts import write_sealed
from stealing.errors import DataError
from stealing.evaluation.zero_shot import ZERO_SHOT
from stealing.report.claim_figures import figures_of, packed
from stealing.report.run_files import FinishedRun
from stealing.saved.files import read_choices, read_config

SCHEMA = 1
"""Version of the form of a claim."""

Claim = dict[str, Any]
"""The content of a claim's file, without its checksum."""

SETTINGS = ("attack", "plan", "arch", "control")
"""Parts of a run's configuration that a claim holds: how the attack was done."""

OF_SEED = (
    "config_hash",
    "code",
    "commit",
    "date",
    "versions",
    "hardware",
    "made",
    "training",
    "compute",
    "queries",
    "seconds",
    "cpu_seconds",
    "fidelity",
)
"""Parts of `result.json` that a claim holds of each seed."""

OF_ROW = ("TA", "TA_clean", "SA", "recovered", "controls", "control", "held")
"""Figures of one task and head that a claim holds of each seed, besides two intervals."""

WITH_INTERVAL = ("SA", "recovered")


def claim_path(folder: Path, attack: str, budget: int) -> Path:
    """Return where a folder holds the claim of an attack with a budget."""
    # An option in a subfolder has a slash in its name.
    return folder / f"{attack.replace('/', '.')}_b{budget}.json"


def make_claim(runs: Sequence[FinishedRun], command: str, earlier: Claim | None = None) -> Claim:
    """Return the claim of finished runs of one attack.

    Args:
        runs: that differ only in their seed.
        command: that makes them.
        earlier: a claim of the same attack with other seeds, which the new one keeps.

    Raises:
        DataError: the runs differ in more than their seed, or do not belong to the earlier claim.
    """
    first = runs[0].result
    choices = read_choices(runs[0].folder, DataError)
    seeds = dict[str, Any](earlier["seeds"] if earlier else {})
    group = earlier["group"] if earlier else first["group"]
    for run in runs:
        if run.result["group"] != group:
            raise DataError(
                f"{run.folder} differs from the other runs of this claim in more than its seed: "
                "make a claim of its own in another folder."
            )
        seeds[str(run.result["seed"])] = _seed(run)
    by_seed = dict(sorted(seeds.items(), key=lambda item: int(item[0])))
    data = dict(first["data"])
    # It differs by seed.
    data.pop("asked", None)
    config = read_config(runs[0].folder, DataError)
    return {
        "schema": SCHEMA,
        "attack": choices["attack"],
        "budget": first["queries"]["budget"],
        "group": group,
        "target": first["target"],
        "data": data,
        "protocol_hash": first["protocol_hash"],
        "choices": choices,
        "settings": {name: config.get(name) for name in SETTINGS},
        "command": command,
        "date": max(seed["date"] for seed in by_seed.values()),
        "ledger": ledger_of(by_seed),
        "figures": figures_of(by_seed),
        "seeds": by_seed,
    }


def ledger_of(seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the ledger billed: of each seed in their order, and the cost of all together."""
    queries = [seed["queries"] for seed in seeds.values()]
    summary = dict[str, Any]()
    for name in ("spent", "images", "in_doubt", "evaluation"):
        summary[name] = [of_seed[name] for of_seed in queries]
    summary["cost"] = sum(of_seed["cost"] for of_seed in queries)
    return summary


def _seed(run: FinishedRun) -> dict[str, Any]:
    """Return what a claim holds of one seed."""
    result = run.result
    defense = result.get("defense")
    if defense is None or defense["name"] != "none":
        raise DataError(
            f"{run.folder} attacked a service or a defended target: a leaderboard compares attacks "
            "on a target of your own without a defense."
        )
    facts = {name: result.get(name) for name in OF_SEED}
    facts["asked"] = result["data"].get("asked")
    tasks = dict[str, Any]()
    right = dict[str, str]()
    for task, heads in result["tasks"].items():
        tasks[task] = {"role": heads["role"]}
        for head, row in heads.items():
            # Boards compare attacks by heads with the same controls.
            if head in ("role", ZERO_SHOT):
                continue
            intervals = row["intervals"]
            kept = {name: intervals[name] for name in WITH_INTERVAL if name in intervals}
            figures = {name: row[name] for name in OF_ROW}
            tasks[task][head] = {**figures, "intervals": kept}
            rows = run.right[f"{task}/{head}/SA"]
            tasks[task]["images"] = len(rows)
            right[f"{task}/{head}"] = packed(rows)
    return {**facts, "tasks": tasks, "right": right}


def write_claim(claim: Claim, folder: Path) -> Path:
    """Write a claim into a folder, with a checksum of its content; return its path."""
    path = claim_path(folder, claim["attack"], claim["budget"])
    write_sealed(path, claim)
    return path
