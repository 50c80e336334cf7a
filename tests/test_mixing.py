"""One table may mix processors and threads and says so; never devices, precisions or code."""

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from made_up import finished_run as run
from rich.console import Console

from stealing.errors import DataError
from stealing.report.console import show_result
from stealing.report.mixing import mixture
from stealing.report.run_files import FinishedRun
from stealing.report.runs import group_runs
from stealing.report.seeds import siblings
from stealing.report.write import overview_caption

TASKS = {"a": (0.6, 0.5, 0.3)}
CPU = {"device": "cpu", "name": None, "processor": "x", "threads": 1, "precision": "32-true"}
GPU = CPU | {"device": "gpu", "name": "g"}


def made(folder: Path, code: str = "c", **parts: dict[str, Any]) -> Path:
    """The run, with what made its parts."""
    path = folder / "result.json"
    told = {"target": None, "surrogate": CPU, "control": CPU, "run": CPU} | parts
    result = json.loads(path.read_text()) | {"made": told, "code": code, "seconds": {}}
    path.write_text(json.dumps(result | {"seeds": [result["seed"]]}))
    return folder


def test_processors_and_threads_are_mixed_with_a_word_in_the_caption(tmp_path: Path) -> None:
    one = made(run(tmp_path, "g1", TASKS))
    two = made(
        run(tmp_path, "g2", TASKS, defense="topk"), surrogate=CPU | {"threads": 2, "processor": "y"}
    )
    assert "Made on" not in overview_caption(group_runs([one]))
    caption = overview_caption(group_runs([one, two]))
    assert "several processors (x, y) and with 1 and 2 threads" in caption
    target = {"target": CPU | {"threads": 9}, "surrogate": CPU, "control": CPU, "run": CPU}
    assert mixture([{"made": target}]) == "", "the target is the same for all that is compared"


@pytest.mark.parametrize("part", ["surrogate", "control", "run"])
@pytest.mark.parametrize("other", [GPU, CPU | {"precision": "bf16-mixed"}])
def test_cpu_and_gpu_or_two_precisions_are_refused(
    part: str, other: dict[str, Any], tmp_path: Path
) -> None:
    one = made(run(tmp_path, "g1", TASKS))
    two = made(run(tmp_path, "g2", TASKS, defense="topk"), **{part: other})
    with pytest.raises(DataError, match="One table never mixes a"):
        group_runs([one, two])
    both = {"surrogate": other, "control": other, "run": other}
    assert len(group_runs([made(two, **both)])) == 1, "alone they are a table"
    with pytest.raises(DataError, match="One table never mixes a"):
        group_runs([one, two])


def test_a_result_that_does_not_say_what_made_it_counts_by_its_hardware(tmp_path: Path) -> None:
    old = run(tmp_path, "g1", TASKS)
    with pytest.raises(DataError, match="device"):
        group_runs(
            [
                old,
                made(
                    run(tmp_path, "g2", TASKS, defense="topk"), surrogate=GPU, control=GPU, run=GPU
                ),
            ]
        )
    assert len(group_runs([old, made(run(tmp_path, "g3", TASKS, defense="topk"))])) == 2


def test_seeds_of_other_code_device_or_precision_are_left_out_with_a_sentence(
    tmp_path: Path,
) -> None:
    own = made(run(tmp_path, "g", TASKS))
    beside = made(run(tmp_path, "g", TASKS, seed=1), surrogate=CPU | {"threads": 2})
    bf16 = CPU | {"precision": "bf16-mixed"}
    left = [
        made(run(tmp_path, "g", TASKS, seed=2), code="other"),
        made(run(tmp_path, "g", TASKS, seed=3), surrogate=GPU),
        made(run(tmp_path, "g", TASKS, seed=4), run=bf16),
    ]
    made(run(tmp_path, "h", TASKS))
    found, told = siblings(FinishedRun.read(own))
    assert [one.folder for one in found] == [own, beside]
    assert [str(folder) in line for folder, line in zip(left, told, strict=True)] == [True] * 3
    console = Console(width=200, record=True, file=StringIO())
    show_result(own, 20, console)
    text = console.export_text()
    assert (
        text.count("Left out:") == 3 and "seeds 0, 1" in text and "Made on 1 and 2 threads" in text
    )


def test_seeds_of_one_setting_that_different_code_made_are_refused(tmp_path: Path) -> None:
    folders = [
        made(run(tmp_path, "g", TASKS)),
        made(run(tmp_path, "g", TASKS, seed=1), code="other"),
    ]
    with pytest.raises(DataError, match="were made by different code"):
        group_runs(folders)
    made(folders[1])
    assert len(group_runs(folders)) == 1


def test_the_table_of_starts_mixes_no_devices_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import starts

    stored = ROOT / "results" / "independent_starts"
    cells = shutil.copytree(stored, tmp_path / "cells")
    monkeypatch.setattr(starts, "OUT", cells)
    assert starts.table() == (stored / "table.txt").read_text()
    for path in sorted(cells.glob("zoo_*.json")):
        # Another target is on another device, and has a table of its own.
        result = json.loads(path.read_text())
        for part in result["made"].values():
            part.update(device="gpu", name="g")
        (cells / path.name.replace("zoo", "strong")).write_text(json.dumps(result))
    text = starts.table()
    assert text.count("difference\n") == 2 and "strong    cifar10" in text
    shutil.copy(cells / "strong_own_s0.json", cells / "zoo_own_s0.json")
    with pytest.raises(DataError, match="gpu in zoo_own_s0"):
        starts.table()
