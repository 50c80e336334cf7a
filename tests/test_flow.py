"""The whole flow as a user runs it: one command, its table and files, and what a second command
does not do again."""

import json
import os
import pty
import time
from pathlib import Path
from typing import Any

import pytest
import surface
import torch
from conftest import DEBUG, Command, choose, run_script, stored

from stealing import load_surrogate
from stealing.encoders import load_encoder
from stealing.forecast import expected_seconds
from stealing.preflight import measured, open_run_data


def only(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def files(work: Path, *kinds: str) -> dict[str, int]:
    """When each file was written."""
    found = [path for kind in kinds for path in (work / kind).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(work)): path.stat().st_mtime_ns
        for path in found
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder and the output of one finished debug run."""
    work = tmp_path_factory.mktemp("finished")
    done = run_script(work, "train.py", *DEBUG)
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_a_run_ends_with_its_table_and_says_what_it_wrote(finished: tuple[Path, str]) -> None:
    work, output = finished
    path = only(work, "runs/*/result.json")
    assert str(path) in output
    assert "Attack: 128 queries of 128 allowed" in output
    result: dict[str, Any] = json.loads(path.read_text())
    counted = {"budget": 128, "spent": 128, "images": 128, "in_doubt": 0, "cost": 0}
    assert counted.items() <= result["queries"].items()
    steps = {"pretrain", "query", "steal", "control", "evaluate"}
    assert set(result["seconds"]) == steps == set(result["cpu_seconds"])
    for task, heads in result["tasks"].items():
        for head in ("linear", "knn"):
            row = heads[head]
            assert row["TA"] == row["TA_clean"], "without a defense the two are one measurement"
            assert row["ratio"] == pytest.approx(row["SA"] / row["TA"])
            assert f"{row['SA']:.3f}" in output
            assert task in output
    for name, folder in result["artefacts"].items():
        assert (work / folder).is_dir(), name
    assert json.loads((path.parent / "status.json").read_text())["state"] == "done"
    assert (
        len((work / result["artefacts"]["surrogate"] / "curves.csv").read_text().splitlines()) > 1
    )
    surrogate = load_surrogate(path.parent)
    target, _ = load_encoder(work / result["artefacts"]["target"] / "encoder.safetensors")
    assert surrogate(torch.rand(2, 3, 32, 32)).shape == (2, target.feature_dim)


def test_a_result_has_every_key_that_users_rely_on_and_no_other(
    finished: tuple[Path, str],
) -> None:
    work, _ = finished
    result = json.loads(only(work, "runs/*-s0-*/result.json").read_text())
    assert surface.absent(result) == [], "keys are added and never renamed: docs/files.md"
    documented = {key.partition(".")[0] for key in surface.result_keys()}
    assert set(result) <= documented, "write the new key into docs/files.md"


def test_the_same_command_again_does_nothing_and_shows_the_same_table(
    finished: tuple[Path, str], command: Command
) -> None:
    work, output = finished
    before = files(work, "targets", "banks", "surrogates", "runs", "cache")
    again = command("train.py", *DEBUG, f"paths.work={work}")
    assert again.returncode == 0
    assert again.stdout == output
    assert files(work, "targets", "banks", "surrogates", "runs", "cache") == before


def test_a_sweep_trains_the_target_once_buys_each_answer_once_and_skips_what_is_finished(
    command: Command, tmp_path: Path
) -> None:
    sweep = ["-m", *DEBUG, "budget.images=32,64,128"]
    first = command("train.py", *sweep)
    assert first.returncode == 0, first.stderr
    work = tmp_path / "work"
    results = {}
    for path in (work / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        results[result["queries"]["spent"]] = result
    assert sorted(results) == [32, 64, 128], "each cell states its own spending"
    assert len(list((work / "targets").iterdir())) == 1
    assert len({result["artefacts"]["surrogate"] for result in results.values()}) == 3
    evaluated = results[128]["queries"]["evaluation"]
    assert stored(work) == 128 + evaluated, "the largest budget was bought, and nothing twice"
    before = files(work, "targets", "banks", "surrogates", "runs")
    assert command("train.py", *sweep).returncode == 0
    assert files(work, "targets", "banks", "surrogates", "runs") == before


def test_two_seeds_are_joined_into_one_table(finished: tuple[Path, str], command: Command) -> None:
    work, _ = finished
    done = command("train.py", *DEBUG, "seed=1", f"paths.work={work}")
    assert done.returncode == 0, done.stderr
    assert "seeds 0, 1" in done.stdout
    joined = json.loads(only(work, "runs/*-seeds-*.json").read_text())
    single = [
        json.loads(path.read_text()) for path in sorted(work.glob("runs/*-s[01]-*/result.json"))
    ]
    rows = [result["tasks"]["scene_kind"]["linear"]["SA"] for result in single]
    assert joined["tasks"]["scene_kind"]["linear"]["SA"] == pytest.approx(sum(rows) / 2)


def test_a_plan_names_queries_cost_and_time_and_makes_nothing(
    command: Command, tmp_path: Path
) -> None:
    plan = command("train.py", *DEBUG, "plan_only=true", "budget.price=0.5")
    assert plan.returncode == 0, plan.stderr
    assert "128 images, cost 64.00" in plan.stdout
    assert "Expected seconds" in plan.stdout
    assert not any(
        (tmp_path / "work" / name).exists() for name in ("targets", "banks", "surrogates", "runs")
    )


def test_a_plan_forecasts_what_the_run_took_within_a_factor_of_two(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = finished
    path = min(work.glob("runs/*-s0-*/result.json"), key=lambda path: path.stat().st_mtime)
    # other work on the machine does not count
    taken = json.loads(path.read_text())["cpu_seconds"]
    monkeypatch.setattr("stealing.timing.clock", time.process_time)
    config = choose(*DEBUG, f"paths.work={work}")
    data = open_run_data(config)
    expected = expected_seconds(config, data, measured(config, data))
    assert set(expected) == set(taken)
    assert 0.5 < sum(expected.values()) / sum(taken.values()) < 2, (expected, taken)


def test_eval_judges_a_finished_run_under_another_protocol_without_training_or_asking(
    finished: tuple[Path, str], command: Command
) -> None:
    work, _ = finished
    folder = only(work, "runs/*-s0-*")
    before = files(work, "targets", "banks", "surrogates")
    done = command("eval.py", f"run={folder}", "probe.neighbours=3", f"paths.work={work}")
    assert done.returncode != 0, "a run knows its own work folder: paths are no choice of eval.py"
    done = command("eval.py", f"run={folder}", "probe.neighbours=3")
    assert done.returncode == 0, done.stderr
    hashes = {
        json.loads(path.read_text())["protocol_hash"]
        for path in work.glob("runs/*-s0-*/result.json")
    }
    assert len(hashes) == 2
    assert files(work, "targets", "banks", "surrogates") == before


def test_eval_judges_what_a_run_stole_as_the_run_did_and_on_tasks_and_heads_that_are_named(
    finished: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    work, _ = finished
    folder = next(path.parent for path in work.glob("runs/*-s0-*/result.json"))
    done = command("eval.py", f"surrogate={folder}", "tasks=[scene_kind]", "heads=[linear]")
    assert done.returncode == 0, done.stderr
    [(task, heads)] = json.loads(done.stdout)["tasks"].items()
    told = json.loads((folder / "result.json").read_text())["tasks"]["scene_kind"]["linear"]["SA"]
    assert task == "scene_kind" and heads["linear"]["accuracy"] == pytest.approx(told, abs=0.01)
    wrong = command("eval.py", f"surrogate={tmp_path}")
    assert wrong.returncode == 1 and "is not a judged run's folder: name one of" in wrong.stderr
    half = command("eval.py", f"surrogate={folder}", "probe.neighbours=3")
    assert half.returncode == 1 and "add probe=... to choose the whole" in half.stderr


def test_a_ledger_that_cannot_be_opened_is_one_sentence_and_a_failed_run(
    command: Command, tmp_path: Path
) -> None:
    done = command("train.py", *DEBUG, f"paths.ledger={tmp_path}")
    assert done.returncode == 1 and "LedgerError" in done.stderr and "Traceback" not in done.stderr
    [status] = (tmp_path / "work").glob("runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"


def test_a_loss_that_is_no_number_stops_with_one_sentence(command: Command) -> None:
    done = command("train.py", *DEBUG, "attack.optimizer.lr=1e9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "TrainingError: The loss of 'steal' is no longer a number"
    )
    assert "Traceback" not in done.stderr


def test_wandb_without_an_account_writes_offline_and_never_asks_even_on_a_terminal(
    command: Command, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    done = command(
        "train.py", *DEBUG, "logger=wandb", stdin=theirs, HOME=str(tmp_path), WANDB_API_KEY=""
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "work").glob("*/*/wandb/offline-run-*"))
    assert len(runs) == 4, "target, surrogate, control and evaluation"


def test_trainer_choices_reach_the_fits_and_are_written_on_the_card(
    command: Command, tmp_path: Path
) -> None:
    choices = {"precision": "bf16-mixed", "accumulate": 2, "clip": 0.5}
    settings = [f"trainer.{name}={value}" for name, value in choices.items()]
    done = command("train.py", *DEBUG, *settings, "attack.ema=0.9", "until=steal")
    assert done.returncode == 0, done.stderr
    assert json.loads(only(tmp_path / "work", "runs/*/status.json").read_text())["state"] == "done"
    made = json.loads(only(tmp_path / "work", "surrogates/*/encoder.json").read_text())[
        "provenance"
    ]
    assert choices.items() <= made.items() and made["attack"]["ema"] == 0.9


@pytest.mark.slow
def test_the_papers_experiment_runs_a_few_steps_without_its_data(
    command: Command, tmp_path: Path
) -> None:
    tasks = [f"~data.tasks.{name}" for name in ("scene_texture", "plain_texture", "plain_kind")]
    sizes = ["size=16", "pretrain.count=32", "queries.count=100"]
    sizes += ["tasks.scene_kind.train.count=50", "tasks.scene_kind.test.count=30"]
    short = [
        "pretrain.epochs=1",
        "pretrain.batch_size=16",
        "control.batch_size=16",
        "budget.images=16",
        "attack.batch_size=16",
        "attack.epochs=1",
        "probe.mlp.epochs=2",
        "probe.linear.penalties=[0.1]",
    ]
    small = [
        "data=shapes",
        "trainer=cpu",
        "logger=csv",
        *tasks,
        *(f"data.{size}" for size in sizes),
        *short,
    ]
    once = ["attack=stolen_encoder_paper", "seed=0"]
    done = command("train.py", "-m", "experiment=cifar10_paper", *small, *once)
    assert done.returncode == 0, done.stderr
    result = json.loads(only(tmp_path / "work", "runs/*/result.json").read_text())
    assert set(result["tasks"]["scene_kind"]) == {"role", "linear", "knn", "mlp"}


def test_the_papers_experiments_have_its_networks_recipe_and_numbers_of_images() -> None:
    for name, images in (("cifar10", 2500), ("stl10", 5250), ("food101", 4545)):
        config = choose(f"experiment={name}_paper")
        assert config.budget.images == images and config.data.tasks[name].role == "own"
        assert (config.target_arch.backbone.name, config.arch.backbone.name) == (
            "resnet18",
            "resnet34",
        )
        assert config.attack.pairing.view_weight == 20 and config.probe.mlp.epochs == 500
