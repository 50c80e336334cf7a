"""The cells of a sweep: the folder of a sweep in; each cell, its state and its run out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stealing.artefacts import is_claimed, key, read_object
from stealing.errors import DamageError, DataError, StealingError

STATES = ("done", "running", "stopped", "interrupted", "failed", "missing")
"""States of a cell, in the order in which they are counted."""


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        overrides: of its command.
        state: `done`, `running`, `stopped` (by Ctrl-C or SIGTERM), `interrupted` (its process is
            gone), `failed` or `missing`.
        run: its folder, if it has one.
        error: of a failure.
    """

    overrides: tuple[str, ...]
    state: str
    run: Path | None
    error: str


def cells(sweep: Path) -> list[Cell]:
    """Return all cells of a sweep, in the order of its plan.

    Raises:
        StealingError: the folder is not one of a sweep, or its `sweep.json` is broken.
    """
    path = sweep / "sweep.json"
    if not path.exists():
        raise StealingError(f"{sweep} is not a sweep's folder: name one of those in work/sweeps.")
    remedy = "run the sweep's command again, which writes it anew."
    try:
        content = read_object(path)
    except DamageError as damage:
        raise DataError(f"{str(damage).rstrip('.')}: {remedy}") from None
    planned = content.get("cells")
    start = content.get("began", 0)
    is_plan = isinstance(planned, list) and all(map(_is_overrides, planned))
    if not (planned is None or is_plan) or not isinstance(start, int | float):
        raise DataError(f"{path} is not what a sweep writes: {remedy}")
    begun = dict[str, dict[str, Any]]()
    files = []
    for file in sweep.glob("*.json"):
        if file != path:
            files.append(file)
            begun[file.stem] = read_cell(file)
    if planned is None:
        planned = _drawn(files, begun, start)
    return [_cell(overrides, begun.get(key(cell=overrides)), sweep) for overrides in planned]


def _drawn(
    files: Sequence[Path], begun: dict[str, dict[str, Any]], start: float
) -> list[list[str]]:
    """Return the cells that a search has drawn since its last start, in that order."""
    drawn = []
    for file in sorted(files, key=os.path.getmtime):
        if file.stat().st_mtime >= start:
            drawn.append(begun[file.stem].get("overrides", [file.name]))
    return drawn


def _cell(overrides: list[str], begun: dict[str, Any] | None, sweep: Path) -> Cell:
    """Return a cell from its own file, or None, and from the status of its run."""
    words = tuple(overrides)
    if begun is None:
        return Cell(words, "missing", None, "")
    run = (sweep / begun["run"]).resolve() if begun.get("run") else None
    if begun.get("error"):
        return Cell(words, "failed", run, begun["error"])
    # os.path.isfile is false for a name that no file can have, where Path.is_file raises.
    if run is None or not os.path.isfile(run / "status.json"):
        return Cell(words, "missing", run, "")
    status = read_cell(run / "status.json")
    state = status.get("state")
    # A running cell claims its folder. Without a claim its process is gone.
    if state not in STATES or (state == "running" and not is_claimed(run)):
        state = "interrupted"
    return Cell(words, state, run, str(status.get("error", "")))


def read_cell(path: Path) -> dict[str, Any]:
    """Return the content of a cell's file; of a broken one, an `error`."""
    try:
        content = read_object(path)
    except DamageError as damage:
        return {"error": str(damage)}
    is_valid = _is_overrides(content.get("overrides", []))
    for name in ("run", "state", "step", "error"):
        text = content.get(name)
        is_valid &= text is None or _is_text(text)
    if not is_valid:
        return {"error": f"{path} is not what a sweep writes."}
    return content


def _is_overrides(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text(value: Any) -> bool:
    """Return whether this is text that can stand in a file or in a path."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.encode(errors="ignore").decode() == value
