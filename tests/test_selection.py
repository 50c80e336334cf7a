"""Nothing is chosen on a test split: who may read it, and what a search is given."""

import ast
import json
from pathlib import Path

import pytest
from conftest import ROOT

from stealing.report.run_files import score_for_search

SOURCE = ROOT / "src" / "stealing"

READERS = {
    "preflight.py": "opens the split, checks its classes, and keeps its images from the attack",
    "evaluate.py": "asks for its features, counts right answers, and keeps images for pages",
    "judge.py": "counts right answers of one encoder",
    "preview.py": "counts its images for a plan",
    "forecast.py": "counts its images to say how long they take",
    "evaluation/cost.py": "counts its images to say how long they take",
    "evaluation/classes.py": "refuses a split without the classes of the other",
    "evaluation/texts.py": "counts its predictions, for a control that always names one class",
    "evaluation/protocol.py": "names cached predictions by its checksum",
}
"""Modules that name `.test` of a task or of predictions, with the reason."""


def reads_test(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(isinstance(node, ast.Attribute) and node.attr == "test" for node in nodes)


def test_only_what_counts_right_answers_reads_the_test_split() -> None:
    found = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if reads_test(path)}
    assert found <= READERS.keys(), (
        f"{found - READERS.keys()} reads a test split: choose on the held rows of train"
    )


def test_heads_and_choices_are_given_no_test_labels() -> None:
    """Test labels are read in two places, and both only compare them with predictions."""
    lines = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if ".test.targets()" in line
    ]
    assert [line.split(":")[0] for line in lines] == ["evaluate.py", "judge.py"]
    assert all(".test == task.test.targets()" in line for line in lines)


@pytest.mark.parametrize("test_accuracy", [0.0, 0.5, 1.0])
def test_what_sweepers_search_by_is_sa_on_the_held_slice_of_train(
    tmp_path: Path, test_accuracy: float
) -> None:
    tasks = {
        "a": {"role": "own", "linear": {"SA": test_accuracy, "held": {"SA": 0.6}}},
        "b": {"role": "unseen", "linear": {"SA": test_accuracy, "held": {"SA": 0.4}}},
    }
    (tmp_path / "result.json").write_text(json.dumps({"tasks": tasks}))
    assert score_for_search(tmp_path) == pytest.approx(0.5)
