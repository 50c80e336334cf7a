"""`status.json` of a run: its state in, at the start, at each step and at the end; the file out."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stealing.artefacts import write_atomically


def write_status(folder: Path, state: str, step: str, error: str = "") -> None:
    """Replace `status.json`.

    Args:
        folder: of the run.
        state: `running`, `done`, `failed`, or `stopped` by Ctrl-C or SIGTERM.
        step: the step that runs, ran last, failed or was stopped.
        error: the one sentence of a failure.
    """
    content = {"state": state, "step": step, "error": error}
    write_atomically(folder / "status.json", json.dumps(content).encode())


@contextmanager
def ending_in_status(folder: Path, step: Callable[[], str]) -> Iterator[None]:
    """Write `failed` or `stopped` if the body does not come to its end.

    Args:
        folder: of the run.
        step: returns the step that the run is at.
    """
    try:
        yield
    except Exception as error:
        write_status(folder, "failed", step(), " ".join(str(error).split()))
        raise
    except BaseException:  # Ctrl-C or SIGTERM
        if not (folder / "done.json").exists():
            write_status(folder, "stopped", step())
        raise
