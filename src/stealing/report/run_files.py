"""Files of a finished run: its folder in; its result.json and its right answers, checked, out."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from stealing.artefacts import damaged_files, read_done, read_object
from stealing.errors import DamageError
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import HELD, SHARES, Outcomes, group_by_head
from stealing.evaluation.zero_shot import MAJORITY, ZERO_SHOT
from stealing.reading import InvalidContent, check_safetensors, first_line
from stealing.schema import MappingOf

LARGEST_ARRAYS = 96 * 2**20
"""Most bytes of a run's arrays. They are in memory twice for a moment: as a file and as a copy."""

RESAMPLES = 1000
"""Bootstrap resamples of every interval and test of a report."""

NUMBER = (int, float)
FIGURE = (int, float, type(None))
PAIR = "two numbers"
TEXT = (str, type(None))

SHARED = dict.fromkeys(SHARES, FIGURE)

ROW: dict[str, Any] = {
    **SHARED,
    **dict.fromkeys(("TA", "SA", "agreement", "agreement_ceiling"), NUMBER),
    **dict.fromkeys(("TA_clean", "ratio", "honest_loss"), FIGURE),
    "controls": MappingOf(NUMBER),
    "control": {"name": str, "lead": FIGURE},
    "held": MappingOf(FIGURE),
    "intervals": MappingOf(PAIR),
}
"""Figures of one head on one task."""

OVERALL: dict[str, Any] = {
    **SHARED,
    "SA": FIGURE,
    "honest_loss": FIGURE,
    "informative": list,
    "intervals": MappingOf(PAIR),
    "roles": MappingOf({**SHARED, "tasks": list, "intervals": MappingOf(PAIR)}),
    "held": MappingOf(FIGURE),
}
"""Figures of one head over all tasks."""

MADE = {"device": str, "processor": TEXT, "threads": int}
"""What a report reads of how a part was made. A part of an earlier version may be null."""

RESULT: dict[str, Any] = {
    "schema": int,
    "date": str,
    "commit": TEXT,
    "group": str,
    "seed": int,
    "target": str,
    "protocol_hash": str,
    "choices": MappingOf(TEXT),
    "hardware": {"cpu": str, "gpu": TEXT, "cores": (int, type(None))},
    "versions": {"stealing": str},
    "artefacts": dict,
    "files": dict,
    "data": MappingOf(str),
    "seconds": MappingOf(NUMBER),
    "fidelity": MappingOf(NUMBER),
    "honest_user": int,
    "training": {
        "steps": int,
        "preset_steps": (int, type(None)),
        "levelled": (bool, type(None)),
    },
    "queries": {
        **dict.fromkeys(("budget", "spent", "images", "evaluation"), int),
        **dict.fromkeys(("cost", "evaluation_cost"), NUMBER),
    },
    "overall": MappingOf(OVERALL),
}
"""What a report reads of `result.json`, besides `tasks`, which has rows beside a role."""

COMMON = {
    "group": str,
    "seed": int,
    "choices": dict,
    "queries": dict,
    "seconds": dict,
    "fidelity": dict,
    "tasks": dict,
}
"""Parts of `result.json` that results of all versions have."""

REDUCED = {"size": int, "reduced_to": int}
"""Form of `pixels` in `result.json`."""

NEEDED = {"overall", "target", "training", "honest_user"}
"""Parts of `result.json` that a report needs and that earlier versions did not write."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: of the run.
        result: its `result.json`.
        right: which test images each encoder got right.
    """

    folder: Path
    result: dict[str, Any]
    right: Outcomes

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the run in a folder.

        Raises:
            DamageError: a file of it is broken, or its checksum is not that of `done.json`.
        """
        done = read_done(folder)
        # One damaged file is enough to refuse a run. A run's files are small: a huge one, which
        # takes nothing on the disk if it is all holes, would take hours to compare.
        for path in damaged_files(folder, done or {}, LARGEST_ARRAYS):
            raise DamageError(f"{path} is not as it was written (checksum).")
        result_path = folder / "result.json"
        result = read_object(result_path)
        if not _is_result(result):
            raise DamageError(f"{result_path} is not what a run writes.")
        right_path = folder / "right.safetensors"
        right = read_arrays(right_path)
        if not _has_rows_of(result, right):
            raise DamageError(f"{right_path} does not fit the result.json beside it.")
        return cls(folder, result, right)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in a safetensors file of a run, by name.

    Raises:
        DamageError: it is absent, too large or broken.
    """
    try:
        check_safetensors(path, LARGEST_ARRAYS)
        return load_file(path)
    except (InvalidContent, OSError, SafetensorError, TypeError) as error:
        # TypeError: numbers of a kind that NumPy does not have
        raise DamageError(f"{path} cannot be read ({first_line(error)}).") from None


