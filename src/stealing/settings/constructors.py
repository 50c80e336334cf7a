"""Check the nodes of the user's own configuration against their constructors; nothing is built.

A constructor is the schema of its node: the names of its arguments, which of them it needs, and the
types of those that are plain numbers, text or switches. Its module is imported to read them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hydra._internal.utils import _locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from stealing.errors import ConfigError
from stealing.schema import arguments_of, fits, in_words, is_plain
from stealing.settings.arguments import OF_HYDRA
from stealing.settings.checks import check_keys_of_hydra
from stealing.settings.kinds import as_typed


def check_constructors(node: Any) -> None:
    """Check every node with a `_target_` in a configuration against the signature of its target.

    Args:
        node: a configuration or a part of it, without missing values. A plain value is accepted.

    Raises:
        ConfigError: with the dotted setting, if a target cannot be imported, does not take an
            argument or lacks one, or an argument has another type than its annotation.
    """
    if isinstance(node, DictConfig | ListConfig):
        place = str(node._get_full_key(None) or "")
        _check(OmegaConf.to_container(node, resolve=True), place)


def _check(value: Any, place: str) -> None:
    if isinstance(value, list):
        for number, part in enumerate(value):
            _check(part, f"{place}[{number}]")
    elif isinstance(value, dict):
        if "_target_" in value:
            _check_arguments(value, place)
        for name, part in value.items():
            _check(part, f"{place}.{name}" if place else str(name))


def _check_arguments(node: Mapping[str, Any], place: str) -> None:
    target = str(node["_target_"])
    check_keys_of_hydra(node, place, later=None)
    arguments = arguments_of(_located(target, place))
    if arguments is None:
        return
    given = {str(name): value for name, value in node.items() if name not in OF_HYDRA}
    unknown = arguments.unknown(given)
    if unknown:
        names = ", ".join(arguments.types) or "none"
        removed = " ".join(f"'~{place}.{name}'" for name in unknown)
        raise ConfigError(
            f"{place}.{unknown[0]} is not an argument of {target}: it takes {names}; if an "
            f"inherited file sets it, add {removed} to the command."
        )
    for name, value in given.items():
        _check_type(value, arguments.types.get(name, Any), f"{place}.{name}")
    missing = arguments.missing(given)
    # The code that calls a partial passes the rest.
    if missing and not node.get("_partial_"):
        name = missing[0]
        raise ConfigError(
            f"{target} needs {name}: add +{place}.{name}=... to the command, or _partial_: true "
            "to its node if the project calls it later."
        )


def _located(target: str, place: str) -> Callable[..., Any]:
    """Return the class or function of an import path.

    Raises:
        ConfigError: there is none, or Hydra does not allow it.
        Exception: what its module raises while it is imported.
    """
    try:
        build: Callable[..., Any] = _locate(target)
    except Exception as error:
        cause = error.__cause__
        # Hydra wraps whatever the module raised; only a failed import is a matter of settings.
        if cause is not None and not isinstance(cause, ImportError | AttributeError):
            raise cause from None
        why = " ".join(str(cause or error).split()).rstrip(".")
        raise ConfigError(
            f"{place}._target_={target} cannot be imported ({why}): "
            "correct the name, or install it."
        ) from None
    return build


def _check_type(value: Any, annotation: Any, name: str) -> None:
    """Refuse a value of another type, if the annotation consists only of plain types."""
    if not is_plain(annotation):
        return
    if isinstance(value, dict) and "_target_" in value:
        # The type of the object that it builds is not known here.
        return
    if not fits(value, annotation):
        raise ConfigError(
            f"{name}={as_typed(value)} does not fit: set it to {in_words(annotation)}."
        )
