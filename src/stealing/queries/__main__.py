"""Look after a ledger: show, verify, export, import, allow or rename in, lines of text out."""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from rich.table import Table

from stealing.artefacts import WORK
from stealing.commands import one_line_errors
from stealing.console import TextConsole
from stealing.errors import LedgerError
from stealing.numbers import as_number, check_integer
from stealing.queries.import_answers import SOURCE, record
from stealing.queries.inspection import bank_faults, export, find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.opening import open_known
from stealing.queries.schema import Purpose
from stealing.text import printable

COLUMNS = (
    "target",
    "purpose",
    "spent",
    "allowed in all",
    "stored",
    "in doubt",
    "given up",
    "cost",
    "answers a day",
)


def main() -> None:
    """Run the chosen command; exit with code 1 if something is wrong."""
    chosen = _parser().parse_args()
    with one_line_errors():
        is_server = "://" in chosen.ledger
        is_absent = not is_server and not Path(chosen.ledger).exists()
        if is_absent and chosen.command != "import":  # only an import may make a ledger
            raise LedgerError(f"There is no ledger {chosen.ledger}: name one by --ledger.")
        folder = WORK if is_server else Path(chosen.ledger).parent
        ledger = open_known(chosen.ledger, folder)
        # Closed also if a check fails: it would leave its file of owners behind.
        with closing(ledger):
            _run(ledger, chosen, folder)


def _run(ledger: Ledger, chosen: argparse.Namespace, folder: Path) -> None:
    """Run a command on an open ledger."""
    if chosen.command == "show":
        _show(ledger)
    elif chosen.command == "verify":
        _verify(ledger, chosen.banks or folder / "banks")
    elif chosen.command == "allow":
        _allow(ledger, chosen.target, chosen.purpose, chosen.total)
    elif chosen.command == "rename":
        ledger.rename(chosen.old, chosen.new)
        print(printable(f"What was bought from {chosen.old} is that of {chosen.new} now."))
    elif chosen.command == "export":
        print(printable(f"{export(ledger, chosen.file)} answers written to {chosen.file}."))
    else:
        _import(ledger, chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stealing.queries", description="Look after a ledger of queries."
    )
    parser.add_argument(
        "--ledger",
        default=str(WORK / "ledger.sqlite"),
        help="a file, or postgresql://... (%(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "show", help="spent, stored, in doubt and cost by target and purpose; answers a day"
    )
    verifying = commands.add_parser(
        "verify", help="checksums of all answers and banks, and whether the counts add up"
    )
    verifying.add_argument("--banks", type=Path, help="folder of the banks (beside the ledger)")
    exporting = commands.add_parser("export", help="all answers as Parquet")
    exporting.add_argument("file", type=Path)
    importing = commands.add_parser("import", help="recorded answers, for target=recording")
    importing.add_argument(
        "file", type=Path, help="Parquet: vector, and image or (as exported) digest and size"
    )
    importing.add_argument("--name", required=True, help="target.remote.name=NAME uses it")
    importing.add_argument("--size", type=int, help="height and width, if the file holds images")
    for name in SOURCE:
        importing.add_argument(
            f"--{name}",
            type=int if name == "repeat" else str,
            help=f"only answers of this {name}, if an export has several",
        )
    allowing = commands.add_parser(
        "allow", help="set, raise or lift the most images that all runs may send together"
    )
    allowing.add_argument("target", help="the first letters of its name, as show has it")
    allowing.add_argument("purpose", choices=["attack", "evaluation"])
    allowing.add_argument("total", help="images, or none for any number")
    renaming = commands.add_parser(
        "rename", help="keep what was bought under a target's former name"
    )
    renaming.add_argument("old", help="name in the ledger; show lists all names")
    renaming.add_argument("new", help="name in the message of the run that was refused")
    return parser


def _verify(ledger: Ledger, banks: Path) -> None:
    """Print every fault of the ledger and its banks; exit with code 1 if there is one."""
    faults = find_faults(ledger) + bank_faults(banks, ledger.identity)
    for fault in faults:
        print(printable(fault))
    if faults:
        sys.exit(1)
    print("Every answer is as it was stored, and every count adds up.")
    sys.exit(0)


def _import(ledger: Ledger, chosen: argparse.Namespace) -> None:
    only = dict[str, str | int]()
    for name in SOURCE:
        value = getattr(chosen, name)
        if value is not None:
            only[name] = value
    count = record(ledger, chosen.file, chosen.name, chosen.size, only)
    print(printable(f"{count} answers recorded as {chosen.name}."))


def _allow(ledger: Ledger, letters: str, purpose: Purpose, total: str) -> None:
    """Set, raise or lift the limit of all runs together, which no run does by itself."""
    limit = None if total == "none" else check_integer("TOTAL", as_number(total))
    names = {row.target for row in spendings(ledger)}
    targets = [name for name in names if name.startswith(letters)]
    if letters in names:  # a whole name may be the beginning of another
        targets = [letters]
    if len(targets) != 1:
        raise LedgerError(
            f"{len(targets)} targets in the ledger have names that begin with {letters}: give the "
            "letters of one, as python -m stealing.queries show has them."
        )
    ledger.allow(targets[0], purpose, limit)
    number = "any number of" if limit is None else limit
    print(f"All runs together may send {number} images to it for {purpose}.")


def _show(ledger: Ledger) -> None:
    """Print a table of what was spent, a line for each target and purpose."""
    table = Table(title=f"{ledger.place}")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in spendings(ledger):
        days = ", ".join(f"{day}: {count}" for day, count in row.days.items())
        table.add_row(
            row.target[:24],  # enough for `allow`, which takes the first letters
            row.purpose,
            str(row.spent),
            "any" if row.total is None else str(row.total),
            str(row.stored),
            str(row.in_doubt),
            str(row.failed),
            f"{row.cost:.2f}",
            days,
        )
    TextConsole(124).print(table)


if __name__ == "__main__":
    main()
