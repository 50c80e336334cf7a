"""The benchmark of speed: its rows, and a row measured at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEBUG, ROOT, choose

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


def test_time_to_quality_is_until_ours_is_as_good_as_the_papers_recipe_at_its_end() -> None:
    from speed import shown
    from speed_quality import row_of

    place = {"device": "cpu", "precision": "32-true"}
    paper = [(10.0, 0.7), (20.0, 0.9), (30.0, 0.8)]
    row = row_of(paper, [(1.0, 0.6), (5.0, 0.8), (6.0, 0.95)]) | place
    assert (row["paper"], row["quality"], row["paper_first"]) == (30, 0.8, 20)
    assert (row["ours"], row["times_less"]) == (5, 6)
    assert "as good after 5 s: 6.0 times less" in " ".join(shown([row]).split())
    never = row_of(paper, [(1.0, 0.6)]) | place
    assert never["ours"] is never["times_less"] is None
    assert "Ours did not reach it." in shown([never])


def test_both_recipes_are_trained_on_the_same_answers_and_ours_ends_when_it_is_as_good(
    tmp_path: Path,
) -> None:
    import speed_quality

    small = [*DEBUG, f"paths.work={tmp_path}", "target=zoo", "budget.images=64"]
    config = choose(*small, "data.queries.count=96", "attack.steps=6", "attack.batch_size=16")
    paper = choose("attack=stolen_encoder_paper", "attack.epochs=1")
    row = speed_quality.measure(config, [paper.attack, config.attack], "cpu")
    ours = row["curves"]["ours"]
    assert row["quality"] == row["curves"]["paper"][-1][1]
    assert row["paper"] > 0 and all(seconds > 0 for seconds, _ in ours)
    reached = [quality >= row["quality"] for _, quality in ours]
    assert not any(reached[:-1]) and (reached[-1] or len(ours) == 6)
    assert row["ours"] == (ours[-1][0] if reached[-1] else None)


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
