"""Where a number comes from."""

import subprocess
from pathlib import Path

import pytest

from stealing.provenance import commit


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("src", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("first")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_changed_result_leaves_the_commit_of_the_code_and_changed_code_does_not(
    clone: Path,
) -> None:
    name = commit(clone / "src")
    assert name is not None and len(name) == 12
    (clone / "results" / "file").write_text("second")
    (clone / "results" / "new").write_text("a claim")
    assert commit(clone / "src") == name
    (clone / "src" / "file").write_text("second")
    assert commit(clone / "src") == f"{name}-dirty"


def test_a_folder_outside_a_clone_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
