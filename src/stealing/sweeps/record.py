"""The files of a sweep: what a command is about to run in, `sweep.json` and one file a cell out.

A *cell* is one job of a sweep: a list of overrides. `<work>/sweeps/<hash>/sweep.json` names all
cells before the first one starts, so that a cell that never began is known to be missing. Beside it
is one file for each cell that began.
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Private, but Hydra has no public way to know the jobs of a sweep before they start.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from stealing.artefacts import key, write_atomically
from stealing.errors import ClaimError
from stealing.sweeps.cells import read_cell
from stealing.text import printable

VARIABLE = "STEALING_SWEEP"
"""Environment variable with the sweep's folder. Every launcher passes it on to its cells."""


class Record(Callback):
    """Hydra callback that writes the files of a sweep.

    Hydra calls it in the process that starts the sweep and in the process of each cell.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Write `sweep.json` with all cells, if the sweeper knows them before it starts."""
        if config.plan_only:
            # Hydra writes a file of each sweep. A plan writes nothing in the work folder.
            self.hydra_files = TemporaryDirectory()
            with read_write(config):
                config.hydra.sweep.dir = self.hydra_files.name
            return
        overrides = list(config.hydra.overrides.task)
        # The same overrides in another order are the same sweep.
        folder = Path(config.paths.work).absolute() / "sweeps" / key(overrides=sorted(overrides))
        content = {"overrides": overrides, "cells": _planned(config), "began": time.time()}
        write_atomically(folder / "sweep.json", json.dumps(content, indent=1).encode())
        os.environ[VARIABLE] = str(folder)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Remove what Hydra wrote of a plan."""
        if config.plan_only:
            self.hydra_files.cleanup()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Write that this cell begins; it keeps its run if it began before."""
        overrides = list(config.hydra.overrides.task)
        path = _file_of_cell(overrides)
        if path is None:
            return
        content: dict[str, Any] = {"overrides": overrides}
        if path.exists():
            content["run"] = read_cell(path).get("run")
        write_atomically(path, json.dumps(content).encode())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write that this cell failed, as it may have failed before it had a folder."""
        path = _file_of_cell(config.hydra.overrides.task)
        if path is None or job_return.status != JobStatus.FAILED:
            return
        error = job_return._return_value
        if isinstance(error, ClaimError):
            # The same sweep was started twice. The other process writes how this cell ends.
            return
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_atomically(path, json.dumps({**read_cell(path), "error": message}).encode())
        line = printable(f"{' '.join(config.hydra.overrides.task)}: {message}")
        print(line, file=sys.stderr, flush=True)


def _planned(config: DictConfig) -> list[list[str]] | None:
    """Return the overrides of each cell, or None for a sweeper that draws them as it goes."""
    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith("BasicSweeper"):
        return None
    words = []
    for name, value in (sweeper.params or {}).items():
        words.append(f"{name}={value}")
    words += config.hydra.overrides.task
    overrides = OverridesParser.create().parse_overrides(words)
    # None: one batch of any size.
    [planned] = BasicSweeper.split_arguments(overrides, None)
    return list(map(list, planned))


def _file_of_cell(overrides: Any) -> Path | None:
    """Return where the cell with these overrides is written, or None outside of a sweep."""
    sweep = os.environ.get(VARIABLE)
    return Path(sweep) / f"{key(cell=list(overrides))}.json" if sweep else None


def command() -> dict[str, Any]:
    """Return the overrides of this command, and the name of its sweep's folder or None."""
    sweep = os.environ.get(VARIABLE)
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    return {"overrides": tuple(overrides), "sweep": Path(sweep).name if sweep else None}


def register_cell(run: Path, overrides: Any) -> None:
    """Write the folder of a cell's run into the sweep of this process, if it is in one."""
    path = _file_of_cell(overrides)
    if path is not None:
        # Relative, so that a work folder can be moved.
        relative = os.path.relpath(run.absolute(), path.parent)
        content = {"overrides": list(overrides), "run": relative}
        write_atomically(path, json.dumps(content).encode())