def readable(folders: Iterable[Path]) -> list[FinishedRun]:
    """Return the runs in these folders.

    A damaged run is left out, with one line on the standard error.
    """
    runs = list[FinishedRun]()
    for folder in folders:
        try:
            runs.append(FinishedRun.read(folder))
        except DamageError as damage:
            reason = str(damage).rstrip(".")
            line = f"{reason}: the run is left out; its command makes it again."
            print(line, file=sys.stderr, flush=True)
    return runs


def score_for_search(folder: Path) -> float:
    """Return one figure of how much a finished run stole, for sweepers that search settings.

    It is SA on the held rows, the mean over tasks and heads: a search that
    saw the test split would choose what suits its images.
    """
    tasks = read_object(folder / "result.json")["tasks"]
    accuracies = []
    for heads in tasks.values():
        for head, row in heads.items():
            if head != "role":
                accuracies.append(row["held"]["SA"])
    return fmean(accuracies)


def _has_rows_of(result: dict[str, Any], right: Outcomes) -> bool:
    """Return whether `right` has the rows of each head of each task of a result, and no others."""
    for name in right:
        if name.count("/") < 2:  # not <task>/<head>/<encoder>
            return False
    tables = group_by_head([right])
    if tables.keys() != result["tasks"].keys():
        return False
    # Runs of earlier versions have fewer rows. Reports refuse them with a sentence of their own.
    is_current = result.keys() >= NEEDED
    for task, heads in result["tasks"].items():
        if tables[task].keys() != heads.keys() - {"role"}:
            return False
        for head, [rows] in tables[task].items():
            is_paired = ("TA_clean" in rows) == ("TA_clean" + HELD in rows)
            if is_current and not (is_paired and rows.keys() >= _encoders(head)):
                return False
    return True


def _encoders(head: str) -> set[str]:
    """Return the names of the rows of a head. `TA_clean` is unknown for a remote target."""
    controls = (MAJORITY,) if head == ZERO_SHOT else CONTROLS
    names = {"TA", "SA", *controls}
    return names | {name + HELD for name in names}


def _is_result(result: dict[str, Any]) -> bool:
    """Return whether a file, which a stranger may have changed, has the form of its version."""
    if not fits(result, COMMON):
        return False
    if result.keys() >= NEEDED:
        return _is_current(result)
    # An earlier version wrote other figures. Reports refuse such a run and name it.
    return fits(result["tasks"], MappingOf(MappingOf((dict, str))))


def _is_current(result: Mapping[str, Any]) -> bool:
    """Return whether a result of the current version has all that reports read."""
    tasks = result["tasks"]
    # Earlier versions did not write it.
    made = result.get("made") or {}
    if not tasks or not fits(result, RESULT) or not isinstance(made, dict):
        return False
    # Earlier versions wrote neither.
    if not is_compute(result.get("compute")) or not fits(result["queries"].get("held", 0), int):
        return False
    # Only results of images above a size have it.
    if "pixels" in result and not fits(result["pixels"], REDUCED):
        return False
    return all(map(_is_made, made.values())) and all(map(_is_task, tasks.values()))


def is_compute(value: Any) -> bool:
    """Return whether this is what `result.json` says of compute; None in earlier versions."""
    if value is None:
        return True
    if not fits(value, MappingOf((dict, type(None)))):
        return False
    return all(part is None or fits(part, MappingOf(FIGURE)) for part in value.values())


def _is_made(part: Any) -> bool:
    """Return whether these are plain facts, and those that are read are of their types.

    None is right too: a run that uses an artefact of another does not know how it was made.
    """
    if part is None:
        return True
    read = {name: kind for name, kind in MADE.items() if isinstance(part, dict) and name in part}
    return fits(part, MappingOf((str, int, type(None)))) and fits(part, read)


def _is_task(heads: Any) -> bool:
    """Return whether a task has a role and the figures of each head."""
    if not isinstance(heads, dict):
        return False
    rows = dict(heads)
    role = rows.pop("role", None)
    return isinstance(role, str) and fits(rows, MappingOf(ROW))


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value has a form: types, a mapping of forms, a `MappingOf` or `PAIR`."""
    if isinstance(kind, MappingOf):
        return isinstance(value, dict) and all(fits(part, kind.part) for part in value.values())
    if isinstance(kind, dict):
        if not isinstance(value, dict) or not kind.keys() <= value.keys():
            return False
        return all(fits(value[name], part) for name, part in kind.items())
    if kind is PAIR:
        if not isinstance(value, list) or len(value) != 2:
            return False
        low, high = value
        return fits(low, NUMBER) and fits(high, NUMBER)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind)
