"""What a theft cost, beside the training of its target; and queries named beside queries sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import finished_run

from stealing.errors import DamageError
from stealing.report.costs import compute, nominal_queries, share_of_training
from stealing.report.run_files import FinishedRun
from stealing.report.runs import RunGroup, find_runs, group_runs
from stealing.report.write import write

TASKS = {"a": (0.8, 0.6, 0.3)}
ON_CPU = {"device": "cpu", "processor": "p", "threads": 1, "processes": 1}


def fit(images: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "forward": images,
        "backward": images // 2,
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "memory_gib": 1.5,
        **more,
    }


def edit(folder: Path, **parts: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


@pytest.fixture
def groups(tmp_path: Path) -> list[RunGroup]:
    """Two attacks, of which one asks about ten views of an image; two seeds of the other."""
    for seed in (0, 1):
        folder = finished_run(tmp_path, "g", TASKS, attack="stolen_encoder", seed=seed)
        edit(
            folder,
            compute={"target": fit(9000, 3600), "surrogate": fit(90, 9), "control": fit(90, 9)},
            seconds={"query": 6.0, "steal": 30.0 + 60 * seed, "control": 9.0},
            cpu_seconds={"query": 12.0, "steal": 60.0 + 120 * seed, "control": 18.0},
            made={"surrogate": ON_CPU | {"device": "gpu", "name": "g", "processes": 2}},
        )
    views = finished_run(tmp_path, "h", TASKS, attack="rda", asked=10)
    edit(views, made={"surrogate": ON_CPU | {"device": "gpu", "name": "g", "processes": 2}})
    return group_runs(find_runs([tmp_path]))


def rows(groups: list[RunGroup]) -> dict[str, dict[str, str]]:
    table = compute(groups)
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_queries_of_an_attack_stand_beside_those_of_the_published_recipe(
    groups: list[RunGroup],
) -> None:
    table = nominal_queries(groups)
    shown = {row[0]: row[1:] for row in table.rows}
    assert shown["stolen_encoder"] == ["100", "100", "100", "100", "1.0", "2,500; 2,500"]
    assert shown["rda"] == ["100", "10", "10", "100", "10.0", "2,500; 25,000"]


def test_a_theft_is_its_queries_and_its_training_and_its_gpus_count_each(
    groups: list[RunGroup],
) -> None:
    shown = rows(groups)
    target = shown["training of the target"]
    assert (target["images forward"], target["images backward"]) == ("9,000", "4,500")
    assert (target["seconds"], target["CPU hours"], target["GPU hours"]) == (
        "3,600",
        "2.000",
        "0.000",
    )
    theft = shown["theft: stolen_encoder"]
    assert theft["queries"] == "100" and theft["images forward"] == "90"
    # The mean of 36 and 96 seconds on two GPUs.
    assert (theft["seconds"], theft["GPU hours"]) == ("66", f"{2 * 66 / 3600:.3f}")
    assert theft["memory, GiB"] == "1.5"
    assert shown["its control: stolen_encoder"]["queries"] == "-"


def test_a_result_of_an_earlier_version_tells_what_it_knows(groups: list[RunGroup]) -> None:
    shown = rows(groups)
    assert shown["theft: rda"]["images forward"] == "48", "as `training` says"
    assert shown["theft: rda"]["memory, GiB"] == "-"
    assert shown["its control: rda"]["images forward"] == "-"


def test_a_theft_is_given_as_a_part_of_the_training_if_both_are_known(
    groups: list[RunGroup],
) -> None:
    [sentence] = share_of_training(groups)
    assert sentence == (
        "stolen_encoder: 1.8% of the CPU time of its target's training, 1.0% of its images."
    )


def test_a_report_has_both_tables_and_says_what_it_holds_equal(
    groups: list[RunGroup], tmp_path: Path
) -> None:
    page = write([tmp_path], tmp_path / "report", "linear").read_text()
    assert "What does a theft cost, beside the training?" in page
    assert "How many queries were named, and how many were sent?" in page
    assert "compared at equal queries, never at equal images" in " ".join(page.split())
    lines = (tmp_path / "report" / "tables.md").read_text().splitlines()
    assert lines[0].startswith("| attack | queries to attack | images |")


@pytest.mark.parametrize("told", [[], {"target": 3}, {"surrogate": {"forward": "x"}}, "x"])
def test_a_result_whose_compute_is_of_another_form_is_refused(told: Any, tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "g", TASKS)
    edit(folder, compute=told)
    with pytest.raises(DamageError, match="is not what a run writes"):
        FinishedRun.read(folder)
