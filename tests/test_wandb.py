"""What wandb recorded, read back from its offline files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from conftest import DEBUG, ROOT, run_script
from test_report import run as made_up
from wandb.proto.wandb_internal_pb2 import Record

from stealing.report.dashboard import charts, record
from stealing.report.figures import defended
from stealing.report.runs import settings
from stealing.training.wandb import mode

pytestmark = pytest.mark.slow

SWEEP = ("-m", *DEBUG, "logger=wandb", "trainer.checkpoint_seconds=0", "pretrain.epochs=20", "attack.steps=40",
         "budget.images=64,128")  # fmt: skip


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after seven bytes of its own."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # the only, or the last part of a record
            yield Record.FromString(whole)
            whole = b""


def rows(path: Path) -> list[dict[str, Any]]:
    found = [record.history.item for record in records(path) if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in found]


def begun(path: Path) -> Any:
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over two budgets, stopped as by Ctrl-C in the target's training and started again."""
    folder = tmp_path_factory.mktemp("wandb")
    point = "stealing.pretraining.simclr:SimCLRModule.training_step:51"
    done = run_script(folder, "tests/killed.py", point, "--", *SWEEP, WANDB_MODE="offline", KILL_BY="SIGINT")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_resumed_fit_continues_its_run_and_its_steps(work: Path) -> None:
    first, second = sorted(work.glob("targets/*/wandb/offline-run-*/*.wandb"))
    assert begun(first).run_id == begun(second).run_id
    steps = [[row["trainer/global_step"] for row in rows(path) if "pretrain/loss" in row] for path in (first, second)]
    assert steps[0] == [9, 19, 29, 39, 49] and steps[1] == [59, 69, 79]


def test_a_sweep_is_one_group_with_a_run_for_each_step(work: Path) -> None:
    runs = [begun(path) for path in work.glob("*/*/wandb/offline-run-*/*.wandb")]
    assert {run.run_group for run in runs} == {" ".join(SWEEP)[:128]}
    kinds = sorted(run.job_type for run in runs)
    assert kinds == ["control"] * 2 + ["evaluate"] * 2 + ["pretrain"] * 2 + ["steal"] * 2
    assert len({run.run_id for run in runs}) == 7, "the target's two starts are one run"
    for run in runs:
        assert {"data=shapes", "attack=stolen_encoder", "budget=b1000"} <= set(run.tags)
        assert not any(tag.startswith("hydra/") for tag in run.tags)


def test_each_run_is_finished_and_is_plotted_against_the_trainers_step(work: Path) -> None:
    ends = 0
    for path in work.glob("*/*/wandb/offline-run-*/*.wandb"):
        kinds = [record.WhichOneof("record_type") for record in records(path)]
        ends += kinds.count("exit")
        assert any(record.metric.step_metric == "trainer/global_step" for record in records(path))
    assert ends == 8


def test_the_closing_figures_are_recorded_under_their_contracted_names(work: Path) -> None:
    for path in work.glob("runs/*/wandb/offline-run-*/*.wandb"):
        figures = {name: value for row in rows(path) for name, value in row.items()}
        result = json.loads((path.parents[2] / "result.json").read_text())
        for task, heads in result["tasks"].items():
            for head in ("linear", "knn"):
                assert figures[f"eval/{task}/{head}/SA"] == pytest.approx(heads[head]["SA"])


def test_what_was_asked_and_the_probes_results_are_shown_beside_the_figures(work: Path) -> None:
    for path in work.glob("runs/*/wandb/offline-run-*/*.wandb"):
        shown = {name: value for row in rows(path) for name, value in row.items()}
        files = path.parent / "files"
        assert len(list(files.glob("media/images/queries*.png"))) == 36
        [table] = files.glob("media/table/probes*.json")
        read = json.loads(table.read_text())
        result = json.loads((path.parents[2] / "result.json").read_text())
        assert read["columns"] == ["task", "head", "TA", "SA", "recovered", "honest_loss"]
        for row in (dict(zip(read["columns"], data, strict=True)) for data in read["data"]):
            assert row["SA"] == pytest.approx(result["tasks"][row["task"]][row["head"]]["SA"])
        assert {"queries/count", "probes/nrows"} <= shown.keys()


def test_a_report_is_charts_of_a_run_and_a_workspace_names_metrics_that_runs_have(work: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "stealing.report.dashboard", str(work / "runs"), "--entity", "me"]
    [protocol] = {json.loads(file.read_text())["protocol_hash"] for file in work.glob("runs/*/result.json")}
    line += ["--out", str(tmp_path), "--protocol", protocol]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*line[:-1], "other"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "--protocol other judged none" in refused.stderr
    [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert begun(path).job_type == "report"
    [table] = path.parent.glob("files/media/table/report/runs*.json")
    assert len(json.loads(table.read_text())["data"]) == 2 * 4 * 2, "two runs, four tasks, two heads"
    view = json.loads((tmp_path / "workspace.json").read_text())
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    asked = {metric for config in panels for metric in config.get("metrics") or []}
    logged = {name for path in work.glob("*/*/wandb/offline-run-*/*.wandb") for row in rows(path) for name in row}
    assert {"steal/loss", "pretrain/loss"} <= asked & logged
    assert {name for name in asked if name.endswith("/SA")} <= logged
    tables = set(re.findall(r'"val(?:ue)?": "((?:report/|probes)[^"]*)"', json.dumps(view)))
    assert {"report/settings", "report/runs", "report/budgets_table", "probes"} <= tables, json.dumps(panels)
    logged |= set(rows(path)[-1])
    assert {f"{name}/nrows" for name in tables} <= logged


def test_the_charts_of_a_report_are_recorded_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        [
            made_up(tmp_path, "g1", {"a": (0.6, 0.5, 0.3)}),
            made_up(tmp_path, "g2", {"a": (0.6, 0.4, 0.3)}, defense="topk"),
        ]
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    mode.cache_clear()
    place = record(charts(found, "linear"), "stealing", tmp_path / "out", "team")
    wandb.teardown()  # wandb's own process writes the file, and has ended then
    assert begun(next(place.glob("*.wandb"))).entity == "team"
    [frontier] = place.glob("files/media/table/report/frontier*.json")
    shown = {row[0]: row[1:] for row in json.loads(frontier.read_text())["data"]}
    drawn, _ = defended(found, "linear")
    assert shown == {point.name: pytest.approx([100 * point.loss, point.recovered]) for point in drawn}
    [curve] = place.glob("files/media/table/report/budgets*.json")
    rows_ = [(row[0], row[2]) for row in json.loads(curve.read_text())["data"]]
    assert rows_ == [(100, pytest.approx(2 / 3)), (100, pytest.approx(1 / 3))]
