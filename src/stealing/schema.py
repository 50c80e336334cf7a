"""Check plain values against types: a value and its type in, an error with the setting out.

The schema of a node with a `_target_` is the signature of what it names: `arguments_of` reads it.
`check_value` checks a stranger's values, and imports trusted modules only.
`stealing.settings.constructors` checks the user's own configuration against the same signatures.
"""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from stealing.reading import InvalidContent, quoted
from stealing.trust import check_target, import_trusted, is_own, module_of


class Node:
    """Type of a setting that names what to build, under `_target_`."""


@dataclass(frozen=True)
class MayLack:
    """A setting of this type that may be absent from the mapping which lists it."""

    kind: Any


@dataclass(frozen=True)
class MappingOf:
    """Type of a mapping from any names to values of one type."""

    part: Any


OPTIONAL = (
    "root",
    "authorized",
    "pretrain",
    "views",
    "projection",
    "temperature",
    "warmup",
    "pool",
)
"""Settings that some options of a group have and others do not."""

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    Node: "a node with _target_",
}
"""Types in the words of an error message."""

PLAIN = (int, float, str, bool, types.NoneType)


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class or function.

    Attributes:
        types: annotation of each argument, by its name; `Any` if there is none.
        required: names of the arguments without a default.
        takes_any: True if it takes other names as well (`**options`).
    """

    types: Mapping[str, Any]
    required: Sequence[str]
    takes_any: bool

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are not arguments."""
        return [name for name in names if name not in self.types and not self.takes_any]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return the required arguments that are not among the names."""
        given = set(names)
        return [name for name in self.required if name not in given]


def arguments_of(build: Callable[..., Any]) -> Arguments | None:
    """Return the arguments of a class or function; None for a built-in one without a signature."""
    signature = signature_of(build)
    if signature is None:
        return None
    annotations: dict[str, Any] = {}
    required = []
    takes_any = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_any = True
        # Hydra passes arguments by name.
        if parameter.kind not in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ):
            continue
        # Text is an annotation that only a type checker can read.
        is_known = parameter.annotation is not inspect.Parameter.empty
        is_type = is_known and not isinstance(parameter.annotation, str)
        annotations[name] = parameter.annotation if is_type else Any
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    return Arguments(annotations, required, takes_any)


def signature_of(build: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a class or function; None for a built-in one without."""
    try:
        return inspect.signature(build, eval_str=True)
    except Exception:  # an annotation may name something that is imported for type checkers only
        pass
    try:
        return inspect.signature(build)
    except (TypeError, ValueError):
        return None


def check_value(value: Any, kind: Any, place: str, trusted: Sequence[str]) -> None:
    """Refuse a value of another type; its classes are looked up, and nothing is built.

    Args:
        value: plain.
        kind: a type as in an annotation, `Node`, `MappingOf`, or a mapping from settings to such.
        place: of the value, such as `attack.loss`.
        trusted: modules that the user named.

    Raises:
        InvalidContent: with the place.
        ConfigError: it names a class of a module that is not trusted.
    """
    if isinstance(kind, Mapping):
        _check_settings(value, kind, place, trusted)
    elif isinstance(kind, MappingOf):
        for name, part in _mapping(value, place).items():
            # Names become parts of paths and of tables.
            if not name.replace("-", "_").isidentifier():
                raise InvalidContent(f"{quoted(name)} in {place} is not a name")
            check_value(part, kind.part, f"{place}.{name}", trusted)
    elif isinstance(value, dict) and "_target_" in value and _takes_node(kind):
        _check_node(value, place, trusted)
    elif isinstance(value, list) and _takes_nodes(kind):
        for number, part in enumerate(value):
            check_value(part, get_args(kind)[0], f"{place}.{number}", trusted)
    elif not fits(value, kind):
        raise InvalidContent(f"{place} is {quoted(value)}, and has to be {in_words(kind)}")
    else:
        # Hydra would build nodes at any depth.
        for name, part in _parts(value):
            check_value(part, Any, f"{place}.{name}", trusted)


