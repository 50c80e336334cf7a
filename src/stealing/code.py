"""Hash the code that makes a result: functions, classes and config nodes in, 16 hex digits out.

The code of a step is all that its entry point uses. Each name is followed through the syntax trees
of the package and of a user's own modules. Only what is used counts: not another loss in the same
file, nor comments, docstrings and the place of a file. Versions stand for installed libraries.
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

from stealing.trust import targets_in

PACKAGE = __name__.split(".")[0]

NOT_FOLLOWED = {
    "stealing.artefacts": "writes files; another key is another artefact",
    "stealing.code": "hashes what others compute",
    "stealing.commands": "ends a command that cannot continue",
    "stealing.config": "resolves settings; their values are in the key",
    "stealing.console": "prints tables and lines",
    "stealing.data.decoding": "makes images; their checksums are in the key",
    "stealing.data.parquet": "reads images; their checksums are in the key",
    "stealing.encoders.architectures": "names classes, which are followed by their `_target_`",
    "stealing.encoders.files": "stores weights unchanged",
    "stealing.encoders.weights": "refuses weights and changes none",
    "stealing.errors": "messages of a step that fails",
    "stealing.evaluation.classes": "refuses tasks and changes none",
    "stealing.evaluation.degenerate": "refuses features and changes none",
    "stealing.evaluation.cache": "stores features and predictions unchanged",
    "stealing.moved": "finds a class under its earlier name",
    "stealing.numbers": "checks numbers; their values are in the key",
    "stealing.finished": "decides whether a run is finished",
    "stealing.preview": "plans a run and makes no result",
    "stealing.processor": "threads are noted beside a key; memory changes no bit",
    "stealing.provenance": "describes where a result was made",
    "stealing.reading": "reads plain values",
    "stealing.report": "shows results that are finished",
    "stealing.signals": "stops a command, which resumes later",
    "stealing.settings": "checks settings; their values are in the key",
    "stealing.targets.foreign_check": "describes a target and changes none",
    "stealing.targets.sanity_check": "checks that a service answers",
    "stealing.queries.inspection": "reads the ledger for its owner",
    "stealing.queries.progress": "progress of buying",
    "stealing.queries.opening": "finds the ledger of a work folder",
    "stealing.queries.database": "stores answers unchanged",
    "stealing.sweeps": "states of runs, for people",
    "stealing.text": "escapes text for output",
    "stealing.queries.waiting": "decides when a request goes out",
    "stealing.targets.retry_after": "decides when a request goes out again",
    "stealing.training.launch": "starts and ends processes",
    "stealing.attacks.checks": "refuses an attack and changes none",
    "stealing.training.conditions": "decides whether a result is made again",
    "stealing.training.progress": "progress of a fit",
    "stealing.training.tensorboard": "copies curves to a dashboard",
    "stealing.training.wandb": "copies curves to a dashboard",
    "stealing.saved": "stores the configuration of a run",
    "stealing.trust": "lists the classes that may be named",
}
"""Modules that cannot change a result, with the reason; all other code of a step is followed."""


@dataclass(frozen=True)
class _Module:
    """Definitions and import paths of a module, by name, and statements that define no name."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


def code_of(*roots: Any) -> str:
    """Return the hash of all code that the roots use.

    Each file is read once in a process, at the first call: if it is edited later, the hash is still
    that of the code which the process has loaded.

    Args:
        roots: functions, classes, import paths, and resolved config nodes, of which every
            `_target_` counts.
    """
    paths = set[str]()
    for root in roots:
        paths.update(_paths(root))
    return _hashed(tuple(sorted(paths)))


def followed(*roots: Any) -> dict[str, str]:
    """Return the text of each definition that the roots use, by its import path.

    The text is empty for something that is installed, or that has no source.
    """
    waiting: list[str] = []
    for root in roots:
        waiting.extend(_paths(root))
    texts: dict[str, str] = {}
    while waiting:
        dotted = waiting.pop()
        if _is_left_out(dotted):
            continue
        place = _place(dotted)
        path = ".".join(place) if place else dotted
        # A whole module has no text of its own: the names that are used of it follow.
        is_whole_module = place is None and _module(path) is not None
        if path in texts or is_whole_module or _is_left_out(path):
            continue
        texts[path] = ""
        if place is not None:
            texts[path], used = _read(*place)
            waiting += used
    return texts


def _paths(root: Any) -> Iterator[str]:
    """Yield the import paths of one root."""
    if isinstance(root, str):
        yield root
    elif isinstance(root, dict | list | tuple):
        for _, target in targets_in(root, ""):
            yield str(target)
    elif root is not None:
        yield f"{root.__module__}.{root.__qualname__}"


@cache
def _hashed(paths: tuple[str, ...]) -> str:
    lines = []
    for path, text in followed(*paths).items():
        # A name of the package counts without its module, so that a file may be renamed.
        is_of_package = path.startswith(f"{PACKAGE}.")
        name = path.rpartition(".")[2] if is_of_package else path
        lines.append(f"{name} {text}")
    text = "\n".join(sorted(lines))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_left_out(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in NOT_FOLLOWED)


