"""Compare what `plan_only` says with what the run then takes, for three small experiments.

    python benchmarks/plan_only.py --out results/plan_only        # needs STEALING_DATA
    python benchmarks/plan_only.py --only debug --clock wall

Each experiment has a work folder of its own, which is empty at first. One thread, so that processor
seconds can be compared: other work on the machine does not count then. `--clock wall` compares
seconds on an idle machine.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stealing.artefacts import write_atomically
from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]

EXPERIMENTS = {
    "debug": ["experiment=debug"],
    "cifar10_sweep": ["experiment=cifar10_sweep", "budget.images=256", "defense=topk"],
    "quickstart": ["experiment=quickstart"],
}
"""Arguments of train.py: a target that the run trains, a defense on real images, a longer run."""

BY_PROCESSOR = """
import runpy, sys, time
import stealing.timing
stealing.timing.clock = time.process_time
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a command whose forecast counts processor seconds."""


def run(command: list[str], work: Path) -> tuple[str, float]:
    """Return what a command printed, and its seconds."""
    environment = {
        **os.environ,
        "STEALING_WORK": str(work),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, time.perf_counter() - start


def expected(told: str) -> dict[str, float]:
    """Return the seconds of each step that a plan names."""
    [line] = re.findall(r"if nothing is done yet: (.*?); in all", told)
    seconds = dict[str, float]()
    for part in line.split(", "):
        step, spent = part.split()
        seconds[step] = float(spent)
    return seconds


def compare(name: str, clock: str, work: Path) -> dict[str, Any]:
    """Plan an experiment, then run it."""
    arguments = [*EXPERIMENTS[name], "trainer.threads=1"]
    first = ["-c", BY_PROCESSOR] if clock == "cpu" else []
    told, plan_seconds = run([*first, "train.py", *arguments, "plan_only=true"], work)
    run(["train.py", *arguments], work)
    [path] = (work / "runs").glob("*/result.json")
    result = json.loads(path.read_text())
    taken = result["cpu_seconds" if clock == "cpu" else "seconds"]
    plan = expected(told)
    return {
        "experiment": name,
        "arguments": arguments,
        "clock": clock,
        "expected": plan,
        "taken": {step: round(seconds, 1) for step, seconds in taken.items()},
        "ratio": round(sum(plan.values()) / sum(taken.values()), 2),
        "plan_took": round(plan_seconds, 1),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return a table with a row for each experiment."""
    unit = "processor seconds" if rows[0]["clock"] == "cpu" else "seconds"
    table = Table(title=f"What plan_only says, and what the run takes ({unit}, one thread)")
    steps = list(rows[0]["taken"])
    for column in ("experiment", *steps, "in all", "said / taken"):
        table.add_column(column)
    for row in rows:
        cells = list[str]()
        for step in steps:
            cells.append(f"{row['expected'].get(step, 0):.0f} / {row['taken'][step]:.0f}")
        both = [sum(row[part].values()) for part in ("expected", "taken")]
        table.add_row(
            row["experiment"], *cells, f"{both[0]:.0f} / {both[1]:.0f}", str(row["ratio"])
        )
    return table


def main() -> None:
    """Compare, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder for plan_only.json and table.txt")
    options = parser.parse_args()
    rows = list[dict[str, Any]]()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(name, options.clock, Path(folder) / "work"))
    console = Console(width=120, record=True)
    console.print(table_of(rows))
    if options.out is not None:
        content = {"rows": rows, **provenance(1, 1)}
        write_atomically(
            options.out / "plan_only.json", (json.dumps(content, indent=1) + "\n").encode()
        )
        write_atomically(options.out / "table.txt", console.export_text().encode())


if __name__ == "__main__":
    main()
