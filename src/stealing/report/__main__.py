"""`python -m stealing.report work/runs` writes tables and one page; with --status, where the cells of sweeps stand."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stealing.artefacts import WORK
from stealing.errors import DataError, StealingError
from stealing.report.sweep import Cell, cells, show


def main() -> None:
    """Write the report, or show where sweeps stand."""
    parser = argparse.ArgumentParser(prog="python -m stealing.report", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help=f"runs, folders of runs, or sweeps; default: {WORK}/runs")
    parser.add_argument("--status", action="store_true", help="show done, running, failed and missing cells of sweeps")
    parser.add_argument("--head", default="linear", help="classifier of the figures: linear, knn or mlp")
    parser.add_argument(
        "--protocol", help="hash of the protocol by which the runs were judged, where there are several"
    )
    parser.add_argument("--out", type=Path, default=WORK / "report", help="folder to write to")
    chosen = parser.parse_args()
    try:
        if chosen.status:
            sys.exit(0 if status(chosen.paths or [WORK]) <= {"done", "running"} else 1)
        from stealing.report.write import write  # after the choices: it imports what draws

        command = shlex.join(["python", "-m", "stealing.report", *sys.argv[1:]])
        paths = chosen.paths or [WORK / "runs"]
        print(f"Written: {write(paths, chosen.out, chosen.head, command=command, protocol=chosen.protocol)}")
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def status(paths: Sequence[Path]) -> set[str]:
    """Show each sweep of these work folders, and each named sweep; all states that occur.

    Raises:
        DataError: there is none.
    """
    folders = [file.parent for path in paths for file in sorted(path.glob("sweeps/*/sweep.json"))]
    folders += [path for path in paths if (path / "sweep.json").exists()]
    if not folders:
        raise DataError(f"{' '.join(map(str, paths))} holds no sweep: start one by python train.py -m ...")
    found = list[Cell]()
    for folder in folders:
        print(f"\n{folder}")
        found += cells(folder)
        show(cells(folder), Console(width=max(124, Console().width)))
    return {cell.state for cell in found}


if __name__ == "__main__":
    main()
