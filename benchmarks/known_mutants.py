"""Find out whether fast tests notice today what they once did not: known mutants in, a table out.

    python benchmarks/known_mutants.py     (no data and no network needed)

`known_mutants.yaml` lists mutants that survived the fast tests of an earlier version, in the code
of today. Each runs against the tests of its own files that enter the mutated function, until the
first fails, as the mutants of `mutation.py` do. A mutant that changes nothing visible is listed
with the reason. Writes results/mutation/{known.json,known.txt}.
"""

import argparse
import ast
import difflib
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mutants import Mutant

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")
OUT = ROOT / "results" / "mutation"


@dataclass(frozen=True)
class Known:
    """A mutant that the fast tests did not notice once.

    Attributes:
        wrong: what the program does wrongly.
        file: in the package.
        function: qualified name of the function that is changed, or `<module>`.
        old: text that stands exactly once in the function.
        new: text in its place.
        tests: files of tests, of which at least one should fail.
        equivalent: why no test can notice it; empty if one can.
    """

    wrong: str
    file: str
    function: str
    old: str
    new: str
    tests: list[str]
    equivalent: str = ""


def read(path: Path = LIST) -> list[Known]:
    """Return the mutants of a list."""
    return [Known(**entry) for entry in yaml.safe_load(path.read_text())]


def make(known: Known, package: Path) -> Mutant:
    """Return the mutant of today's code.

    Raises:
        ValueError: the function is gone, the old text does not stand in it exactly once, or the new
            text gives no program.
    """
    path = package / known.file
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    span = (0, len(lines))
    before = ""
    part = text
    if known.function != "<module>":
        span = spans(ast.parse(text), "").get(known.function, (0, 0))
        before = "".join(lines[: span[0] - 1])
        part = "".join(lines[span[0] - 1 : span[1]])
    if not span[1] or part.count(known.old) != 1:
        raise ValueError(
            f"{known.file} {known.function}: the text {known.old!r} does not stand there exactly "
            "once. Write the mutant anew in the code of today."
        )
    changed = before + text[len(before) :].replace(known.old, known.new, 1)
    try:
        tree = ast.parse(changed)
    except SyntaxError as error:
        raise ValueError(f"{known.file} {known.function}: no program ({error}).") from None
    line = before.count("\n") + part[: part.index(known.old)].count("\n") + 1
    told = difflib.unified_diff(lines, changed.splitlines(keepends=True), n=0)
    diff = "".join(row for row in list(told)[2:] if not row.startswith("@@"))
    return Mutant(path, "known", known.function, line, span, tree, diff)


def spans(node: ast.AST, within: str) -> dict[str, tuple[int, int]]:
    """Return first and last line of each function below a node, by its qualified name."""
    found: dict[str, tuple[int, int]] = {}
    for child in ast.iter_child_nodes(node):
        name = within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{child.name}".lstrip(".")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [decorator.lineno for decorator in child.decorator_list]
            found[name] = (min([child.lineno, *decorators]), child.end_lineno or child.lineno)
        found |= spans(child, name)
    return found


def report(known: list[Known], outcomes: list[str | None], timed_out: str) -> dict[str, Any]:
    """Return counts, and what became of each mutant."""
    mutants = list[dict[str, Any]]()
    for one, outcome in zip(known, outcomes, strict=True):
        kind = "killed"
        if outcome is None:
            kind = "equivalent" if one.equivalent else "survived"
        elif outcome == timed_out:
            kind = timed_out
        facts = {
            "kind": kind,
            "file": one.file,
            "function": one.function,
            "wrong": one.wrong,
            "killed_by": outcome if kind == "killed" else None,
            "reason": one.equivalent or None,
        }
        mutants.append(facts)
    counts = Counter(str(facts["kind"]) for facts in mutants)
    return {"mutants": len(mutants), **counts, "each": mutants}


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    kinds = ("killed", "equivalent", "survived", "timed out")
    told = [f"{result[kind]} {kind}" for kind in kinds if result.get(kind)]
    lines = [f"{result['mutants']} known mutants: {', '.join(told)}", ""]
    for facts in result["each"]:
        test = (facts["killed_by"] or "").removeprefix("tests/").split("::")
        note = facts["reason"] or " ".join(test[-1:])
        lines.append(f"{facts['kind']:<10}  {facts['file']}: {facts['wrong']}")
        lines.append(f"{'':<12}{note}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    """Run each mutant, and write what killed it."""
    # pytest and the forks: a reader of the list alone needs neither
    from mutation_runs import TIMED_OUT, judged, preload, reached

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants that run at once")
    jobs = parser.parse_args().jobs
    known = read()
    made = [make(one, ROOT / "src" / "stealing") for one in known]
    # the figures must not depend on the data of this machine
    os.environ.pop("STEALING_DATA", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    files = sorted({f"tests/{name}" for one in known for name in one.tests})
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        preload(ROOT, files)
        [all_tests] = reached(ROOT, [files], jobs, work / "unmutated")
        sample = []
        for one, mutant in zip(known, made, strict=True):
            allowed = tuple(f"tests/{file}::" for file in one.tests)
            own = {test: at for test, at in all_tests.items() if test.startswith(allowed)}
            sample.append((mutant, own))
        outcomes = judged(ROOT, sample, jobs, work / "mutants")
    # after `preload`: forks must import the package themselves
    from stealing.provenance import provenance

    seconds = round(time.monotonic() - start)
    figures = report(known, outcomes, TIMED_OUT)
    result = {"seconds": seconds, **provenance(1, jobs), **figures}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "known.json").write_text(json.dumps(result, indent=1) + "\n")
    (OUT / "known.txt").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
