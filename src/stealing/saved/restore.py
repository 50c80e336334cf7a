"""Restore a run for `eval.py`: the user's command and a run's folder in, a configuration out."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stealing.errors import ConfigError
from stealing.reading import quoted
from stealing.saved.files import read_choices, read_config, surrogate_folder
from stealing.saved.ownership import own_data, own_settings
from stealing.saved.schema import SETTINGS, checked_part

OWN = ("paths", "logger", "trust", "plan_only", "probe", "controls")
"""Parts that come from the user's own command."""

EVAL_ONLY = ("run", "surrogate", "tasks", "heads")
"""Settings of `eval.py` that a run does not have."""

UNUSED = ("trust", "audit")
"""Parts of a stored run that nothing reads: the author's trust, and the audit that made the run."""

ALLOWED_OVERRIDE = re.compile(
    r"run=|probe\b|trust=|logger\b|paths\.(ledger|cache)=|target\.authorized=|\+data\.root="
    r"|\+target\.(family|hub)="
    r"|\+target\.remote\.credential\.(variable|honest)=|\+defense\.\w+\.secret="
)
"""Overrides of `eval.py run=`; everything else is the run's own choice."""

CSV_LOGGER = "stealing.training.fit.Recorder"
"""The logger that sends nothing anywhere."""

SIMCLR = {"_target_": "stealing.pretraining.simclr.SimCLRModule", "_partial_": True}
"""Method of the runs of versions that had no other."""


def restore_run(config: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the configuration and the choices of the run that `eval.py run=` names.

    The protocol, the paths and all permissions come from the user's command.

    Args:
        config: of the user's command, with `run`, a folder that a stranger may have written.
        overrides: as typed.

    Raises:
        ConfigError: `run` is not a run's folder, its configuration does not fit the schema, or an
            override would change the run.
    """
    foreign = [word for word in overrides if not ALLOWED_OVERRIDE.match(word)]
    if foreign:
        raise ConfigError(
            "A run keeps its own choices and only probe= can change: "
            f"leave {' '.join(foreign)} out."
        )
    folder = Path(str(config.run))
    if not os.path.isfile(folder / "config.yaml"):
        raise ConfigError(
            f"run={folder} is not a run's folder: add run=<one of the folders in work/runs>."
        )
    values = read_config(folder, ConfigError)
    add_later_parts(values)
    _check_parts(values, config, folder)
    trusted = _trusted(config)
    saved: dict[str, Any] = {}
    for name in SETTINGS:
        if name == "paths" or name not in OWN:
            saved[name] = checked_part(folder, name, values[name], trusted)
    _check_paths(saved["paths"], config, folder)
    own_settings(saved, config, overrides)
    for name in OWN:
        if name in config:
            saved[name] = config[name]
    # A run without a dashboard stays without one, unless the user asks for it.
    is_logger_typed = any(word.startswith("logger") for word in overrides)
    if _is_csv(values["logger"]) and not is_logger_typed:
        saved["logger"] = {"_target_": CSV_LOGGER, "_partial_": True}
    saved["until"] = "evaluate"
    return OmegaConf.create(saved), read_choices(folder, ConfigError)


def choose_surrogate(config: DictConfig, overrides: Sequence[str]) -> None:
    """Make the surrogate of a run the target, in place.

    Data and protocol are those of the run, unless the command names others.

    Args:
        config: of the user's command, with `surrogate`, a folder that a stranger may have written.
        overrides: as typed.

    Raises:
        ConfigError: `surrogate` is not the folder of a run that trained a surrogate.
    """
    folder = Path(str(config.surrogate))
    # Not the target of another program that the command named.
    config.target = {"path": str(_encoder_file(folder)), "seed": 0, "remote": None}
    values = read_config(folder, ConfigError)
    for group in ("data", "probe"):
        if any(word.startswith(f"{group}=") for word in overrides):
            continue
        changes = [word for word in overrides if word.lstrip("+~").startswith(f"{group}.")]
        if changes:
            raise ConfigError(
                f"{changes[0]} changes a part of what the run was judged by: add {group}=... to "
                "choose the whole."
            )
        part = checked_part(folder, group, values.get(group), _trusted(config))
        if group == "data":
            own_data(part, config)
        config[group] = part


def _encoder_file(folder: Path) -> Path:
    """Return the file of the surrogate that the result in a run's folder names."""
    path = folder / "result.json"
    if not os.path.isfile(path):
        raise ConfigError(
            f"surrogate={folder} is not a judged run's folder: "
            "name one of the folders in work/runs."
        )
    return surrogate_folder(folder, ConfigError) / "encoder.safetensors"


def _trusted(config: DictConfig) -> list[str]:
    return list(config.get("trust") or [])


def add_later_parts(values: dict[str, Any]) -> None:
    """Add, in place, the parts that earlier versions did not have, with the values they used."""
    values.setdefault("callbacks", {})
    values.setdefault("controls", {})
    values.setdefault("selection", "random")
    trainer = values.get("trainer")
    if isinstance(trainer, dict):
        trainer.setdefault("graph", False)
    for name in ("pretrain", "control"):
        recipe = values.get(name)
        if isinstance(recipe, dict):
            recipe.setdefault("method", dict(SIMCLR))


def _check_parts(values: dict[str, Any], config: DictConfig, folder: Path) -> None:
    """Refuse a stored configuration that lacks a part, or has an unknown one."""
    needed = [str(name) for name in config if name not in (*EVAL_ONLY, "trust")]
    absent = sorted(name for name in needed if name not in values)
    if absent:
        raise ConfigError(
            f"run={folder} was made by an earlier version, without {absent[0]}: "
            "run its command again."
        )
    unknown = sorted(values.keys() - SETTINGS.keys() - set(UNUSED))
    if unknown:
        raise ConfigError(
            f"{folder / 'config.yaml'} has a part {quoted(unknown[0])}, which no run has: "
            "leave it out."
        )


def _check_paths(paths: dict[str, str], config: DictConfig, folder: Path) -> None:
    """Refuse a run of another work folder or ledger; set `paths.work` of the configuration."""
    work = os.path.dirname(os.path.dirname(os.path.realpath(folder)))
    if os.path.realpath(paths["work"]) != work:
        raise ConfigError(
            f"This run has paths.work={paths['work']}, which is another folder here: run eval.py "
            "in the folder in which the run was started."
        )
    # By default the ledger is in the work folder, so this has to be set before they are compared.
    config.paths.work = paths["work"]
    if not _is_same_place(paths["ledger"], str(config.paths.ledger)):
        raise ConfigError(
            "This run was made with another ledger: if it is yours, add "
            f"paths.ledger={paths['ledger']}; without it, the answers would be bought again."
        )


def _is_same_place(one: str, other: str) -> bool:
    if "://" in one or "://" in other:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


def _is_csv(logger: Any) -> bool:
    return isinstance(logger, dict) and logger.get("_target_") == CSV_LOGGER
