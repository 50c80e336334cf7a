"""Where a run stands, for people and for sweeps: written at its start, at each step, at its end and at its failure."""

import json
from pathlib import Path

from stealing.artefacts import write_whole


def write_status(folder: Path, state: str, step: str, error: str = "") -> None:
    """Replace `status.json`.

    Args:
        folder: of the run.
        state: `running`, `done` or `failed`.
        step: the step that runs, ran last or failed.
        error: the one sentence of a failure.
    """
    write_whole(folder / "status.json", json.dumps({"state": state, "step": step, "error": error}).encode())
