"""The schema of a run's configuration: a part in; the same part, or an error with the setting, out.

A stored configuration may name what `stealing.trust` lists, and classes of modules that the user
trusts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stealing.errors import ConfigError
from stealing.reading import InvalidContent
from stealing.schema import MappingOf, MayLack, Node, check_value

RECIPE = {
    "method": Node,
    "views": Node,
    "optimizer": Node,
    "projection": int,
    "temperature": float,
    "warmup": float,
    "batch_size": int,
}
"""Parts of a pre-training recipe. A method other than SimCLR may lack the optional ones."""

SETTINGS: dict[str, Any] = {
    "seed": int,
    "start": str,
    "selection": str,
    "until": str,
    "plan_only": bool,
    "paths": {"work": str, "cache": str, "ledger": str},
    "data": {
        "root": str,
        "size": int,
        "pretrain": Node | None,
        "queries": Node,
        "tasks": MappingOf(
            {"role": str, "train": Node, "test": Node, "classes": MayLack(list[str])}
        ),
    },
    "arch": Node,
    "target_arch": Node,
    "pretrain": RECIPE | {"epochs": int},
    "control": RECIPE,
    "controls": MappingOf(Node),
    "target": {
        "path": str | None,
        "seed": int | None,
        "authorized": bool,
        "remote": Node | None,
        "family": MayLack(str),
        "name": MayLack(str),
        "weights": MayLack(str | None),
        "hub": MayLack(bool),
        "pool": MayLack(str | None),
        "stem": MayLack(str | None),
        "size": MayLack(int | None),
        "mean": MayLack(list[float] | None),
        "std": MayLack(list[float] | None),
        "interpolation": MayLack(str | None),
        "crop": MayLack(float | None),
    },
    "defense": MappingOf(Node),
    "budget": Node,
    "plan": Node,
    "attack": {
        "loss": Node,
        "pairing": Node,
        "optimizer": Node,
        "schedule": Node,
        "ema": float | None,
        "batch_size": int,
        "steps": int | None,
        "epochs": int | None,
        "pool": int | None,
    },
    "probe": Node,
    "trainer": Node,
    "callbacks": MappingOf(Node),
    "logger": Node,
}
"""The parts of a run's configuration, and their types."""


def checked_part(folder: Path, name: str, value: Any, trusted: Sequence[str]) -> Any:
    """Return one part of the configuration in a folder, if it fits the schema.

    Args:
        folder: of the run.
        name: of the part.
        value: its plain values.
        trusted: modules that the user named.

    Raises:
        ConfigError: with the setting that does not fit.
    """
    file = folder / "config.yaml"
    if name == "data" and isinstance(value, dict):
        # Other values of a data file were used by interpolations, which are resolved in the folder.
        value = {setting: part for setting, part in value.items() if setting in SETTINGS["data"]}
    try:
        check_value(value, SETTINGS[name], name, trusted)
    except InvalidContent as why:
        raise ConfigError(
            f"{file} does not fit this version of the project ({why}): name another folder."
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return value
