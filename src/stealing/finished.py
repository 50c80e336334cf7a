"""Finish a run, and find out if one is finished: its folder and today's code in; yes or no out."""

from pathlib import Path
from typing import Any

from stealing.artefacts import read_done, write_done
from stealing.errors import DamageError
from stealing.report.run_files import FinishedRun
from stealing.training.conditions import warn_of_differences
from stealing.training.distributed import say
from stealing.training.fit import Settings

RESULTS = ("result.json", "right.safetensors", "sample.safetensors")
"""Files of an evaluated run whose checksums are in its `done.json`."""


def finish(folder: Path, until: str, code: str, made: dict[str, Any], ledger: str) -> None:
    """Write `done.json` of a run.

    Args:
        folder: of the run.
        until: its last step.
        code: hash of the code of its steps.
        made: what each of its artefacts was made with.
        ledger: identity of the ledger that paid for its answers.
    """
    files = RESULTS if until == "evaluate" else ()
    write_done(folder, files=files, until=until, code=code, made=made, ledger=ledger)


def is_finished(folder: Path, until: str, code: str, settings: Settings, given: bool) -> bool:
    """Return True if today's code finished a run, and its files are as they were written.

    Args:
        folder: of the run.
        until: its last step.
        code: hash of the code of its steps, today.
        settings: what this command asks for.
        given: True if the target was not made by the run: this command then does not ask for the
            conditions that the target was made under.
    """
    try:
        done = read_done(folder)
        if done is None:
            return False
        if done.get("code") != code:
            say(f"{folder} was judged by other code than today's: it is judged again.")
            return False
        if until == "evaluate":
            FinishedRun.read(folder)  # compares checksums
    except DamageError as damage:
        say(f"{str(damage).rstrip('.')}: the run is judged again.")
        return False
    made = done.get("made")
    conditions = dict(made) if isinstance(made, dict) else {}  # a person may edit the file
    if given:
        conditions.pop("target", None)
    warn_of_differences(folder, conditions, settings)
    return True
