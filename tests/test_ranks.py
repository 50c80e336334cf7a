"""Two real processes: they end where one does, under every launcher, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, ROOT, Command, stored
from pair import fits
from safetensors.torch import load_file
from test_resume import moved, result_of

pytestmark = pytest.mark.slow

TWO = (*DEBUG, "trainer=ddp_cpu")


def pair(folder: Path, *arguments: str, processes: int) -> int:
    """How tests/pair.py ended, in as many processes as torchrun starts."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    line = [
        sys.executable,
        *(torchrun if processes > 1 else []),
        "tests/pair.py",
        str(folder),
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True).returncode


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights of one process, and of two of which one was killed in mid-epoch and restarted."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    assert pair(one, processes=1) == 0
    assert pair(two, "7", processes=2) != 0, "killed in the first fit"
    assert not (two / "simclr.safetensors").exists()
    assert pair(two, processes=2) == 0
    return one, two


@pytest.mark.parametrize("name", sorted(fits()))
def test_two_processes_killed_and_resumed_end_in_the_weights_of_one(
    name: str, ended: tuple[Path, Path]
) -> None:
    one, two = (load_file(folder / f"{name}.safetensors") for folder in ended)
    start = fits()[name].state_dict()
    assert all((one[key] == start[key]).all() == (two[key] == start[key]).all() for key in one)
    assert moved(two, one) < 2e-3 * moved(one, start), "rounding alone, of twelve steps"
    if name.endswith("unnormed"):
        assert max((one[key] - start[key]).abs().max() for key in one) > 1e-3, (
            "they have learned something"
        )
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=2e-6, rtol=1e-5)


def test_a_contrast_over_two_processes_has_the_loss_and_gradient_of_one(
    ended: tuple[Path, Path],
) -> None:
    one, two = (load_file(folder / "contrast.safetensors") for folder in ended)
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-6, rtol=1e-6)


def test_in_a_step_processes_exchange_features_and_gradients_alone(
    ended: tuple[Path, Path],
) -> None:
    """No buffer, no object, and a vote on a checkpoint or a stop only once in many steps."""
    for number in range(2):
        counts = json.loads((ended[1] / f"traffic-{number}.json").read_text())
        votes = counts.pop("all_reduce_sum")
        assert 2 <= votes <= 20, "200 steps"
        assert set(counts.values()) <= {0}, counts


def left(work: Path) -> list[int]:
    """Processes whose command names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(work) in path.read_bytes().decode():
                found.append(int(path.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


def results(work: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((work / "runs").glob("*/result.json"))]


LAUNCHERS = {
    "basic": ["budget.images=64,128"],
    "joblib": ["hydra/launcher=joblib", "budget.images=64,128"],
    "submitit": ["hydra/launcher=submitit_local", "budget.images=64,128"],
    "optuna": [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize",
        "attack.optimizer.lr=interval(1e-4,1e-2)",
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_of_two_process_runs_works_under_every_launcher(
    launcher: str, command: Command, tmp_path: Path
) -> None:
    done = command("train.py", "-m", *TWO, *LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr
    work = tmp_path / "work"
    found = results(work)
    assert len(found) == 2, "one run a cell, not one a process"
    assert {result["hardware"]["processes"] for result in found} == {2}
    assert sorted(result["queries"]["spent"] for result in found) == (
        [128] * 2 if launcher == "optuna" else [64, 128]
    )
    assert len(list((work / "targets").iterdir())) == 1, (
        "cells that run side by side wait for one target"
    )
    assert stored(work) == 128 + max(result["queries"]["evaluation"] for result in found), (
        "one process asks, once"
    )
    assert left(work) == []


def test_two_processes_that_torchrun_started_give_the_run_that_our_own_give(
    command: Command, tmp_path: Path
) -> None:
    own = command("train.py", *TWO, f"paths.work={tmp_path / 'own'}")
    assert own.returncode == 0, own.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STEALING_WORK": str(tmp_path / "theirs")}
    line = [sys.executable, *torchrun, "train.py", *DEBUG]
    theirs = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert theirs.returncode == 0, theirs.stderr
    first, second = result_of(tmp_path / "own"), result_of(tmp_path / "theirs")
    assert first["tasks"] == second["tasks"] and first["queries"] == second["queries"]
    assert theirs.stdout.count("queries of") == 1, "one process speaks"


def environment_of(kind: str, number: int, work: Path) -> dict[str, str]:
    """What torchrun or SLURM would tell the process of this number, of two on one machine."""
    said = {
        "torchrun": {
            "RANK": number,
            "WORLD_SIZE": 2,
            "LOCAL_RANK": number,
            "LOCAL_WORLD_SIZE": 2,
            "GROUP_RANK": 0,
            "GROUP_WORLD_SIZE": 1,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": 29871,
            "TORCHELASTIC_RUN_ID": "x",
        },
        "slurm": {
            "SLURM_PROCID": number,
            "SLURM_NTASKS": 2,
            "SLURM_NTASKS_PER_NODE": 2,
            "SLURM_LOCALID": number,
            "SLURM_NODEID": 0,
            "SLURM_NNODES": 1,
            "SLURM_JOB_ID": 871,
            "SLURM_JOB_NAME": "x",
            "SLURM_NODELIST": "127.0.0.1",
        },
    }[kind]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "STEALING_WORK": str(work),
        **{k: str(v) for k, v in said.items()},
    }


def both(kind: str, work: Path, *arguments: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Two processes side by side, as this scheduler starts them, each with its own arguments."""
    started = [
        subprocess.Popen(
            [sys.executable, "train.py", *DEBUG, *own],
            cwd=ROOT,
            env=environment_of(kind, number, work),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, own in enumerate(arguments)
    ]
    ended = [(process, *process.communicate(timeout=120)) for process in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, out, err) for p, out, err in ended]


