"""Hash of the code that makes a result: functions, classes and config nodes in, 16 hexadecimal digits out.

A step's code is what its entry point uses, followed name by name through the syntax trees of the
package and of a user's own modules. Only what is used counts: another loss in the same file is not
part of it. Comments, docstrings and the place of a file are not part of it either. Installed
libraries are not followed: their versions stand beside the hash.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = __name__.split(".")[0]

NOT_FOLLOWED = {
    "stealing.artefacts": "names and writes files; a changed key makes another artefact anyway",
    "stealing.code": "hashes what others compute",
    "stealing.config": "resolves the settings, whose values are in the key",
    "stealing.data.decoding": "makes images, which are in the key by their checksums",
    "stealing.errors": "sentences of a step that fails",
    "stealing.provenance": "describes where a result was made",
    "stealing.report": "shows results that are finished",
    "stealing.targets.contact": "checks that a service answers; it returns no answers",
    "stealing.queries.audit": "reads the ledger for its owner",
    "stealing.queries.bar": "progress of buying",
    "stealing.queries.database": "stores answers and returns them as they were",
    "stealing.training.launch": "starts and ends processes",
    "stealing.training.making": "decides whether a result is made again",
    "stealing.training.progress": "progress of a fit",
    "stealing.training.wandb": "copies curves to a dashboard",
}
"""What cannot change a result, with the reason. All other code that a step uses is followed."""


@dataclass(frozen=True)
class _Module:
    """What a module defines and imports, by name."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


def code_of(*roots: Any) -> str:
    """Return the hash of all code that the roots use.

    The files are read once a process, at the first call, so that editing a file while a command
    runs does not pass for the code that the command has loaded.

    Args:
        roots: functions, classes, dotted import paths, and resolved config nodes, of which every
            `_target_` counts.
    """
    paths = [path for root in roots for path in _paths(root)]
    return _hashed(tuple(sorted(set(paths))))


def followed(*roots: Any) -> dict[str, str]:
    """Return the text of each definition that the roots use, by its import path.

    Something that is installed, or that has no source, is there by its import path alone.
    """
    waiting = [path for root in roots for path in _paths(root)]
    found = dict[str, str]()
    while waiting:
        dotted = waiting.pop()
        if _is_left_out(dotted):
            continue
        place = _place(dotted)
        path = ".".join(place) if place else dotted
        is_whole_module = place is None and _module(path) is not None  # what is used of it follows
        if path in found or is_whole_module or _is_left_out(path):
            continue
        found[path] = ""
        if place is not None:
            found[path], used = _read(*place)
            waiting += used
    return found


def _paths(root: Any) -> Iterator[str]:
    """Give the import paths of one root."""
    if isinstance(root, str):
        yield root
    elif isinstance(root, dict):
        for name, value in root.items():
            if name == "_target_":
                yield str(value)
            elif isinstance(value, dict | list | tuple):
                yield from _paths(value)
    elif isinstance(root, list | tuple):
        for value in root:
            if isinstance(value, dict | list | tuple):
                yield from _paths(value)
    elif root is not None:
        yield f"{root.__module__}.{root.__qualname__}"


@cache
def _hashed(paths: tuple[str, ...]) -> str:
    found = followed(*paths)
    lines = []
    for path, text in found.items():
        is_own = path.startswith(f"{PACKAGE}.")  # a file of the package may be renamed
        lines.append(f"{path.rpartition('.')[2] if is_own else path} {text}")
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=8).hexdigest()


def _is_left_out(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in NOT_FOLLOWED)


def _read(module_name: str, name: str) -> tuple[str, list[str]]:
    """Return a definition's text, and the import paths that it uses."""
    module = _module(module_name)
    assert module is not None
    statements = [*module.definitions[name], *module.effects]
    imports = dict(module.imports)
    for statement in statements:
        for node in ast.walk(statement):
            imports |= _imported(node, module_name)
    used = []
    for statement in statements:
        for dotted in _names(statement):
            first, _, rest = dotted.partition(".")
            if first in imports:
                used.append(f"{imports[first]}.{rest}".rstrip("."))
            elif first in module.definitions:
                used.append(f"{module_name}.{first}")
    text = [_plain(statement) for statement in module.definitions[name]]
    own = [_plain(statement) for statement in module.effects]
    return "\n".join([*text, *own]), sorted(set(used))


