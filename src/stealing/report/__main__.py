"""`python -m stealing.report work/runs`: runs in; tables and one page, or states of sweeps, out.

Two words in the place of the first path do other things: `claim` makes files of a leaderboard from
finished runs, and `leaderboard` makes its tables.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from stealing.artefacts import WORK
from stealing.commands import one_line_errors
from stealing.console import TextConsole
from stealing.errors import DataError
from stealing.report.states import show
from stealing.sweeps.cells import cells
from stealing.text import printable


def main() -> None:
    """Write the report, show the states of sweeps, make claims, or make a leaderboard."""
    words = sys.argv[1:]
    if words[:1] == ["claim"]:
        claim(words[1:])
        return
    if words[:1] == ["leaderboard"]:
        leaderboard(words[1:])
        return
    options = _parser().parse_args()
    with one_line_errors():
        if options.status:
            states = status(options.paths or [WORK])
            sys.exit(0 if states <= {"done", "running"} else 1)
        # Imported here, because it imports matplotlib, which --status does not need.
        from stealing.report.write import write

        # The page names the command that makes it.
        command = shlex.join(["python", "-m", "stealing.report", *sys.argv[1:]])
        paths = options.paths or [WORK / "runs"]
        page = write(paths, options.out, options.head, command=command, protocol=options.protocol)
        print(printable(f"Written: {page}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stealing.report", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        help=f"runs, folders of runs, or sweeps; default: {WORK}/runs",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="show done, running, failed and missing cells of sweeps",
    )
    parser.add_argument(
        "--head", default="linear", help="classifier of the figures: linear, knn or mlp"
    )
    parser.add_argument(
        "--protocol",
        help="hash of the protocol by which the runs were judged, if there are several",
    )
    parser.add_argument("--out", type=Path, default=WORK / "report", help="folder to write to")
    return parser


def claim(words: Sequence[str]) -> None:
    """Make the claims of finished runs; a claim that is there keeps its other seeds.

    Args:
        words: of the command line, after `claim`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m stealing.report claim",
        description="Make claim files of a leaderboard from finished runs of an attack.",
    )
    parser.add_argument("paths", nargs="+", type=Path, help="runs, folders of runs, or sweeps")
    parser.add_argument(
        "--out", type=Path, default=Path("results/leaderboard"), help="folder to write to"
    )
    options = parser.parse_args(words)
    with one_line_errors():
        # Imported here, because it imports torch, which --status does not need.
        from stealing.report.claim_files import write_claims

        for path in write_claims(options.paths, options.out):
            print(printable(f"Written: {path}"))


def leaderboard(words: Sequence[str]) -> None:
    """Check all claims of a folder, and write its tables.

    Args:
        words: of the command line, after `leaderboard`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m stealing.report leaderboard",
        description="Check the claims in a folder, and write its tables beside them.",
    )
    parser.add_argument("folder", type=Path, help="folder of claims, such as results/leaderboard")
    options = parser.parse_args(words)
    with one_line_errors():
        from stealing.report.leaderboard_tables import write_board

        print(printable(f"Written: {write_board(options.folder)}"))


def status(paths: Sequence[Path]) -> set[str]:
    """Show the sweeps of work folders, and sweeps whose folders are named.

    Args:
        paths: work folders or folders of sweeps.

    Returns:
        All states that occur.

    Raises:
        DataError: there is no sweep.
    """
    files = list[Path]()
    for path in paths:
        files += sorted(path.glob("sweeps/*/sweep.json"))
    for path in paths:
        files += path.glob("sweep.json")
    if not files:
        raise DataError(
            f"{' '.join(map(str, paths))} holds no sweep: start one by python train.py -m ..."
        )
    states = set[str]()
    for file in files:
        print(f"\n{printable(str(file.parent))}")
        sweep_cells = cells(file.parent)
        show(sweep_cells, TextConsole(124))
        for cell in sweep_cells:
            states.add(cell.state)
    return states


if __name__ == "__main__":
    main()
