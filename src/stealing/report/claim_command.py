"""The command that makes a run again: its folder in, a line to type out."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from stealing.errors import DataError
from stealing.report.claims import SETTINGS
from stealing.saved.files import read_choices, read_config
from stealing.settings.defaults import composed

CHOSEN = (
    "experiment",
    "data",
    "target",
    "arch",
    "arch@target_arch",
    "pretrain",
    "budget",
    "plan",
    "attack",
    "control",
    "probe",
    "trainer",
)
"""Groups whose options a command names."""

WORDS = ("start", "selection")
"""Settings that stand among the choices of a run."""


def command_of_runs(folder: Path, seeds: Iterable[int]) -> str:
    """Return the command that makes a run and others that differ from it in their seed.

    It names the options that the run chose, and the settings of attack, plan, network and control
    that differ from these options. Other overrides are not known.

    Args:
        folder: of the run.
        seeds: of all runs.

    Raises:
        DataError: the folder holds no choices or no configuration.
    """
    choices = read_choices(folder, DataError)
    config = read_config(folder, DataError)
    overrides = []
    for group in CHOSEN:
        # Hydra's word for a group without a choice.
        if choices.get(group) not in (None, "None"):
            overrides.append(f"{group}={choices[group]}")
    defenses = choices["defense"].split("+")
    overrides.append(_override_of_list("defense", defenses))
    overrides += [f"{name}={choices[name]}" for name in WORDS if choices.get(name)]
    try:
        options = composed("train", *overrides)
    except HydraException:  # an option of the user's own, whose file is not here
        options = {}
    for part in (*SETTINGS, "budget"):
        if part in options:
            overrides += _different(options[part], config.get(part), part)
    overrides.append(f"seed={','.join(map(str, sorted(seeds)))}")
    return shlex.join(["python", "train.py", "-m", *overrides])


def _override_of_list(name: str, values: Sequence[str]) -> str:
    return f"{name}=[{','.join(values)}]"


def _different(option: Any, value: Any, place: str) -> Iterator[str]:
    """Yield an override for each setting that is not as its option has it."""
    if isinstance(option, Mapping) and isinstance(value, Mapping):
        for name, part in value.items():
            if name in option:
                yield from _different(option[name], part, f"{place}.{name}")
    # An interpolation is resolved in a run: it is what another setting makes it.
    elif option != value and "${" not in str(option):
        words = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        yield f"{place}={words}"
