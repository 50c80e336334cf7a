"""Whether the tests notice a wrong program: mutants made by rule, each run against the fast tests that reach it.

    python benchmarks/mutation.py --seed 0 --each 30 --jobs 2     (no data and no network needed)

A mutant is the package with one place of its syntax tree changed; the rules stand in `mutants.py` beside this file.
As many are sampled of each folder of TESTS, and each runs against the tests of its folder that enter the mutated
function, until the first fails. Slow tests, those that need STEALING_DATA, and those that start processes of their own
(which run the unmutated code) cannot kill. Nothing is written into the working tree: a fork imports the mutated tree in
place of the file. Survivors that change nothing that can be seen stand, with the reason, in `mutation_equivalent.txt`,
and are counted apart.
"""

import argparse
import ast
import contextlib
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from mutants import Mutant, count_of, make

ROOT = Path(__file__).parents[1]
TESTS = {
    "attacks": ("test_attacks.py", "test_asking.py", "test_plans.py", "test_surrogate.py"),
    "pretraining": ("test_pretraining.py", "test_simclr.py"),
    "evaluation": ("test_evaluation.py", "test_heads.py", "test_protocol.py", "test_statistics.py"),
    "data": ("test_data.py", "test_images.py", "test_draws.py", "test_shapes.py", "test_views.py", "test_downloads.py"),
    "defenses": ("test_defenses.py", "test_chain.py", "test_strengths.py", "test_guard.py", "test_watching.py"),
    "queries": (
        "test_queries.py",
        "test_shards.py",
        "test_metering.py",
        "test_ledger.py",
        "test_books.py",
        "test_bookkeeping.py",
        "test_records.py",
        "test_shared_ledger.py",
    ),
}
"""By folder of the package, the test files whose fast tests are to notice its mutants."""

LEFT_OUT = ("keeps_pace", "golden", "tasks_are_fair", "postgresql]")
"""Parts of names of tests that are left out: they measure time, take more than ten seconds, or need a server."""

TIMED_OUT = "timed out"
ENTERED = "__entered__"

Reached = dict[str, tuple[float, set[tuple[str, int]]]]
"""By test its seconds, and the file and first line of each function of the package that it enters."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a changed tree in place of the file."""

    def __init__(self, name: str, path: Path, tree: ast.Module, entered: set[tuple[str, int]]) -> None:
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
        self, source: Path, change: Callable[[Path], ast.Module | None], entered: set[tuple[str, int]]
    ) -> None:
        self.source = source
        self.change = change
        self.entered = entered

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """A changed module's, and no other's."""
        file = (self.source / Path(*name.split("."))).with_suffix(".py")
        tree = self.change(file) if file.exists() else None
        if tree is None:
            return None
        loader = _Loader(name, file, tree, self.entered)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


def noting(path: Path) -> ast.Module:
    """The module of a file, each of whose functions notes that it is entered."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            note = ast.parse(f"{ENTERED}.add(({str(path)!r}, {node.lineno}))").body
            node.body[:0] = note
    return tree


class Watch:
    """A plugin that notes each test's seconds, what failed, and what was entered during the test."""

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
        """A test file that cannot be imported fails as well."""
        if report.failed:
            self.failed.append(report.nodeid)


