"""The reference of constructors: the classes that conf/ names in, tables of their arguments out.

A constructor is the schema of its node. Its signature has names and types, its docstring has the
meanings, and the options in conf/ have the values that a run gets without an override.
"""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from stealing.schema import WORDS, signature_of
from stealing.settings.defaults import Node, as_written, nodes
from stealing.trust import OPTIMIZERS, OWN, VIEWS

SECTION = re.compile(r"^(?:Args|Attributes):$")
ENTRY = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<text>.*)$")

PYTHON_WORD = re.compile(r"\b(None|True|False)\b")
IN_YAML = {"None": "null", "True": "true", "False": "false"}
"""Values in docstrings, and how a configuration has them."""

SHARED = {"views": VIEWS, "optimizer": OPTIMIZERS}
"""Classes that several parts of a configuration name, by the last word of their settings."""

SAME = {"target_arch": "arch", "control": "pretrain"}
"""Parts of a configuration that name the classes of another part."""

MOST_VALUES = 3
"""Different values of the options that a table still lists."""

HEAD = ("setting", "values", "default", "meaning")


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: of it.
        kind: its valid values, in words.
        default: of the constructor; `inspect.Parameter.empty` if it has none.
        meaning: from the docstring, in one line; empty if there is none.
    """

    name: str
    kind: str
    default: Any
    meaning: str


def sections() -> dict[str, list[str]]:
    """Return the import paths of `OWN`, each once, by the section that explains it."""
    found = {part: list[str]() for part in OWN if part not in SAME}
    found |= {name: list(targets) for name, targets in SHARED.items()}
    shared = {target for targets in SHARED.values() for target in targets}
    for part, targets in OWN.items():
        if part not in SAME:
            found[part] += [target for target in targets if target not in shared]
    return {name: targets for name, targets in found.items() if targets}


def reference() -> Iterator[str]:
    """Yield the lines of the reference of constructors, as Markdown."""
    by_target: dict[str, list[Node]] = {}
    for node in nodes():
        by_target.setdefault(node.target, []).append(node)
    for section, targets in sections().items():
        own = [target for target in targets if target.startswith("stealing.")]
        if section != "data":
            own.sort(key=lambda target: (by_target[target][0].place, target))
        yield f"### `{section}`"
        yield ""
        for target in own:
            yield from _own_class(target, by_target[target], section)
        libraries = [target for target in targets if target not in own]
        if libraries:
            yield from _library_classes(libraries)


def arguments(build: Callable[..., Any]) -> list[Argument]:
    """Return the arguments of a class or function, in their order."""
    signature = signature_of(build)
    assert signature is not None
    meanings = meanings_of(build)
    found = []
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if is_dataclass(build):
            default = _dataclass_default(build, name, default)
        kind = in_words(parameter.annotation)
        found.append(Argument(name, kind, default, meanings.get(name, "")))
    return found


def meanings_of(build: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring says of each argument; a base class's docstring counts too."""
    documented = reversed(inspect.getmro(build)) if inspect.isclass(build) else [build]
    meanings: dict[str, str] = {}
    for one in documented:
        meanings |= _entries(one.__doc__ or "")
    return meanings


def _entries(docstring: str) -> dict[str, str]:
    """Return the entries of the sections `Args` and `Attributes`, each in one line."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    is_inside = False
    for line in inspect.cleandoc(docstring).splitlines():
        entry = ENTRY.match(line) if is_inside else None
        if entry is not None:
            names = entry["names"].split(", ")
            meanings |= dict.fromkeys(names, entry["text"])
        elif is_inside and line.startswith("        "):
            for name in names:
                meanings[name] += f" {line.strip()}"
        else:
            is_inside = SECTION.match(line) is not None
    return meanings


def _dataclass_default(build: Any, name: str, default: Any) -> Any:
    """Return the value that a factory makes, in place of the factory."""
    for field in fields(build):
        if field.name == name and field.default_factory is not MISSING:
            return field.default_factory()
    return default


def in_words(kind: Any) -> str:
    """Return a type in words, as the column of a table has it."""
    parts = get_args(kind)
    origin = get_origin(kind)
    if kind in (Any, object, inspect.Parameter.empty):
        return "anything"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(part) for part in parts)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is Callable:
        return "a node with `_partial_`"
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"a list of {len(parts)}, each {in_words(parts[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {in_words(parts[0])}"
    return f"a node: `{getattr(kind, '__name__', kind)}`"


def _own_class(target: str, found: Sequence[Node], section: str) -> Iterator[str]:
    """Yield the lines about a class or function of the project, in one of the sections."""
    build = import_target(target)
    first, *_ = inspect.cleandoc(build.__doc__ or "").split("\n\n")
    places = list(dict.fromkeys(node.place for node in found))
    where = ", ".join(f"`{place}`" for place in places)
    # The nodes of data nest at any depth.
    title = f"**`{target}`**" if section == "data" else f"**{where}**: `{target}`"
    yield f"{title}. {in_one_line(first)}"
    yield ""
    # A full name is what a user types, and only one place has one.
    has_one_place = len(places) == 1 and section not in ("data", *SHARED)
    start = f"{places[0]}." if has_one_place else ""
    rows = []
    for argument in arguments(build):
        name = f"`{start}{argument.name}`"
        meaning = in_one_line(argument.meaning)
        rows.append((name, argument.kind, _default(argument, found), meaning))
    if rows:
        yield from table(HEAD, rows)
        yield ""


def _default(argument: Argument, found: Sequence[Node]) -> str:
    """Return the value that a run gets: of the options, else of the constructor."""
    has_default = argument.default is not inspect.Parameter.empty
    values = list[str]()
    for node in found:
        if argument.name in node.values:
            value = node.values[argument.name]
            is_node = isinstance(value, dict) and "_target_" in value
            values.append("a node" if is_node else as_written(value))
        elif has_default:
            values.append(as_written(argument.default))
    different = sorted(set(values))
    if len(different) > MOST_VALUES:
        return "by option"
    return " or ".join(different) or "the project passes it"


def _library_classes(targets: Sequence[str]) -> Iterator[str]:
    """Yield the lines about classes of other packages, whose own pages explain them."""
    rows = []
    for target in targets:
        words = []
        for argument in arguments(import_target(target)):
            if argument.default is not inspect.Parameter.empty:
                words.append(f"`{argument.name}` {as_written(argument.default)}")
            else:
                words.append(f"`{argument.name}` (the project passes it)")
        rows.append((f"`{target}`", ", ".join(words)))
    yield "Classes of other packages, whose own documentation explains the arguments:"
    yield ""
    yield from table(("class", "arguments, with their defaults"), rows)
    yield ""


def import_target(target: str) -> Any:
    """Return the class or function of an import path of `OWN`."""
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def in_one_line(text: str) -> str:
    """Return text of a docstring for a table: in one line, with values as YAML has them."""
    line = " ".join(text.split()).replace("|", r"\|")
    return PYTHON_WORD.sub(lambda word: f"`{IN_YAML[word[0]]}`", line)


def table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
