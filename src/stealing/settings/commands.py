"""The settings of each command: the name of its configuration in `conf/` in, its settings out."""

from collections.abc import Mapping, Sequence
from typing import Any

from stealing.settings.kinds import Setting
from stealing.settings.service import SERVICE
from stealing.settings.table import AUDIT, BASE, EVAL

COMMANDS: dict[str, Sequence[Setting]] = {
    "train": BASE,
    "eval": EVAL,
    "audit": AUDIT,
    "service": SERVICE,
}
"""The settings of each configuration in `conf/`, by its name."""

MARKS = {"audit": "audit", "surrogate": "eval", "books": "service"}
"""Top-level settings that only one command has."""


def command_of(values: Mapping[str, Any]) -> str:
    """Return the name of the command that a configuration belongs to."""
    for mark, command in MARKS.items():
        if mark in values:
            return command
    return "train"
