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
from conftest import DEBUG, ROOT, leaves, run_script
from made_up import finished_run as made_up
from omegaconf import OmegaConf
from wandb.proto.wandb_internal_pb2 import Record

from stealing.report.dashboard import about, charts, record
from stealing.report.figures import defended
from stealing.report.runs import group_runs
from stealing.training.wandb import mode

pytestmark = pytest.mark.slow

SECRET = {"WANDB_TEST_KEY": "the content of the secret"}
SWEEP = (
    "-m",
    *DEBUG,
    "logger=wandb",
    "trainer.checkpoint_seconds=0",
    "pretrain.epochs=20",
    "attack.steps=40",
    "defense=[noise]",
    "defense.noise.secret=WANDB_TEST_KEY",
    "budget.images=64,128",
)


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
    found = [
        record.history.item
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row}
        for row in found
    ]


def begun(path: Path) -> Any:
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def config_in(path: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for item in begun(path).config.update}


def summary_in(path: Path) -> dict[str, Any]:
    """The last value of each metric."""
    found = [
        record.summary.update
        for record in records(path)
        if record.WhichOneof("record_type") == "summary"
    ]
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for row in found
        for item in row
    }


def evaluations(work: Path) -> list[Path]:
    return sorted(work.glob("runs/*/wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over two budgets, stopped as by Ctrl-C in the target's training and started again."""
    folder = tmp_path_factory.mktemp("wandb")
    point = "stealing.pretraining.simclr:SimCLRModule.training_step:51"
    done = run_script(
        folder,
        "tests/killed.py",
        point,
        "--",
        *SWEEP,
        WANDB_MODE="offline",
        KILL_BY="SIGINT",
        **SECRET,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_resumed_fit_continues_its_run_and_its_steps(work: Path) -> None:
    first, second = sorted(work.glob("targets/*/wandb/offline-run-*/*.wandb"))
    assert begun(first).run_id == begun(second).run_id
    steps = [
        [row["trainer/global_step"] for row in rows(path) if "pretrain/loss" in row]
        for path in (first, second)
    ]
    assert steps[0] == [9, 19, 29, 39, 49] and steps[1] == [59, 69, 79]


def test_a_cell_is_one_group_with_a_run_for_each_phase(work: Path) -> None:
    runs = [begun(path) for path in work.glob("*/*/wandb/offline-run-*/*.wandb")]
    assert {run.run_group for run in runs} == {folder.name for folder in work.glob("runs/*")}
    for cell in work.glob("runs/*"):
        own = {run.job_type for run in runs if run.run_group == cell.name}
        assert {"control", "evaluate", "steal"} <= own
    kinds = sorted(run.job_type for run in runs)
    assert kinds == ["control"] * 2 + ["evaluate"] * 2 + ["pretrain"] * 2 + ["steal"] * 2
    assert len({run.run_id for run in runs}) == 7, "the target's two starts are one run"
    for run in runs:
        assert {"data=shapes", "attack=stolen_encoder", "budget=b1000"} <= set(run.tags)
        assert not any(tag.startswith("hydra/") for tag in run.tags)


def test_the_config_of_each_run_is_every_resolved_setting_of_its_cell_but_secrets(
    work: Path,
) -> None:
    for path in work.glob("*/*/wandb/offline-run-*/*.wandb"):
        config = config_in(path)
        resolved = OmegaConf.load(work / "runs" / config["cell"] / "config.yaml")
        wanted = leaves(OmegaConf.to_container(resolved))
        assert wanted.pop(("defense", "noise", "secret")) == "WANDB_TEST_KEY"
        kept = leaves(config)
        assert kept.items() >= wanted.items()
        assert {place[0] for place in kept.keys() - wanted.keys()} <= {
            "_wandb",
            "artefact",
            "artefacts",
            "cell",
            "choices",
            "sweep",
        }


def test_neither_a_secret_nor_where_it_lies_is_in_any_file_of_wandb(work: Path) -> None:
    files = [path for path in work.glob("*/*/wandb/**/*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        for word in (*SECRET, *SECRET.values()):
            assert word.encode() not in content, path


def test_a_sweeps_table_filters_by_numbers_and_shows_the_results(work: Path) -> None:
    [sweep] = work.glob("sweeps/*")
    budgets = []
    for path in evaluations(work):
        run = begun(path)
        config = config_in(path)
        summary = summary_in(path)
        assert run.job_type == "evaluate"
        assert f"sweep={sweep.name}" in run.tags
        assert config["sweep"] == sweep.name
        assert config["seed"] == config["target"]["seed"] == 0
        budgets.append(config["budget"]["images"])
        result = json.loads((path.parents[2] / "result.json").read_text())
        for task, heads in result["tasks"].items():
            for head in ("linear", "knn"):
                for name in ("TA", "SA", "recovered"):
                    shown = summary.get(f"eval/{task}/{head}/{name}")
                    assert shown == pytest.approx(heads[head][name]), "absent if it is None"
    assert sorted(budgets) == [64, 128]


def test_two_cells_of_a_sweep_differ_in_name_and_tags(work: Path) -> None:
    first, second = (begun(path) for path in evaluations(work))
    assert first.display_name != second.display_name
    assert set(first.tags) ^ set(second.tags) == {"budget.images=64", "budget.images=128"}
    names = {begun(path).display_name for path in work.glob("*/*/wandb/offline-run-*/*.wandb")}
    assert len(names) == 7, "the target's two starts are one run"


def test_an_evaluation_names_the_artefacts_whose_runs_have_its_curves(work: Path) -> None:
    fits = set(work.glob("*/*/wandb/offline-run-*/*.wandb")) - set(evaluations(work))
    made = {config_in(path)["artefact"] for path in fits}
    used = [config_in(path)["artefacts"] for path in evaluations(work)]
    assert used[0]["target"] == used[1]["target"] and used[0]["surrogate"] != used[1]["surrogate"]
    for artefacts in used:
        assert {artefacts[name] for name in ("target", "surrogate", "control")} <= made


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


def test_a_report_is_charts_of_a_run_and_a_workspace_names_metrics_that_runs_have(
    work: Path, tmp_path: Path
) -> None:
    line = [sys.executable, "-m", "stealing.report.dashboard", str(work / "runs"), "--entity", "me"]
    [protocol] = {
        json.loads(file.read_text())["protocol_hash"] for file in work.glob("runs/*/result.json")
    }
    line += ["--out", str(tmp_path), "--protocol", protocol]
    done = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "offline"}
    )
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*line[:-1], "other"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "--protocol other judged none" in refused.stderr
    [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert begun(path).job_type == "report"
    [table] = path.parent.glob("files/media/table/report/runs*.json")
    assert len(json.loads(table.read_text())["data"]) == 2 * 4 * 2, (
        "two runs, four tasks, two heads"
    )
    view = json.loads((tmp_path / "workspace.json").read_text())
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    asked = {metric for config in panels for metric in config.get("metrics") or []}
    logged = {
        name
        for path in work.glob("*/*/wandb/offline-run-*/*.wandb")
        for row in rows(path)
        for name in row
    }
    assert {"steal/loss", "pretrain/loss"} <= asked & logged
    assert {name for name in asked if name.endswith("/SA")} <= logged
    tables = set(re.findall(r'"val(?:ue)?": "((?:report/|probes)[^"]*)"', json.dumps(view)))
    [pinned] = [runs["runFeed"]["columnPinned"] for runs in view["spec"]["section"]["runSets"]]
    config = config_in(evaluations(work)[0])
    for column in pinned:
        section, _, name = column.partition(":")
        if section == "config":
            top, _, rest = name.partition(".")
            value = {"value": config[top]}
            for part in rest.split("."):
                value = value[part]
    assert {name.partition(":")[2] for name in pinned if name.endswith("/linear/recovered")} == {
        f"eval/{task}/linear/recovered" for task in config["data"]["tasks"]
    }
    assert {"report/settings", "report/runs", "report/budgets_table", "probes"} <= tables, (
        json.dumps(panels)
    )
    logged |= set(rows(path)[-1])
    assert {f"{name}/nrows" for name in tables} <= logged


def test_the_charts_of_a_report_are_recorded_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = group_runs(
        [
            made_up(tmp_path, "g1", {"a": (0.6, 0.5, 0.3)}),
            made_up(tmp_path, "g2", {"a": (0.6, 0.4, 0.3)}, defense="topk"),
        ]
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    mode.cache_clear()
    place = record(
        charts(found, "linear"), "stealing", tmp_path / "out", "team", about(found, "linear")
    )
    wandb.teardown()  # wandb's own process writes the file, and has ended then
    [path] = place.glob("*.wandb")
    assert begun(path).entity == "team"
    assert sorted(config_in(path)["cells"]) == sorted(
        run.folder.name for one in found for run in one.runs
    )
    [frontier] = place.glob("files/media/table/report/frontier*.json")
    shown = {row[0]: row[1:] for row in json.loads(frontier.read_text())["data"]}
    drawn, _ = defended(found, "linear")
    assert shown == {
        point.name: pytest.approx([100 * point.loss, point.recovered]) for point in drawn
    }
    [curve] = place.glob("files/media/table/report/budgets*.json")
    rows_ = [(row[0], row[2]) for row in json.loads(curve.read_text())["data"]]
    assert rows_ == [(100, pytest.approx(2 / 3)), (100, pytest.approx(1 / 3))]
