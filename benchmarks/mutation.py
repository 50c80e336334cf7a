"""Find out whether the tests notice a wrong program: mutants in, those that survive out.

    python benchmarks/mutation.py --seed 0 --each 30 --jobs 2     (no data and no network needed)

A mutant is the package with one place of its syntax tree changed, by the rules of `mutants.py`.
Equally many are drawn of each folder of TESTS. Each runs against the tests of its folder that enter
the mutated function, until the first fails (`mutation_runs.py`). Slow tests do not run, nor those
that need STEALING_DATA; tests that start processes of their own run the unmutated code. Survivors
that change nothing visible are listed, with the reason, in `mutation_equivalent.txt`, and are
counted separately.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutants import Mutant, count_of, make
from mutation_runs import TIMED_OUT, Reached, judged, preload, reached

ROOT = Path(__file__).parents[1]
TESTS = {
    "attacks": (
        "test_attacks.py",
        "test_losses.py",
        "test_ipes.py",
        "test_asked_views.py",
        "test_asking.py",
        "test_choosing.py",
        "test_plans.py",
        "test_surrogate.py",
        "test_view_attacks.py",
        "test_view_losses.py",
        "test_own_code.py",
    ),
    "pretraining": (
        "test_pretraining.py",
        "test_simclr.py",
        "test_mocov2.py",
        "test_own_code.py",
        "test_compute.py",
        "test_flow.py",
    ),
    "evaluation": (
        "test_evaluation.py",
        "test_heads.py",
        "test_protocol.py",
        "test_statistics.py",
        "test_cache.py",
        "test_forecast.py",
    ),
    "data": (
        "test_data.py",
        "test_images.py",
        "test_draws.py",
        "test_shapes.py",
        "test_views.py",
        "test_downloads.py",
        "test_asked_views.py",
        "test_sizes.py",
        "test_tasks_that_are_none.py",
    ),
    "defenses": (
        "test_defenses.py",
        "test_chain.py",
        "test_strengths.py",
        "test_guard.py",
        "test_watching.py",
    ),
    "queries": (
        "test_queries.py",
        "test_shards.py",
        "test_metering.py",
        "test_ledger.py",
        "test_books.py",
        "test_bookkeeping.py",
        "test_records.py",
        "test_shared_ledger.py",
        "test_rate_limits.py",
        "test_damage.py",
    ),
}
"""By folder of the package, the test files whose fast tests are to notice its mutants."""


def report(
    sample: list[Mutant], outcomes: list[str | None], excused: dict[str, str]
) -> dict[str, Any]:
    """Return counts, in all and by folder and rule, and every mutant that was not killed."""
    kinds = list[str]()
    for mutant, outcome in zip(sample, outcomes, strict=True):
        if outcome is None:
            kinds.append("equivalent" if mutant.title in excused else "survived")
        else:
            kinds.append(TIMED_OUT if outcome == TIMED_OUT else "killed")
    folders: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    not_killed = list[dict[str, Any]]()
    for mutant, kind in zip(sample, kinds, strict=True):
        folders.setdefault(mutant.path.parent.name, Counter())[kind] += 1
        rules.setdefault(mutant.rule, Counter())[kind] += 1
        if kind != "killed":
            facts = {
                "kind": kind,
                "file": mutant.path.name,
                "folder": mutant.path.parent.name,
                "line": mutant.line,
                "rule": mutant.rule,
                "diff": mutant.diff,
                "reason": excused.get(mutant.title),
            }
            not_killed.append(facts)
    return {
        "sampled": len(sample),
        **Counter(kinds),
        "folders": folders,
        "rules": rules,
        "not_killed": not_killed,
    }


def equivalents(path: Path) -> dict[str, str]:
    """Return by title the reason why a mutant changes nothing: lines `title  # reason`."""
    reasons = dict[str, str]()
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            title, reason = line.split("  # ", 1)
            reasons[title] = reason
    return reasons


def drawn(folder: str, count: int, rng: random.Random) -> list[Mutant]:
    """Draw mutants of all files of a folder of the package, each with equal probability."""
    places = list[tuple[Path, int]]()
    for path in sorted((ROOT / "src" / "stealing" / folder).glob("*.py")):
        if path.stem != "__main__":
            places += [(path, number) for number in range(count_of(path))]
    chosen = rng.sample(places, min(count, len(places)))
    return [make(path, number) for path, number in chosen]


def parsed() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--each", type=int, default=30, help="mutants of each folder")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that run at once")
    parser.add_argument("--folders", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutation" / "result.json")
    return parser.parse_args()


def main() -> None:
    """Draw, run, and write the figures."""
    chosen = parsed()
    # the figures must not depend on the data of this machine
    os.environ.pop("STEALING_DATA", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    out = chosen.out.resolve()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tests = {folder: [f"tests/{name}" for name in TESTS[folder]] for folder in chosen.folders}
        preload(ROOT, sorted(set().union(*tests.values())))
        rng = random.Random(chosen.seed)
        start = time.monotonic()
        suites = reached(ROOT, list(tests.values()), chosen.jobs, work / "unmutated")
        sample: list[tuple[Mutant, Reached]] = []
        for folder, known in zip(tests, suites, strict=True):
            sample += [(mutant, known) for mutant in drawn(folder, chosen.each, rng)]
        outcomes = judged(ROOT, sample, chosen.jobs, work / "mutants")
    # after `preload`: forks must import the package themselves
    from stealing.provenance import provenance

    excused = equivalents(Path(__file__).with_name("mutation_equivalent.txt"))
    figures = report([mutant for mutant, _ in sample], outcomes, excused)
    result = {
        "seed": chosen.seed,
        "seconds": round(time.monotonic() - start),
        **provenance(1, chosen.jobs),
        **figures,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
