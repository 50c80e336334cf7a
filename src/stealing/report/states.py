"""The states of a sweep: its cells in; a matrix on the terminal and the command's exit code out."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stealing.console import TextConsole
from stealing.errors import StealingError
from stealing.report.tables import Table
from stealing.sweeps.cells import STATES, Cell, cells
from stealing.sweeps.record import VARIABLE

COLOURS = {
    "done": "green",
    "running": "cyan",
    "stopped": "yellow",
    "interrupted": "yellow",
    "failed": "red",
    "missing": "yellow",
}
"""Colour of each state of a cell."""


def show(sweep_cells: Sequence[Cell], console: TextConsole) -> None:
    """Print a matrix of states, how many cells are in each, and the errors of those that failed."""
    console.print(matrix(sweep_cells).terminal(colours=COLOURS))
    counts = dict.fromkeys(STATES, 0)
    errors = []
    for cell in sweep_cells:
        counts[cell.state] += 1
        if cell.error:
            errors.append(f"{' '.join(cell.overrides)}: {cell.error}")
    numbers = [f"{count} {state}" for state, count in counts.items() if count]
    console.print(f"{', '.join(numbers)}.")
    for error in errors:
        console.print(error, soft_wrap=True)


def matrix(sweep_cells: Sequence[Cell]) -> Table:
    """Return states of cells: the setting that varies last across, all others that vary down."""
    settings = [_settings(cell) for cell in sweep_cells]
    varied = _varied(settings)
    down = varied[:-1]
    across = varied[-1] if varied else ""
    values = dict[str, None]()
    lines = dict[tuple[str, ...], dict[str, str]]()
    for cell, of_cell in zip(sweep_cells, settings, strict=True):
        value = of_cell.get(across, "") if across else ""
        values[value] = None
        place = tuple(of_cell.get(name, "") for name in down)
        lines.setdefault(place, {})[value] = cell.state
    columns = list(down)
    for value in values:
        columns.append(f"{across}={value}" if across else "state")
    rows = []
    for place, states in lines.items():
        rows.append([*place, *(states.get(value, "") for value in values)])
    return Table(tuple(columns), rows, key_columns=len(down))


def _settings(cell: Cell) -> dict[str, str]:
    """Return the overrides of a cell by name. A deletion, `~name`, has no value."""
    settings = dict[str, str]()
    for override in cell.overrides:
        name, _, value = override.partition("=")
        settings[name] = value
    return settings


def _varied(settings: Sequence[dict[str, str]]) -> list[str]:
    """Return the names of the settings in which cells differ."""
    names = dict[str, None]()
    for of_cell in settings:
        names |= dict.fromkeys(of_cell)
    varied = []
    for name in names:
        values = {of_cell.get(name) for of_cell in settings}
        if len(values) > 1:
            varied.append(name)
    return varied


@contextmanager
def summed_up() -> Iterator[None]:
    """After the body, which may be a sweep, show its cells; exit with 1 if a cell failed."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        # Hydra raises the error of the first cell that failed once all cells have ended.
        error = raised
    sweep_cells = cells(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else []
    if sweep_cells:
        # On the standard error, so that the output of the cells can be piped.
        show(sweep_cells, TextConsole(124, stderr=True))
    failed = sum(cell.state == "failed" for cell in sweep_cells)
    is_of_cell = failed > 0 and isinstance(error, StealingError)
    if error is not None and not is_of_cell:
        raise error
    if failed:
        sys.exit(
            f"{failed} of {len(sweep_cells)} cells failed: correct the errors above, and run the "
            "same command again; finished cells are not repeated."
        )
