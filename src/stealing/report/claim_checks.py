"""Checks of a claim: a file that a stranger may have written in; the claim, or one sentence, out.

Whatever can be computed is computed again from the numbers of the seeds: SA from the answers to
single images, shares from accuracies, the figures and the ledger's summary from the seeds.
"""

import math
from pathlib import Path
from typing import Any

from stealing.artefacts import read_object, read_sealed
from stealing.errors import DataError
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.shares import strongest_control
from stealing.evaluation.statistics import control_accuracy
from stealing.report.claim_figures import figures_of, right_answers
from stealing.report.claims import SCHEMA, WITH_INTERVAL, Claim, claim_path, ledger_of
from stealing.report.run_files import FIGURE, NUMBER, PAIR, TEXT, fits, is_compute
from stealing.saved.files import OPTION
from stealing.schema import MappingOf

CLOSE = 1e-9
"""Greatest difference between a figure and the same one computed again."""

ROW = {
    **dict.fromkeys(("TA", "TA_clean", "SA"), NUMBER),
    "recovered": FIGURE,
    "controls": MappingOf(NUMBER),
    "control": {"name": str, "lead": NUMBER},
    "held": MappingOf(NUMBER),
    "intervals": MappingOf(PAIR),
}
"""Figures of one task and head."""

SEED = {
    "commit": TEXT,
    "date": str,
    "hardware": {"cpu": str, "gpu": TEXT},
    "training": {"steps": int, "images": int},
    "queries": {
        **dict.fromkeys(("budget", "spent", "images", "in_doubt", "evaluation"), int),
        "cost": NUMBER,
    },
    "seconds": MappingOf(NUMBER),
    "cpu_seconds": MappingOf(NUMBER),
    "tasks": MappingOf(dict),
    "right": MappingOf(str),
}
"""What a claim has to hold of each seed."""

FORM = {
    "schema": int,
    **dict.fromkeys(("attack", "group", "target", "protocol_hash", "command", "date"), str),
    "budget": int,
    "data": MappingOf(str),
    "choices": MappingOf(TEXT),
    "settings": {"attack": dict},
    "ledger": dict,
    "figures": dict,
    "seeds": MappingOf(SEED),
}
"""What every claim has."""


def read_claim(path: Path) -> Claim:
    """Return the claim in a file.

    Raises:
        DamageError: the file is broken, or was changed after it was written.
        DataError: it is no claim, or its figures do not follow from what it holds.
    """
    if "checksum" not in read_object(path):
        raise DataError(f"{path} has no checksum of itself: make it by {MAKE}.")
    claim = read_sealed(path)
    if not _has_form(claim):
        raise DataError(
            f"{path} is not a claim of schema {SCHEMA}: make it by {MAKE}, and leave other files "
            "out of this folder."
        )
    expected = claim_path(path.parent, claim["attack"], claim["budget"])
    if path.name != expected.name:
        raise DataError(f"{path} is the claim of another file: rename it to {expected.name}.")
    for number, seed in claim["seeds"].items():
        _check_seed(path, claim["budget"], number, seed)
    if not _is_close(claim["ledger"], ledger_of(claim["seeds"])):
        _refuse(path, "the summary of its ledger does not follow from its seeds")
    if not _is_close(claim["figures"], figures_of(claim["seeds"])):
        _refuse(path, "its figures do not follow from the numbers of its seeds")
    return claim


MAKE = "python -m stealing.report claim"
"""The command that makes a claim."""


def _refuse(path: Path, why: str) -> None:
    raise DataError(f"{path} does not verify, as {why}: make it again by {MAKE}.")


def _has_form(claim: Claim) -> bool:
    """Return whether a file has the form of a claim, down to the figures of each task."""
    if not fits(claim, FORM) or claim["schema"] != SCHEMA or not claim["seeds"]:
        return False
    if OPTION.fullmatch(claim["attack"]) is None:
        return False
    if not fits(claim["settings"]["attack"].get("pool"), (int, type(None))):
        return False
    tasks = None
    for number, seed in claim["seeds"].items():
        places = _places(seed)
        # All seeds have the same tasks and heads: otherwise they could not be joined.
        if not number.isdecimal() or not places or tasks not in (None, places):
            return False
        tasks = places
        if not fits(seed["queries"].get("held", 0), int):
            return False
        if set(places) != set(seed["right"]) or not is_compute(seed.get("compute")):
            return False
    return True


def _places(seed: dict[str, Any]) -> list[str]:
    """Return `<task>/<head>` of all figures of a seed; none if one is not of the right form."""
    places = []
    heads_of_first = None
    for task, heads in seed["tasks"].items():
        rows = dict(heads)
        role = rows.pop("role", None)
        images = rows.pop("images", None)
        is_task = isinstance(role, str) and fits(images, int) and "/" not in task
        if not is_task or images < 1 or not fits(rows, MappingOf(ROW)):
            return []
        if not rows or heads_of_first not in (None, rows.keys()):
            return []
        heads_of_first = rows.keys()
        if not all(map(_has_encoders, rows.values())):
            return []
        places += [f"{task}/{head}" for head in rows]
    return places


def _has_encoders(row: dict[str, Any]) -> bool:
    """Return whether a row has all controls, and the intervals of what it has."""
    needed = [name for name in WITH_INTERVAL if row[name] is not None]
    expected = {
        "controls": set(CONTROLS),
        "held": {"TA", "TA_clean", "SA", *CONTROLS},
        "intervals": set(needed),
    }
    return all(names <= set(row[part]) for part, names in expected.items())


def _check_seed(path: Path, budget: int, number: str, seed: dict[str, Any]) -> None:
    """Refuse a seed whose bill is above the budget, or whose figures contradict each other."""
    queries = seed["queries"]
    if queries["budget"] != budget:
        _refuse(path, f"seed {number} had a budget of {queries['budget']} and not {budget}")
    if queries["spent"] > budget:
        _refuse(
            path, f"seed {number} was billed for {queries['spent']} answers of {budget} allowed"
        )
    try:
        answers = right_answers(seed)
    except ValueError:
        _refuse(path, f"the answers of seed {number} are not of as many images as its tasks")
    for place, rows in answers.items():
        task, head = place.split("/")
        row = seed["tasks"][task][head]
        if not _is_close(row["SA"], float(rows.mean())):
            _refuse(path, f"SA of {place} does not follow from the answers of seed {number}")
        if row["control"]["name"] != strongest_control(row["held"]).name:
            _refuse(path, f"the control of {place} is not the strongest of seed {number}")
        gap = row["TA_clean"] - control_accuracy(row)
        if row["recovered"] is None:
            continue
        taken = row["SA"] - control_accuracy(row)
        if gap <= 0 or not _is_close(row["recovered"], taken / gap):
            _refuse(path, f"recovered of {place} does not follow from the accuracies of {number}")


def _is_close(one: Any, other: Any) -> bool:
    """Return whether two nested values are equal, but for the rounding of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, NUMBER) and isinstance(other, NUMBER):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)
