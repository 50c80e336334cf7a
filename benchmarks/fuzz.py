"""Run all fuzz tests with many new inputs each, and store how each of them ended.

Usage: python benchmarks/fuzz.py [--inputs 400]

Writes `results/hostile/fuzz.json`. The exit code is that of pytest, which prints the smallest input
of each failure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "hostile" / "fuzz.json"


def run(inputs: int, report: Path) -> int:
    """Run the tests; return the exit code of pytest."""
    tests = sorted(str(path) for path in (ROOT / "tests").glob("test_fuzz_*.py"))
    # schemathesis would hide the inputs of failures
    options = ["--timeout=0", "-p", "no:schemathesis", "-p", "no:cacheprovider"]
    line = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *tests]
    return subprocess.run(
        line, cwd=ROOT, env=os.environ | {"STEALING_FUZZ": str(inputs)}
    ).returncode


def outcomes(report: Path) -> dict[str, str]:
    """Return `passed`, `failed` or `skipped` of each test in a report of pytest."""
    ends = dict[str, str]()
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in case}
        end = "passed"
        if kinds & {"failure", "error"}:
            end = "failed"
        elif "skipped" in kinds:
            end = "skipped"
        ends[f"{case.get('classname')}.{case.get('name')}"] = end
    return ends


def main() -> None:
    """Run, and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=400, help="of each test (%(default)s)")
    chosen = parser.parse_args()
    # read now: somebody may edit the clone while the tests run
    origin = provenance(1, 1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(chosen.inputs, report)
        ends = outcomes(report)
    counts = {end: list(ends.values()).count(end) for end in ("passed", "failed", "skipped")}
    facts = {
        **origin,
        "seconds": round(time.monotonic() - start),
        "inputs_of_each_test": chosen.inputs,
        **counts,
        "tests": ends,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"Written: {OUT}")
    sys.exit(code)


if __name__ == "__main__":
    main()
