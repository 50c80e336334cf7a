"""The public names: conf/, code and docs in, the lists of tests/surface.json out.

    python tests/surface.py    add new names to tests/surface.json; it never removes one

docs/surface.md says what a user may rely on.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stealing.moved import MOVED
from stealing.settings.commands import COMMANDS
from stealing.settings.defaults import options_of
from stealing.settings.service import SERVICE_GROUPS
from stealing.settings.table import GROUPS
from stealing.trust import OWN

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).parent / "surface.json"
PACKAGE = ROOT / "src" / "stealing"

PYTHON = ("__init__.py", "encoders/__init__.py", "errors.py")
"""Modules whose names a user imports."""

LACKING = "lacking"
"""Stands for the value of a key that a result does not have."""

Names = dict[str, list[str]]
"""Names by their kind, sorted."""


def listed() -> Names:
    """Return the names of tests/surface.json."""
    names: Names = json.loads(LIST.read_text())
    return names


def public_names() -> Names:
    """Return the names that a user may type, read or import today."""
    groups = sorted({*GROUPS, *SERVICE_GROUPS})
    names = {
        "options": [f"{group}={option}" for group in groups for option in options_of(group)],
        "settings": {setting.name for settings in COMMANDS.values() for setting in settings},
        # a class that was moved still works under its old name
        "classes": {target for targets in OWN.values() for target in targets} | MOVED.keys(),
        "commands": commands(),
        "python": python_names(),
        "result": result_keys(),
        "columns": columns(),
    }
    return {kind: sorted(found) for kind, found in names.items()}


def commands() -> Iterator[str]:
    """Yield the scripts and the modules that a user runs."""
    yield from ("train.py", "eval.py")
    for path in PACKAGE.rglob("*.py"):
        # `pipeline` starts the other processes of a run, and no user does
        if path.name != "pipeline.py" and '\nif __name__ == "__main__":' in path.read_text():
            *folders, last = path.relative_to(PACKAGE.parent).with_suffix("").parts
            name = ".".join(folders if last == "__main__" else [*folders, last])
            yield f"python -m {name}"


def python_names() -> Iterator[str]:
    """Yield what `stealing`, `stealing.encoders` and `stealing.errors` offer for import."""
    for place in PYTHON:
        path = PACKAGE / place
        *folders, last = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(folders if last == "__init__" else [*folders, last])
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield from (f"{module}.{name}" for name in ast.literal_eval(node.value))
            elif isinstance(node, ast.ClassDef):
                yield f"{module}.{node.name}"


def result_keys() -> Iterator[str]:
    """Yield the keys of `result.json` as docs/files.md has them; `.name` stands beside a sister."""
    _, _, section = (ROOT / "docs" / "files.md").read_text().partition("## result.json")
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        yield first
        place, dot, _ = first.rpartition(".")
        yield from (f"{place}{dot}{other.removeprefix('.')}" for other in others)


def columns() -> Iterator[str]:
    """Yield the columns of `runs.parquet` as docs/files.md has them."""
    _, _, section = (ROOT / "docs" / "files.md").read_text().partition("## runs.parquet")
    yield from re.findall(r"`(\w+)`", section)


def absent(result: Mapping[str, Any]) -> list[str]:
    """Return the keys of the list that a `result.json` lacks, in any task and under any head."""
    lacking = []
    for key in listed()["result"]:
        parts: list[Any] = [result]
        for step in key.split("."):
            inner = []
            for part in parts:
                found = part.items() if step.startswith("<") else [(step, part.get(step, LACKING))]
                # beside the heads of a task stands its role
                inner += [value for _, value in found if isinstance(value, dict) or step[0] != "<"]
            parts = inner
        if LACKING in parts or not parts:
            lacking.append(key)
    return lacking


def gone(now: Names) -> list[str]:
    """Return the names of the list that are no names now."""
    return [name for kind, names in listed().items() for name in names if name not in now[kind]]


def new(now: Names) -> list[str]:
    """Return the names now that the list lacks."""
    known = listed()
    return [name for kind, names in now.items() for name in names if name not in known[kind]]


def main() -> None:
    """Add new names to the list."""
    known = listed() if LIST.exists() else {}
    both: Names = {}
    for kind, names in public_names().items():
        both[kind] = sorted({*names, *known.get(kind, [])})
    LIST.write_text(json.dumps(both, indent=1) + "\n")


if __name__ == "__main__":
    main()
