"""Run tests against mutants in forks of this process: mutants in, what killed each out.

Nothing is written into the working tree: a fork imports the changed syntax tree in place of the
file.
"""

import ast
import contextlib
import importlib.machinery
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from mutants import Mutant

LEFT_OUT = ("keeps_pace", "golden", "tasks_are_fair", "postgresql]")
"""Parts of names of tests that do not run: they measure time, are slow, or need a server."""

TIMED_OUT = "timed out"
ENTERED = "__entered__"

Reached = dict[str, tuple[float, set[tuple[str, int]]]]
"""By test: its seconds, and file and first line of each function of the package that it enters."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a changed tree in place of the file."""

    def __init__(
        self, name: str, path: Path, tree: ast.Module, entered: set[tuple[str, int]]
    ) -> None:
        super().__init__(name, str(path))
        self.tree = tree
        self.entered = entered

    def get_code(self, fullname: str) -> CodeType:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[ENTERED] = self.entered
        super().exec_module(module)


class Changed:
    """An importer of a package of which some modules are changed.

    Args:
        source: folder of the package.
        change: the tree to execute in place of a file, or None for the file as it is.
        entered: what the modules find under the name `ENTERED`.
    """

    def __init__(
        self,
        source: Path,
        change: Callable[[Path], ast.Module | None],
        entered: set[tuple[str, int]],
    ) -> None:
        self.source = source
        self.change = change
        self.entered = entered

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of a changed module; None for any other module."""
        file = (self.source / Path(*name.split("."))).with_suffix(".py")
        tree = self.change(file) if file.exists() else None
        if tree is None:
            return None
        loader = _Loader(name, file, tree, self.entered)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


def noting(path: Path) -> ast.Module:
    """Return the tree of a file in which each function notes that it is entered."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            note = ast.parse(f"{ENTERED}.add(({str(path)!r}, {node.lineno}))").body
            node.body[:0] = note
    return tree


class Watch:
    """A plugin that notes each test's seconds, failures, and the functions that it entered."""

    def __init__(self) -> None:
        self.entered: set[tuple[str, int]] = set()
        self.reached: Reached = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Run one test with its fixtures."""
        self.entered.clear()
        start = time.monotonic()
        try:
            return (yield)
        finally:
            self.reached[item.nodeid] = (time.monotonic() - start, set(self.entered))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first failure."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a test file that cannot be imported: it counts as a failure."""
        if report.failed:
            self.failed.append(report.nodeid)


def run(arguments: list[str], watch: Watch, folder: Path) -> int:
    """Run pytest in this process without output; return its exit status."""
    quiet = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    options = ["-x", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    chosen = " and ".join(f"not {part}" for part in LEFT_OUT)
    options += ["-k", chosen]
    return int(pytest.main([*options, *arguments], plugins=[watch]))


def forked(body: Callable[[Path], Any], folder: Path) -> int:
    """Start a process that writes what the body returns to `answer.json`.

    Returns:
        Its id, which is also that of its process group.
    """
    folder.mkdir(parents=True)
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = 1
    try:
        (folder / "answer.json").write_text(json.dumps(body(folder)))
        code = 0
    finally:
        os._exit(code)


def finished(pid: int, folder: Path, deadline: float) -> Any:
    """Return the answer of a fork, `TIMED_OUT` after the deadline, or None while it runs."""
    done, _ = os.waitpid(pid, os.WNOHANG)
    if not done and time.monotonic() < deadline:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # processes that the tests left running, too
    if not done:
        os.waitpid(pid, 0)
        return TIMED_OUT
    answer = folder / "answer.json"
    if not answer.exists():
        return {"code": 1, "failed": ["the process"]}
    return json.loads(answer.read_text())


def pooled(
    bodies: list[tuple[Callable[[Path], Any], float]], jobs: int, work: Path
) -> Iterator[tuple[int, Any]]:
    """Run bodies in forks, `jobs` at once, each for at most its seconds; yield place and answer."""
    waiting = list(enumerate(bodies))[::-1]
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            place, (body, seconds) = waiting.pop()
            running[forked(body, work / str(place))] = (place, time.monotonic() + seconds)
        for pid, (place, deadline) in list(running.items()):
            answer = finished(pid, work / str(place), deadline)
            if answer is not None:
                del running[pid]
                yield place, answer
        time.sleep(0.02)


def reached(root: Path, suites: list[list[str]], jobs: int, work: Path) -> list[Reached]:
    """Run each suite of test files without a mutant.

    Raises:
        SystemExit: they fail.
    """

    def suite(files: list[str], folder: Path) -> Any:
        watch = Watch()
        sys.meta_path.insert(0, Changed(root / "src", noting, watch.entered))
        code = run(files, watch, folder)
        # JSON has no sets
        entered = {name: (spent, sorted(at)) for name, (spent, at) in watch.reached.items()}
        return {"code": code, "reached": entered}

    known: list[Reached] = [{} for _ in suites]
    bodies = [(partial(suite, files), math.inf) for files in suites]
    for place, answer in pooled(bodies, jobs, work):
        if answer["code"]:
            output = (work / str(place) / "output.txt").read_text()
            raise SystemExit(f"The tests fail without a mutant; mend them first:\n{output[-3000:]}")
        for name, (spent, at) in answer["reached"].items():
            known[place][name] = (spent, {(file, line) for file, line in at})
    return known


def reaching(mutant: Mutant, known: Reached) -> list[str]:
    """Return the tests that enter the mutated function, the quickest first.

    If the change is outside of all functions, return all tests.
    """
    first, last = mutant.lines
    if not first:
        return sorted(known, key=lambda name: known[name][0])
    file = str(mutant.path)
    entering = list[tuple[float, str]]()
    for name, (spent, entered) in known.items():
        if any(path == file and first <= line <= last for path, line in entered):
            entering.append((spent, name))
    return [name for _, name in sorted(entering)]


def judged(
    root: Path, sample: list[tuple[Mutant, Reached]], jobs: int, work: Path
) -> list[str | None]:
    """Return what killed each mutant: a test, `TIMED_OUT`, or None if it survived."""

    def attempt(mutant: Mutant, tests: list[str], folder: Path) -> Any:
        watch = Watch()
        changed = Changed(root / "src", {mutant.path: mutant.tree}.get, watch.entered)
        sys.meta_path.insert(0, changed)
        return {"code": run(tests, watch, folder) if tests else 0, "failed": watch.failed}

    bodies = []
    for mutant, known in sample:
        tests = reaching(mutant, known)
        # a mutant may loop for ever; a machine under load may be slow; a test with a limit of its
        # own has 30 seconds
        seconds = 60 + 5 * sum(known[test][0] for test in tests)
        bodies.append((partial(attempt, mutant, tests), seconds))
    outcomes: list[str | None] = [None] * len(sample)
    for place, answer in pooled(bodies, jobs, work):
        if answer == TIMED_OUT:
            outcomes[place] = TIMED_OUT
        elif answer["code"]:
            outcomes[place] = [*answer["failed"], f"exit status {answer['code']}"][0]
        shutil.rmtree(work / str(place), ignore_errors=True)
        print(
            f"{place}: {outcomes[place] or 'survived'}: {sample[place][0].title}",
            file=sys.stderr,
            flush=True,
        )
    return outcomes


def preload(root: Path, files: list[str]) -> None:
    """Import what the tests import, once for all forks; then forget the project's own modules."""
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root / "tests")]
    with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files])
    # not the root itself: an environment may lie there, too
    own = (root / "src", root / "tests")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and any(Path(file).is_relative_to(folder) for folder in own):
            del sys.modules[name]
