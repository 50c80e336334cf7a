"""Where each cell of a sweep stands: written by the cells themselves, shown as a matrix, and the sweep's exit code.

A *cell* is one job of a sweep: a list of overrides. `<work>/sweeps/<hash>/sweep.json` names all of them beforehand, so
that what never began is known to be missing; beside it is a file for each cell that began.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stealing.artefacts import held, key, write_whole
from stealing.errors import ClaimError, StealingError

VARIABLE = "STEALING_SWEEP"
"""Environment variable with the sweep's folder: whatever launches a cell, it inherits this."""

COLOURS = {"done": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "missing": "yellow"}


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        overrides: what it was given.
        state: `done`, `running`, `interrupted` (its process is gone), `failed` or `missing`.
        run: its folder, if it has one.
        error: of a failure.
    """

    overrides: tuple[str, ...]
    state: str
    run: Path | None
    error: str


class Record(Callback):
    """Keeps the files of a sweep; Hydra calls it in the process that starts the sweep and in that of each cell."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Name all cells, where the sweeper knows them beforehand."""
        if config.plan_only:
            return
        words, planned = list(config.hydra.overrides.task), None
        if config.hydra.sweeper._target_.endswith("BasicSweeper"):
            params = [f"{name}={value}" for name, value in (config.hydra.sweeper.params or {}).items()]
            [planned] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *words]), None)
        folder = Path(config.paths.work).absolute() / "sweeps" / key(overrides=sorted(words))
        told = {"overrides": words, "cells": planned, "began": time.time()}
        write_whole(folder / "sweep.json", json.dumps(told, indent=1).encode())
        os.environ[VARIABLE] = str(folder)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """This cell begins, perhaps again."""
        if place := _place(config.hydra.overrides.task):
            known = {"run": json.loads(place.read_text()).get("run")} if place.exists() else {}
            write_whole(place, json.dumps({"overrides": list(config.hydra.overrides.task), **known}).encode())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """This cell failed, perhaps before it had a folder to say so in."""
        place = _place(config.hydra.overrides.task)
        if place and job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            if isinstance(error, ClaimError):
                return  # the same sweep, started twice: the other one says how this cell ends
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            write_whole(place, json.dumps({**json.loads(place.read_text()), "error": said}).encode())
            print(f"{' '.join(config.hydra.overrides.task)}: {said}", file=sys.stderr, flush=True)


def _place(overrides: Any) -> Path | None:
    sweep = os.environ.get(VARIABLE)
    return Path(sweep) / f"{key(cell=list(overrides))}.json" if sweep else None


def command() -> dict[str, Any]:
    """Return the overrides of this process's command and the name of its sweep's folder, or None."""
    sweep = os.environ.get(VARIABLE)
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    return {"overrides": tuple(overrides), "sweep": Path(sweep).name if sweep else None}


def enter(run: Path, overrides: Any) -> None:
    """Tell the sweep that this process works for, if any, in which folder its cell is."""
    if place := _place(overrides):
        near = os.path.relpath(run.absolute(), place.parent)  # so that a work folder can be moved
        write_whole(place, json.dumps({"overrides": list(overrides), "run": near}).encode())


def cells(sweep: Path) -> list[Cell]:
    """All cells of a sweep, in the order of its plan.

    Raises:
        StealingError: the folder is not one of a sweep.
    """
    try:
        told = json.loads((sweep / "sweep.json").read_text())
    except FileNotFoundError:
        raise StealingError(f"{sweep} is not a sweep's folder: name one of those in work/sweeps.") from None
    files = [path for path in sweep.glob("*.json") if path.name != "sweep.json"]
    begun = {path.stem: json.loads(path.read_text()) for path in files}
    planned = told["cells"]
    if planned is None:  # a search draws its cells: those of its last start
        fresh = sorted((path for path in files if path.stat().st_mtime >= told["began"]), key=os.path.getmtime)
        planned = [begun[path.stem]["overrides"] for path in fresh]
    return [_cell(overrides, begun.get(key(cell=overrides)), sweep) for overrides in planned]


def _cell(overrides: list[str], begun: dict[str, Any] | None, sweep: Path) -> Cell:
    if begun is None:
        return Cell(tuple(overrides), "missing", None, "")
    run = (sweep / begun["run"]).resolve() if begun.get("run") else None
    if begun.get("error"):
        return Cell(tuple(overrides), "failed", run, begun["error"])
    status = run / "status.json" if run else None
    if run is None or status is None or not status.exists():
        return Cell(tuple(overrides), "missing", run, "")
    told = json.loads(status.read_text())
    alive = told["state"] != "running" or held(run)
    return Cell(tuple(overrides), told["state"] if alive else "interrupted", run, told["error"])


def show(found: list[Cell], console: Console) -> None:
    """Print a matrix, the values of what varies last across and all else that varies down; then what failed."""
    split = [dict(word.partition("=")[::2] for word in cell.overrides) for cell in found]  # ~a deletion has no value
    names = list(dict.fromkeys(name for cell in split for name in cell))
    varied = [name for name in names if len({cell.get(name) for cell in split}) > 1]
    rows, across = varied[:-1], varied[-1:]
    columns = list(dict.fromkeys(cell.get(name, "") for cell in split for name in across)) or ["state"]
    table = Table(*rows, *(escape(f"{across[0]}={column}") if across else column for column in columns))
    lines = dict[tuple[str, ...], dict[str, str]]()
    for cell, words in zip(found, split, strict=True):
        line = lines.setdefault(tuple(words.get(name, "") for name in rows), {})
        line[words.get(across[0], "") if across else "state"] = f"[{COLOURS[cell.state]}]{cell.state}[/]"
    for head, line in lines.items():
        table.add_row(*map(escape, head), *(line.get(column, "") for column in columns))
    console.print(table)
    counted = {state: sum(cell.state == state for cell in found) for state in COLOURS}
    console.print(", ".join(f"{count} {state}" for state, count in counted.items() if count) + ".")
    for cell in found:
        if cell.error:
            console.print(f"{' '.join(cell.overrides)}: {cell.error}", soft_wrap=True, markup=False)


@contextmanager
def summed_up() -> Iterator[None]:
    """Around a command: after a sweep, show where its cells stand; if any failed, the exit code is 1."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:  # of the first cell that failed, raised again by Hydra when all had their turn
        error = raised
    found = cells(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else []
    if found:
        show(found, Console(stderr=True, width=max(124, Console().width)))
    failed = sum(cell.state == "failed" for cell in found)
    if error is not None and not (failed and isinstance(error, StealingError)):
        raise error
    if failed:
        sys.exit(f"{failed} of {len(found)} cells failed: mend what they say; the same command does these alone.")
