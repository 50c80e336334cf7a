"""Read conf/ for the reference: a command's name in, its defaults out; the nodes of all options.

Values stay as they are written: `${data.size}` is not resolved, and `???` means that the command
has to give a value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stealing.settings.kinds import Built, Setting
from stealing.settings.options import without_bases

CONF = Path(__file__).parents[3] / "conf"

BY_NAME = "by name"
"""Stands for a default that depends on a name that a user chooses."""

PLACES = {"data/task": "data.tasks.*"}
"""Settings that the options of a group fill, if its name does not say it."""

LONGEST = 60
"""Letters of a value in a table."""


@dataclass(frozen=True)
class Node:
    """A mapping with a `_target_` in an option.

    Attributes:
        place: its dotted setting; the name of a task is `*`.
        target: import path.
        values: its arguments, as they are written.
        is_partial: True if the project calls it later, with further arguments.
    """

    place: str
    target: str
    values: Mapping[str, Any]
    is_partial: bool


def options_of(group: str) -> list[str]:
    """Return the options of a group, sorted."""
    return without_bases(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(name: str, *overrides: str) -> dict[str, Any]:
    """Return the configuration of a command with overrides, unresolved, as plain values."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def default_of(setting: Setting, values: Mapping[str, Any]) -> str:
    """Return the default of a setting in words, from the values of its command."""
    part: Any = values
    for name in setting.name.split("."):
        if name == "*":
            return BY_NAME
        if isinstance(part, str):  # an interpolation stands for the whole node
            return as_written(part)
        if not isinstance(part, dict) or name not in part:
            return "absent"
        part = part[name]
    if isinstance(setting.kind, Built) and isinstance(part, dict) and "_target_" in part:
        target = str(part["_target_"])
        return f"`{target.rpartition('.')[2]}`"
    return as_written(part)


def as_written(value: Any) -> str:
    """Return a value as a command has it, as code; `???` in words."""
    if value == "???":
        return "none: give it"
    text = _text(value)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 3]}..."
    return f"`{text}`" if text else "empty"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        pairs = [f"{name}: {_text(part)}" for name, part in value.items()]
        return f"{{{', '.join(pairs)}}}"
    return str(value)


def nodes() -> Iterator[Node]:
    """Yield the nodes of every option of every group."""
    for path in sorted(CONF.rglob("*.yaml")):
        group = str(path.parent.relative_to(CONF))
        is_option = group not in (".", "experiment") and not path.name.startswith("_")
        if is_option:
            place = PLACES.get(group, group)
            yield from _below(_option(path), place)
            if group == "arch":
                yield from _below(_option(path), "target_arch")
    # The limits of the service have no options.
    yield from _below(composed("service")["limits"], "limits")


def _option(path: Path) -> dict[str, Any]:
    """Return the values of an option, over those of the options that it inherits."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(values, dict)
    inherited: dict[str, Any] = {}
    for base in values.pop("defaults", []):
        # An entry that is a mapping adds an option of another group.
        if isinstance(base, str) and base != "_self_":
            inherited = _merged(inherited, _option(path.parent / f"{base}.yaml"))
    return _merged(inherited, {str(name): part for name, part in values.items()})


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return two mappings merged key by key, as Hydra does; `high` counts."""
    both = dict(low)
    for name, value in high.items():
        former = both.get(name)
        if isinstance(value, dict) and isinstance(former, dict):
            value = _merged(former, value)
        both[name] = value
    return both


def _below(value: Any, place: str) -> Iterator[Node]:
    """Yield the nodes in a plain value."""
    if not isinstance(value, dict):
        return
    if "_target_" in value:
        arguments = {name: part for name, part in value.items() if not name.startswith("_")}
        is_partial = bool(value.get("_partial_", False))
        yield Node(place, str(value["_target_"]), arguments, is_partial)
    for name, part in value.items():
        # the user chooses the names of tasks
        step = "*" if place == "data.tasks" else str(name)
        yield from _below(part, f"{place}.{step}" if place else step)
