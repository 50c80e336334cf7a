"""Look after a ledger: python -m stealing.queries show | verify | export FILE | import FILE --name NAME."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stealing.artefacts import WORK
from stealing.errors import LedgerError, StealingError
from stealing.queries.audit import export, faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.recording import record


def main() -> None:
    """Do what was chosen; exit code 1 where something is wrong."""
    chosen = _parser().parse_args()
    try:
        if chosen.command != "import" and "://" not in chosen.ledger and not Path(chosen.ledger).exists():
            raise LedgerError(f"There is no ledger {chosen.ledger}: name one by --ledger.")
        ledger = Ledger(chosen.ledger)
        if chosen.command == "show":
            _show(ledger)
        elif chosen.command == "verify":
            found = faults(ledger)
            print("\n".join(found) or "Every answer is as it was stored, and every count adds up.")
            sys.exit(1 if found else 0)
        elif chosen.command == "export":
            print(f"{export(ledger, chosen.file)} answers written to {chosen.file}.")
        else:
            print(f"{record(ledger, chosen.file, chosen.name, chosen.size)} answers recorded as {chosen.name}.")
        ledger.close()
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stealing.queries", description="Look after a ledger of queries.")
    parser.add_argument(
        "--ledger", default=str(WORK / "ledger.sqlite"), help="a file, or postgresql://... (%(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="spent, stored, in doubt and cost by target and purpose; answers a day")
    commands.add_parser("verify", help="checksums of all answers, and whether the counts add up")
    exporting = commands.add_parser("export", help="all answers as Parquet")
    exporting.add_argument("file", type=Path)
    importing = commands.add_parser("import", help="recorded answers, for target=recording")
    importing.add_argument("file", type=Path, help="Parquet: vector, and image or (as exported) digest and size")
    importing.add_argument("--name", required=True, help="target.remote.name=NAME finds it again")
    importing.add_argument("--size", type=int, help="height and width, where the file holds images")
    return parser


def _show(ledger: Ledger) -> None:
    table = Table(title=f"{ledger.place}")
    for column in ("target", "purpose", "spent", "allowed", "stored", "in doubt", "given up", "cost", "answers a day"):
        table.add_column(column, overflow="fold")
    for row in spendings(ledger):
        figures = [row.spent, "any" if row.total is None else row.total, row.stored, row.in_doubt, row.failed]
        days = ", ".join(f"{day}: {count}" for day, count in row.days.items())
        table.add_row(row.target[:24], row.purpose, *map(str, figures), f"{row.cost:.2f}", days)
    console = Console(width=max(124, Console().width))
    console.print(table)


if __name__ == "__main__":
    main()