def _check_settings(
    value: Any, kinds: Mapping[str, Any], place: str, trusted: Sequence[str]
) -> None:
    settings = _mapping(value, place)
    unknown = sorted(settings.keys() - kinds.keys())
    if unknown:
        raise InvalidContent(f"{place} has no setting {quoted(unknown[0])}")
    for name, kind in kinds.items():
        may_lack = isinstance(kind, MayLack)
        if name in settings:
            inner = kind.kind if may_lack else kind
            check_value(settings[name], inner, f"{place}.{name}", trusted)
        elif not may_lack and name not in OPTIONAL:
            raise InvalidContent(f"{place} lacks {name}")


def _check_node(node: dict[str, Any], place: str, trusted: Sequence[str]) -> None:
    """Check a node against the signature of its class or function."""
    target = node["_target_"]
    check_target(target, place, trusted)
    build = _import_own(target) if is_own(target, place) else import_trusted(target, trusted)
    is_partial = node.get("_partial_", False)
    if not isinstance(is_partial, bool):
        raise InvalidContent(
            f"{place}._partial_ is {quoted(is_partial)}, and has to be true or false"
        )
    given = {name: part for name, part in node.items() if name not in ("_target_", "_partial_")}
    arguments = arguments_of(build) or Arguments({}, (), takes_any=True)
    # `_args_` and other keys of Hydra would change how the node is built.
    unknown = [name for name in given if name.startswith("_")] or arguments.unknown(given)
    if unknown:
        raise InvalidContent(f"{place} has no setting {quoted(unknown[0])}")
    missing = arguments.missing(given)
    if missing and not is_partial:
        raise InvalidContent(f"{place} lacks {missing[0]}")
    for name, part in given.items():
        check_value(part, arguments.types.get(name, Any), f"{place}.{name}", trusted)


def _import_own(target: str) -> Any:
    module = module_of(target)
    assert module is not None
    return getattr(importlib.import_module(module), target.rpartition(".")[2])


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield str(number), part
    elif isinstance(value, dict):
        yield from value.items()


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidContent(f"{place} is {quoted(value)}, and has to be a mapping")
    return value


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def is_plain(kind: Any) -> bool:
    """Return whether a type consists only of plain types, such as `int | None`."""
    parts = get_args(kind) if _is_union(kind) else (kind,)
    return all(part in PLAIN for part in parts)


def _takes_node(kind: Any) -> bool:
    """Return whether the values of a type have to be built."""
    if _is_union(kind):
        return any(_takes_node(part) for part in get_args(kind))
    origin = get_origin(kind)
    if origin is not None:
        return origin is Callable
    return kind is Any or not isinstance(kind, type) or kind.__module__ != "builtins"


def _takes_nodes(kind: Any) -> bool:
    """Return whether the values of a type are lists of what has to be built."""
    parts = get_args(kind)
    return len(parts) == 1 and _is_generic(get_origin(kind), Sequence) and _takes_node(parts[0])


def fits(value: Any, kind: Any) -> bool:
    """Return whether a plain value is of a type; False for a type that has to be built."""
    if kind is Any or kind is object:
        return True
    if _is_union(kind):
        return any(fits(value, part) for part in get_args(kind))
    origin = get_origin(kind)
    parts = get_args(kind)
    if origin is Literal:
        return value in parts
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is float:
        return type(value) in (int, float)
    if kind in (bool, int, str):
        return type(value) is kind  # not isinstance: True is an int
    if origin is tuple:
        return isinstance(value, list) and _fit_tuple(value, parts)
    if kind is list or _is_generic(origin, Sequence):
        part_kind = parts[0] if parts else Any
        return isinstance(value, list) and all(fits(part, part_kind) for part in value)
    if kind is dict or _is_generic(origin, Mapping):
        part_kind = parts[1] if parts else Any
        return isinstance(value, dict) and all(fits(part, part_kind) for part in value.values())
    return False


def _is_generic(origin: Any, base: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, base)


def _fit_tuple(values: list[Any], kinds: tuple[Any, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(fits(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(map(fits, values, kinds))


def in_words(kind: Any) -> str:
    """Return a type in words that complete the sentence "it has to be ..."."""
    if _is_union(kind):
        return " or ".join(in_words(part) for part in get_args(kind))
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__
    return str(kind).replace("typing.", "")