def test_two_processes_that_slurm_started_are_one_run(tmp_path: Path) -> None:
    first, second = both("slurm", tmp_path, ["until=query"], ["until=query"])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    [status] = (tmp_path / "runs").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "done"


def test_processes_with_different_choices_stop_and_say_so(tmp_path: Path) -> None:
    for done in both(
        "torchrun", tmp_path, ["attack.optimizer.lr=1e-3"], ["attack.optimizer.lr=2e-3"]
    ):
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            "ConfigError: The 2 processes of this run were given different"
        )
    assert list((tmp_path / "targets").glob("*")) == [], "nothing was trained"


MEETING = """
import stealing.training.launch as launch
from stealing.commands import one_line_errors
launch.ANNOUNCED_AFTER = 1
launch.MEETING = 4
with one_line_errors(), launch.run_processes(1, "cpu", [], "x"):
    print("met")
"""


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_processes_that_wait_say_for_whom_and_end(kind: str, absent: int, tmp_path: Path) -> None:
    present = 1 - absent
    environment = environment_of(kind, present, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEETING], env=environment, capture_output=True, text=True, timeout=90
    )
    said = [line for line in done.stderr.splitlines() if "rocess" in line]
    assert done.returncode == 1 and done.stdout == ""
    assert said[0].startswith(f"Process {present} of 2 has waited 1 s for process {absent}, and")
    assert said[-1].startswith(f"ProcessError: Process {present} of 2 has waited 0 minutes for")
    assert f"for process {absent} and stops: start the command by" in said[-1]
    assert "Traceback" not in done.stderr and "terminate called" not in done.stderr


def test_a_two_process_run_killed_in_two_fits_ends_in_the_result_of_an_uninterrupted_one(
    command: Command, tmp_path: Path
) -> None:
    arguments = [*TWO, "trainer.checkpoint_seconds=0"]
    points = [
        "stealing.pretraining.simclr:SimCLRModule.training_step:6",
        "stealing.attacks.surrogate:SurrogateModule.training_step:7",
        "stealing.queries.ledger:Ledger.store:2",
    ]
    plain = command("train.py", *arguments, f"paths.work={tmp_path / 'plain'}")
    killed = command(
        "tests/killed.py", *points, "--", *arguments, f"paths.work={tmp_path / 'killed'}"
    )
    assert plain.returncode == 0, plain.stderr
    assert killed.returncode == 0, killed.stderr
    first, second = result_of(tmp_path / "plain"), result_of(tmp_path / "killed")
    assert first["tasks"] == second["tasks"] and first["queries"] == second["queries"]
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("victim", "by"),
    [
        ("first", signal.SIGKILL),
        ("first", signal.SIGTERM),
        ("first", signal.SIGINT),
        ("other", signal.SIGKILL),
    ],
)
def test_neither_process_outlives_the_other(
    victim: str, by: signal.Signals, tmp_path: Path
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STEALING_WORK": str(tmp_path)}
    line = [sys.executable, "train.py", *TWO, "pretrain.epochs=100000"]
    first = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        while not list(tmp_path.glob("targets/*/curve-000/metrics.csv")):
            assert first.poll() is None
            time.sleep(0.2)
        [other] = left(tmp_path)
        os.kill(first.pid if victim == "first" else other, by)
        _, said = first.communicate(timeout=60)
        assert "terminate called" not in said
        if by == signal.SIGTERM:
            assert first.returncode == 143
        if victim == "other":
            assert first.returncode == 1 and "Traceback" not in said
            assert said.splitlines()[-1].startswith(
                "ProcessError: Another process of this run ended early"
            )
            [status] = tmp_path.glob("runs/*/status.json")
            assert json.loads(status.read_text())["state"] == "failed"
        end = time.monotonic() + 20
        while left(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        first.kill()
