"""The benchmark of speed: its rows, and a row measured at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


def test_a_limit_is_the_best_of_its_arms_and_compiled_code_only_on_a_gpu() -> None:
    from speed import row_of, shown

    rates = {"ours": 90.0, "plain": 10.0, "limit_eager": 100.0, "limit_compiled": 120.0}
    on_cpu = row_of("steal", "cpu", "32-true", rates)
    on_gpu = row_of("steal", "A card", "bf16-mixed", rates)
    assert (on_cpu["limit"], on_cpu["ratio"]) == (100, 0.9)
    assert (on_gpu["limit"], on_gpu["ratio"]) == (120, 0.75)
    assert row_of("views", "cpu", "32-true", {"ours": 1.0})["limit"] is None
    assert [line.split()[-1] for line in shown([on_cpu, on_gpu]).splitlines()] == [
        "ratio",
        "0.90",
        "0.75",
    ]


@pytest.mark.slow
def test_speed_is_measured_side_by_side_and_stored(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    line = [sys.executable, "benchmarks/speed.py", "--only", "steal", "door", "views"]
    line += ["--rounds", "1", "--seconds", "0.1", "--out", str(out), "trainer.threads=1"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads(out.read_text())
    places = [(row["step"], row["precision"]) for row in stored["rows"]]
    assert places == [
        ("steal", "32-true"),
        ("steal", "bf16-mixed"),
        ("door", "32-true"),
        ("views", "32-true"),
    ]
    for row in stored["rows"]:
        assert row["ours"] > 0 and all(rate > 0 for rate in row["arms"].values())
    assert stored["versions"] and stored["hardware"] and "steal" in done.stdout