def _names(statement: ast.stmt) -> Iterator[str]:
    """Give every name in a statement, with the attributes that follow it."""
    for node in ast.walk(statement):
        attributes = list[str]()
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield ".".join([node.id, *attributes])


def _place(dotted: str) -> tuple[str, str] | None:
    """Return the module and the name in it that an import path means, or None if it has no source.

    A name that a module only imports is looked up where it is defined.
    """
    seen = set[str]()
    while dotted not in seen:  # two modules may import a name from each other
        seen.add(dotted)
        found = _split(dotted)
        if found is None:
            return None
        module_name, name, rest = found
        module = _module(module_name)
        assert module is not None
        if name in module.definitions:
            return module_name, name
        if name not in module.imports:
            return None
        dotted = ".".join([module.imports[name], *rest])
    return None


def _split(dotted: str) -> tuple[str, str, list[str]] | None:
    """Return the longest module that an import path begins with, the name in it, and what follows."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        if _module(module_name) is not None:
            return module_name, parts[cut], parts[cut + 1 :]
    return None


@cache
def _module(name: str) -> _Module | None:
    """Read a module of the package or of a user; None for anything else."""
    path = _file(name)
    if path is None:
        return None
    module = _Module()
    tree = _Bare().visit(ast.parse(path.read_text(encoding="utf-8")))
    _collect(tree.body, name if path.stem != "__init__" else f"{name}.__init__", module)
    return module


def _collect(body: list[ast.stmt], name: str, module: _Module) -> None:
    """Sort a module's statements by the name that each defines."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module.imports.update(_imported(statement, name))
        elif isinstance(statement, ast.If) and "__name__" in _names(statement):
            continue  # runs only if the file is started as a program
        elif isinstance(statement, ast.If | ast.Try):  # such as an import that may fail
            parts = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody")]
            parts += [handler.body for handler in getattr(statement, "handlers", [])]
            for part in parts:
                _collect(part, name, module)
        else:
            names = _defined(statement)
            for each in names:
                module.definitions.setdefault(each, []).append(statement)
            if not names:
                module.effects.append(statement)


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at a module's top gives a value, or changes in place."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    else:
        return []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _imported(node: ast.AST, module_name: str) -> dict[str, str]:
    """Return what an import statement binds: import paths by name."""
    if isinstance(node, ast.Import):
        whole = {each.asname: each.name for each in node.names if each.asname}
        firsts = [each.name.split(".")[0] for each in node.names if not each.asname]
        return whole | {first: first for first in firsts}
    if isinstance(node, ast.ImportFrom):
        above = module_name.split(".")[: -node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        return {each.asname or each.name: f"{source}.{each.name}" for each in node.names}
    return {}


@cache
def _file(name: str) -> Path | None:
    """Return the file of a module that is followed."""
    top, *rest = name.split(".")
    root = _root(top)
    if root is None or root.suffix == ".py":
        return root if not rest else None
    folder = root.joinpath(*rest)
    files = [folder / "__init__.py", folder.with_suffix(".py")]
    return next((file for file in files if file.is_file()), None)


@cache
def _root(top: str) -> Path | None:
    """Return the folder or file of a top-level module, or None if it is installed or built in."""
    if top == PACKAGE:
        return Path(__file__).parent
    if top in sys.stdlib_module_names:
        return None
    try:
        found = importlib.util.find_spec(top)
    except ValueError:  # of a script that was started by its path
        return None
    if found is None:
        return None
    places = list(found.submodule_search_locations or [found.origin or ""])
    place = Path(places[0])
    if place.suffix not in ("", ".py") or _is_installed(place):
        return None
    return place


def _is_installed(place: Path) -> bool:
    """True if pip put this module there: in an environment, or in a folder of its own (`--target`)."""
    in_environment = {"site-packages", "dist-packages"} & set(place.parts)
    return bool(in_environment) or any(place.parent.glob("*.dist-info"))


class _Bare(ast.NodeTransformer):
    """Takes docstrings, of modules, classes, functions and attributes, out of a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop a statement that is only a text."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _plain(node: Any) -> str:
    """Write a tree without places and empty fields: Python's own dump differs between its versions."""
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    if isinstance(node, list):
        return f"[{', '.join(map(_plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={_plain(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({', '.join(fields)})"