def _read(module_name: str, name: str) -> tuple[str, list[str]]:
    """Return a definition's text, and the import paths that it uses."""
    module = _module(module_name)
    assert module is not None
    # What a module does at import may change any of its definitions, so it is part of each.
    statements = [*module.definitions[name], *module.effects]
    imports = dict(module.imports)
    for statement in statements:
        for node in ast.walk(statement):
            imports |= _imported(node, module_name)
    used = set[str]()
    for statement in statements:
        for dotted in _names(statement):
            first, _, rest = dotted.partition(".")
            if first in imports:
                used.add(f"{imports[first]}.{rest}".rstrip("."))
            elif first in module.definitions:
                used.add(f"{module_name}.{first}")
    return "\n".join(map(_plain, statements)), sorted(used)


def _names(statement: ast.stmt) -> Iterator[str]:
    """Yield every name in a statement, with the attributes after it."""
    for node in ast.walk(statement):
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield ".".join([node.id, *attributes])


def _place(dotted: str) -> tuple[str, str] | None:
    """Return the module that defines what an import path means, and its name there.

    Returns:
        None if it has no source here.
    """
    seen = set[str]()
    # Two modules may import a name from each other.
    while dotted not in seen:
        seen.add(dotted)
        parts = _split(dotted)
        if parts is None:
            return None
        module_name, name, rest = parts
        module = _module(module_name)
        assert module is not None
        if name in module.definitions:
            return module_name, name
        if name not in module.imports:
            return None
        # The module only imports the name: look where it is defined.
        dotted = ".".join([module.imports[name], *rest])
    return None


def _split(dotted: str) -> tuple[str, str, list[str]] | None:
    """Return the longest module that an import path begins with, the name in it, and the rest."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        if _module(module_name) is not None:
            return module_name, parts[cut], parts[cut + 1 :]
    return None


@cache
def _module(name: str) -> _Module | None:
    """Return a module of the package or of a user; None for any other."""
    path = _file(name)
    if path is None:
        return None
    module = _Module()
    tree = _WithoutDocstrings().visit(ast.parse(path.read_text(encoding="utf-8")))
    # In `__init__.py`, a relative import starts from the package itself.
    is_package = path.stem == "__init__"
    _collect(tree.body, f"{name}.__init__" if is_package else name, module)
    return module


def _collect(body: list[ast.stmt], name: str, module: _Module) -> None:
    """Sort a module's statements by the names that each of them defines."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module.imports.update(_imported(statement, name))
        elif isinstance(statement, ast.If) and "__name__" in _names(statement):
            continue  # runs only if the file is started as a program
        elif isinstance(statement, ast.If | ast.Try):  # such as an import that may fail
            for part in ("body", "orelse", "finalbody"):
                _collect(getattr(statement, part, []), name, module)
            for handler in getattr(statement, "handlers", []):
                _collect(handler.body, name, module)
        else:
            names = _defined(statement)
            for defined in names:
                module.definitions.setdefault(defined, []).append(statement)
            if not names:
                module.effects.append(statement)


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines, or changes in place."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    names = []
    for target in targets:
        names += [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
    return names


def _imported(node: ast.AST, module_name: str) -> dict[str, str]:
    """Return the import paths that a node binds, by their names; none if it is not an import."""
    paths: dict[str, str] = {}
    if isinstance(node, ast.Import):
        for alias in node.names:
            # `import a.b` binds `a`; `import a.b as c` binds `c` to `a.b`.
            first = alias.name.split(".")[0]
            paths[alias.asname or first] = alias.name if alias.asname else first
    elif isinstance(node, ast.ImportFrom):
        source = module_name.split(".")[: -node.level] if node.level else []
        if node.module:
            source.append(node.module)
        for alias in node.names:
            paths[alias.asname or alias.name] = ".".join([*source, alias.name])
    return paths


@cache
def _file(name: str) -> Path | None:
    """Return the file of a module that is followed, or None."""
    top, *rest = name.split(".")
    root = _root(top)
    if root is None or root.suffix == ".py":
        return root if not rest else None
    folder = root.joinpath(*rest)
    for file in (folder / "__init__.py", folder.with_suffix(".py")):
        if file.is_file():
            return file
    return None


@cache
def _root(top: str) -> Path | None:
    """Return the folder or file of a top-level module, or None if it is installed or built in."""
    if top == PACKAGE:
        return Path(__file__).parent
    if top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # of a script that was started by its path
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    place = Path(places[0])
    if place.suffix not in ("", ".py") or _is_installed(place):
        return None
    return place


def _is_installed(place: Path) -> bool:
    """Return whether pip put this module there: in an environment, or in a folder by `--target`."""
    in_environment = {"site-packages", "dist-packages"} & set(place.parts)
    return bool(in_environment) or any(place.parent.glob("*.dist-info"))


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes docstrings of modules, classes, functions and attributes from a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop a statement that is only text."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _plain(node: Any) -> str:
    """Return a syntax tree as text, without places and empty fields.

    `ast.dump` differs between versions of Python.
    """
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    if isinstance(node, list):
        return f"[{', '.join(map(_plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if value not in (None, []):
            fields.append(f"{name}={_plain(value)}")
    return f"{type(node).__name__}({', '.join(fields)})"
