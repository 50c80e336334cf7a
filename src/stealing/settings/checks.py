"""Check a configuration against the table of settings: types, ranges, names, absent settings."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from stealing.errors import ConfigError
from stealing.settings.arguments import (
    ANY_INTEGER,
    ANY_NUMBER,
    BUILT_BY_NAME,
    EVERYWHERE,
    OF_HYDRA,
)
from stealing.settings.commands import COMMANDS, command_of
from stealing.settings.kinds import Built, Choice, Setting, as_typed
from stealing.settings.nearest import unknown_setting

Tree: TypeAlias = "dict[str, Tree | Setting]"

OURS = ("stealing.", "torch.optim.")
"""Import paths of classes whose arguments this project knows."""


def tree_of(settings: Sequence[Setting]) -> Tree:
    """Return settings as nested mappings, like a configuration; `*` stands for any name."""
    tree: Tree = {}
    for setting in settings:
        *groups, last = setting.name.split(".")
        branch = tree
        for group in groups:
            inner = branch.setdefault(group, {})
            assert not isinstance(inner, Setting), f"{setting.name} is below a setting"
            branch = inner
        branch[last] = setting
    return tree


def check_settings(values: Mapping[str, Any]) -> None:
    """Refuse values of a wrong type or range, unknown settings, and absent settings.

    Args:
        values: a resolved configuration without the node `hydra`, as plain mappings.

    Raises:
        ConfigError: one sentence with the setting and its valid values.
    """
    command = command_of(values)
    _check_group(values, tree_of(COMMANDS[command]), (), command)


def _check_group(
    values: Mapping[str, Any], tree: Tree, place: tuple[str, ...], command: str
) -> None:
    """Check the settings of one group, whose dotted name is `place`."""
    is_node = "_target_" in values
    if is_node:
        check_keys_of_hydra(values, ".".join(place), later=False)
        if not _is_ours(values):
            return  # the constructor of the user's own class is the schema
    for name, value in values.items():
        if is_node and name in OF_HYDRA:
            continue
        inner_place = (*place, str(name))
        part = tree.get(str(name), tree.get("*"))
        if part is None:
            raise unknown_setting(".".join(inner_place), command)
        if isinstance(part, Setting):
            _check_value(part, value, ".".join(inner_place))
        elif isinstance(value, dict):
            _check_group(value, part, inner_place, command)
        elif value is not None or is_required(part):
            example = ".".join((*inner_place, *_first_setting(part)))
            raise ConfigError(
                f"{'.'.join(inner_place)}={as_typed(value)} does not fit: "
                f"it is a group of settings, such as {example}."
            )
    for name, part in tree.items():
        if name != "*" and name not in values and is_required(part):
            absent = ".".join((*place, name, *_first_setting(part)))
            raise ConfigError(
                f"{absent} has no value: add +{absent}=... to the command, "
                "or choose an option that has it."
            )


def is_required(part: "Tree | Setting") -> bool:
    """Return True if a configuration without this part is refused."""
    if isinstance(part, Setting):
        return part.required
    return any(name == "*" or is_required(inner) for name, inner in part.items())


def _first_setting(part: "Tree | Setting") -> tuple[str, ...]:
    """Return the names that lead to the first setting below a group, as an example for an error."""
    if isinstance(part, Setting):
        return ()
    name, inner = next(iter(part.items()))
    return (name, *_first_setting(inner))


def _check_value(setting: Setting, value: Any, name: str) -> None:
    kind = setting.kind
    if value == {} and not setting.required and isinstance(kind, Built):
        return  # such as faults=none
    if not setting.fits(value):
        if isinstance(kind, Choice):
            choices = ", ".join(kind.names)
            raise ConfigError(f"{name}={as_typed(value)} is not one of {choices}: choose one.")
        raise _misfit(name, value, setting)
    if isinstance(kind, Built) and value is not None:
        _check_node(value, name, later=kind.later)


def _check_node(node: Mapping[str, Any], name: str, *, later: bool | None) -> None:
    """Check the arguments of a node, and of the nodes in it.

    Args:
        node: with a `_target_`.
        name: of its setting.
        later: whether the project calls it with more arguments; None if only its class knows.
    """
    check_keys_of_hydra(node, name, later=later)
    is_ours = _is_ours(node)
    for argument, value in node.items():
        if argument in OF_HYDRA:
            continue
        kind = BUILT_BY_NAME.get(argument) if is_ours or argument in EVERYWHERE else None
        # A mapping is another node, or a value that only the constructor knows.
        if kind is None or isinstance(value, dict):
            _check_argument(value, f"{name}.{argument}", is_ours)
        elif value is not None and not kind.fits(value):
            raise _misfit(f"{name}.{argument}", value, kind)


def _check_argument(value: Any, name: str, is_ours: bool) -> None:
    """Check the nodes in an argument, and in one of our own classes also its numbers."""
    if isinstance(value, dict) and "_target_" in value:
        _check_node(value, name, later=False if is_ours else None)
    elif isinstance(value, dict):
        for key, part in value.items():
            _check_argument(part, f"{name}.{key}", is_ours)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _check_argument(part, f"{name}[{number}]", is_ours)
    elif is_ours and _is_out_of_bounds(value):
        raise _misfit(name, value, "a finite number in the range of this argument")


def check_keys_of_hydra(node: Mapping[str, Any], name: str, *, later: bool | None) -> None:
    """Refuse keys for Hydra that have a wrong value or that change how the node is built.

    Args:
        node: with a `_target_`.
        name: of its setting.
        later: as in `Built`; None if it is unknown.

    Raises:
        ConfigError: with the key.
    """
    if "_args_" in node:
        raise ConfigError(
            f"{name}._args_ has no names to check: write {name}.NAME=... for each argument."
        )
    for key, kind in OF_HYDRA.items():
        if key in node and not kind.fits(node[key]):
            raise _misfit(f"{name}.{key}", node[key], kind)
    if not _is_ours(node):
        return
    for key in ("_recursive_", "_convert_"):
        if key in node:
            raise ConfigError(f"{name}.{key} is not for a class of this project: leave it out.")
    # A user's own class may be callable itself, and then it is built at once.
    if later is not None and node.get("_partial_", False) is not later:
        advice = "set it to true" if later else "leave it out"
        raise ConfigError(
            f"{name}._partial_={as_typed(not later)} does not fit {node['_target_']}: {advice}."
        )


def _is_out_of_bounds(value: Any) -> bool:
    """Return True for NaN, infinity, and numbers that are too large for any argument."""
    if isinstance(value, float):
        return not ANY_NUMBER.fits(value)
    return type(value) is int and not ANY_INTEGER.fits(value)


def _is_ours(node: Mapping[str, Any]) -> bool:
    return str(node["_target_"]).startswith(OURS)


def _misfit(name: str, value: Any, kind: object) -> ConfigError:
    return ConfigError(f"{name}={as_typed(value)} does not fit: set it to {kind}.")
