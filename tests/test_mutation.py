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
def test_good_tests_kill_every_mutant_and_weak_ones_leave_some_that_are_listed(
    tests: str, tmp_path: Path
) -> None:
    for folder in ("src/small", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "src" / "small" / "share.py"
    file.write_text(SOURCE)
    (tmp_path / "tests" / "test_share.py").write_text(tests)
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{RUN}"
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # some take seconds to import
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        capture_output=True,
        env=environment,
    )
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


def test_each_excused_mutant_is_one_that_the_rules_still_make() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import mutants, mutation\n"
        "package = Path(sys.argv[1])\n"
        "excused = mutation.equivalents(Path(mutation.__file__).with_name(sys.argv[2]))\n"
        "made = set()\n"
        "for name in {title.split()[0] for title in excused}:\n"
        "    path = package / name\n"
        "    made |= {mutants.make(path, n).title for n in range(mutants.count_of(path))}\n"
        "print(*(title for title in excused if title not in made), sep='\\n')\n"
    )
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{code}"
    line = [sys.executable, "-c", script, str(ROOT / "src" / "stealing"), "mutation_equivalent.txt"]
    ran = subprocess.run(line, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


KNOWN = """
import sys
from pathlib import Path
import known_mutants

listed = known_mutants.read()
made = [known_mutants.make(each, Path(sys.argv[1])) for each in listed]
print(len(made), len({each.diff for each in made}))
print(*{name for each in listed for name in each.tests}, sep="\\n")
"""


def in_benchmarks(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{code}"
    line = [sys.executable, "-c", script, *arguments]
    return subprocess.run(line, capture_output=True, text=True)


def test_nearly_all_known_mutants_are_noticed_today() -> None:
    stored = json.loads((ROOT / "results" / "mutation" / "known.json").read_text())
    assert stored["killed"] >= 57 and stored["mutants"] == 63


def test_each_known_mutant_is_one_change_of_todays_code_for_tests_that_are_there() -> None:
    ran = in_benchmarks(KNOWN, str(ROOT / "src" / "stealing"))
    assert ran.returncode == 0, ran.stderr
    counts, *files = ran.stdout.splitlines()
    assert counts == "63 63"
    assert [name for name in files if not (ROOT / "tests" / name).exists()] == []


@pytest.mark.parametrize("place", ["gone", "twice", "elsewhere", "no function"])
def test_a_known_mutant_whose_text_does_not_stand_once_in_its_function_is_refused(
    place: str, tmp_path: Path
) -> None:
    text = {
        "gone": "def f():\n    return 2\n",
        "twice": "def f():\n    return (1 + 1) * (1 + 1)\n",
        "elsewhere": "def f():\n    return 2\n\n\ndef g():\n    return 1 + 1\n",
        "no function": "x = 1 + 1\n",
    }[place]
    (tmp_path / "one.py").write_text(text)
    code = (
        "from pathlib import Path\n"
        "from known_mutants import Known, make\n"
        "make(Known('wrong', 'one.py', 'f', '1 + 1', '3', []), Path(sys.argv[1]))\n"
    )
    ran = in_benchmarks(code, str(tmp_path))
    assert "does not stand there exactly once" in ran.stderr