def run(arguments: list[str], watch: Watch, folder: Path) -> int:
    """Pytest in this process, silently; its exit status."""
    quiet = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    options = ["-x", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    options += ["-k", " and ".join(f"not {part}" for part in LEFT_OUT)]
    return int(pytest.main([*options, *arguments], plugins=[watch]))


def forked(body: Callable[[Path], Any], folder: Path) -> int:
    """Start a process that writes what the body returns to `answer.json`; its id, which is its group's as well."""
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
    """The answer of a fork, `TIMED_OUT` after the deadline, None while it runs."""
    done, _ = os.waitpid(pid, os.WNOHANG)
    if not done and time.monotonic() < deadline:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what the tests left running
    if not done:
        os.waitpid(pid, 0)
        return TIMED_OUT
    answer = folder / "answer.json"
    return json.loads(answer.read_text()) if answer.exists() else {"code": 1, "failed": ["the process"]}


def pooled(bodies: list[tuple[Callable[[Path], Any], float]], jobs: int, work: Path) -> Iterator[tuple[int, Any]]:
    """Run bodies in forks, `jobs` at once, each for its seconds at most; yield place and answer as each ends."""
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
        return {"code": code, "reached": {name: (spent, sorted(at)) for name, (spent, at) in watch.reached.items()}}

    found: list[Reached] = [{} for _ in suites]
    for place, answer in pooled([(partial(suite, files), math.inf) for files in suites], jobs, work):
        if answer["code"]:
            output = (work / str(place) / "output.txt").read_text()
            raise SystemExit(f"The tests fail without a mutant; mend them first:\n{output[-3000:]}")
        for name, (spent, at) in answer["reached"].items():
            found[place][name] = (spent, {(file, line) for file, line in at})
    return found


def reaching(mutant: Mutant, known: Reached) -> list[str]:
    """The tests that enter the mutated function, or all where it is outside of functions; the quickest first."""
    first, last = mutant.lines
    if not first:
        return sorted(known, key=lambda name: known[name][0])
    file = str(mutant.path)
    chosen = [
        (spent, name)
        for name, (spent, at) in known.items()
        if any(path == file and first <= line <= last for path, line in at)
    ]
    return [name for _, name in sorted(chosen)]


def judged(root: Path, sample: list[tuple[Mutant, Reached]], jobs: int, work: Path) -> list[str | None]:
    """What killed each mutant: a test, `TIMED_OUT`, or None if it survived."""

    def attempt(mutant: Mutant, tests: list[str], folder: Path) -> Any:
        watch = Watch()
        changed = Changed(root / "src", {mutant.path: mutant.tree}.get, watch.entered)
        sys.meta_path.insert(0, changed)
        return {"code": run(tests, watch, folder) if tests else 0, "failed": watch.failed}

    bodies = []
    for mutant, known in sample:
        tests = reaching(mutant, known)
        seconds = 30 + 5 * sum(known[test][0] for test in tests)
        bodies.append((partial(attempt, mutant, tests), seconds))
    outcomes: list[str | None] = [None] * len(sample)
    for place, answer in pooled(bodies, jobs, work):
        if answer == TIMED_OUT:
            outcomes[place] = TIMED_OUT
        elif answer["code"]:
            outcomes[place] = [*answer["failed"], f"exit status {answer['code']}"][0]
        shutil.rmtree(work / str(place), ignore_errors=True)
        print(f"{place}: {outcomes[place] or 'survived'}: {sample[place][0].title}", file=sys.stderr, flush=True)
    return outcomes


def preload(root: Path, files: list[str]) -> None:
    """Import what the tests import, once for all forks; then forget the project's own modules."""
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root / "tests")]
    with open(os.devnull, "w") as silent:
        shown, sys.stdout = sys.stdout, silent
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files])
        sys.stdout = shown
    own = (root / "src", root / "tests")  # an environment may lie in the root, too
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and any(Path(file).is_relative_to(folder) for folder in own):
            del sys.modules[name]


def report(sample: list[Mutant], outcomes: list[str | None], excused: dict[str, str]) -> dict[str, Any]:
    """Counts, in all and by folder and rule, and every mutant that was not killed."""
    kinds = []
    for mutant, outcome in zip(sample, outcomes, strict=True):
        alive = "equivalent" if mutant.title in excused else "survived"
        kinds.append(alive if outcome is None else TIMED_OUT if outcome == TIMED_OUT else "killed")
    folders: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    for mutant, kind in zip(sample, kinds, strict=True):
        folders.setdefault(mutant.path.parent.name, Counter())[kind] += 1
        rules.setdefault(mutant.rule, Counter())[kind] += 1
    apart = [
        {"kind": kind, "file": mutant.path.name, "folder": mutant.path.parent.name, "line": mutant.line}
        | {"rule": mutant.rule, "diff": mutant.diff, "reason": excused.get(mutant.title)}
        for mutant, kind in zip(sample, kinds, strict=True)
        if kind != "killed"
    ]
    return {"sampled": len(sample), **Counter(kinds), "folders": folders, "rules": rules, "not_killed": apart}


def equivalents(path: Path) -> dict[str, str]:
    """By title the reason why a mutant changes nothing: lines `title # reason`."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("  # ", 1) for line in lines)


def main() -> None:
    """Sample, run, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--each", type=int, default=30, help="mutants of each folder")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that run at once")
    parser.add_argument("--folders", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutation" / "result.json")
    chosen = parser.parse_args()
    os.environ.pop("STEALING_DATA", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    out = chosen.out.resolve()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tests = {folder: [f"tests/{name}" for name in TESTS[folder]] for folder in chosen.folders}
        preload(ROOT, sorted({file for files in tests.values() for file in files}))
        rng = random.Random(chosen.seed)
        start = time.monotonic()
        suites = reached(ROOT, list(tests.values()), chosen.jobs, work / "unmutated")
        sample: list[tuple[Mutant, Reached]] = []
        for folder, known in zip(tests, suites, strict=True):
            places = sorted((ROOT / "src" / "stealing" / folder).glob("*.py"))
            every = [(path, n) for path in places if path.stem != "__main__" for n in range(count_of(path))]
            sample += [(make(*one), known) for one in rng.sample(every, min(chosen.each, len(every)))]
        outcomes = judged(ROOT, sample, chosen.jobs, work / "mutants")
    from stealing.provenance import provenance

    excused = equivalents(Path(__file__).with_name("mutation_equivalent.txt"))
    figures = report([mutant for mutant, _ in sample], outcomes, excused)
    result = {"seed": chosen.seed, "seconds": round(time.monotonic() - start), **provenance(1, chosen.jobs), **figures}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
