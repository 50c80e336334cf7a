"""The mutation run: good tests kill what it makes, and what weak tests leave alive is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SOURCE = '''"""A module."""


def share(part: float, whole: float = 8) -> float:
    """Say how much of the whole it is."""
    if not whole:
        raise ValueError("whole=0 has no 1 part: give 2 numbers")
    return part / whole
'''
GOOD = """
import pytest
from small.share import share

def test_share():
    assert share(3, 4) == 0.75 and share(4) == 0.5
    with pytest.raises(ValueError):
        share(1, 0)
"""
WEAK = """
from small.share import share

def test_share():
    assert share(0, 4) == 0
"""
RUN = """
import json, sys
from pathlib import Path
import mutants, mutation

root, files = Path(sys.argv[1]), ["tests/test_share.py"]
mutation.preload(root, files)
[known] = mutation.reached(root, [files], 1, root / "work")
path = root / "src" / "small" / "share.py"
sample = [(mutants.make(path, number), known) for number in range(mutants.count_of(path))]
outcomes = mutation.judged(root, sample, 2, root / "mutants")
told = mutation.report([each for each, _ in sample], outcomes, {sample[0][0].title: "a reason"})
(root / "told.json").write_text(json.dumps([[each.diff for each, _ in sample], outcomes, told]))
"""


@pytest.mark.parametrize("tests", [GOOD, WEAK], ids=["good", "weak"])
def test_good_tests_kill_every_mutant_and_weak_ones_leave_some_that_are_listed(tests: str, tmp_path: Path) -> None:
    for folder in ("src/small", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "src" / "small" / "share.py"
    file.write_text(SOURCE)
    (tmp_path / "tests" / "test_share.py").write_text(tests)
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{RUN}"
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # some take seconds to import
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, env=environment)
    diffs, outcomes, told = json.loads((tmp_path / "told.json").read_text())
    made = [diff.split("\n+")[1].strip() for diff in diffs]
    assert made == [
        "def share(part: float, whole: float=9) -> float:",
        "if whole:",
        "return part",
        "return None",
        "return part * whole",
    ], "one change each; texts, types and what is raised are left alone"
    assert file.read_text() == SOURCE, "nothing is written into the working tree"
    if tests == GOOD:
        assert all("test_share" in outcome for outcome in outcomes)
        assert told["killed"] == told["sampled"] == 5 and told["not_killed"] == []
    else:
        alive = [text for text, outcome in zip(made, outcomes, strict=True) if outcome is None]
        assert alive == [made[0], made[2], made[4]], "0 / 4 is 0 whatever the rest does"
        assert (told["killed"], told["survived"], told["equivalent"]) == (2, 2, 1)
        assert [each["line"] for each in told["not_killed"]] == [4, 8, 8]
        assert [each["reason"] for each in told["not_killed"]] == ["a reason", None, None]
