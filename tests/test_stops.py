"""A stop is a stop: Ctrl-C and SIGTERM, in fits and outside of them, by real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, ROOT, Command
from safetensors.torch import load_file
from test_queries import IMAGES as QUERIES
from test_queries import door
from test_queries import target as local_target
from test_ranks import left
from test_resume import IMAGES, STEPS, equal, result_of, simclr, surrogate
from torch import Tensor

from stealing.data.sampling import TrainingImages
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.signals import Deferred, Stopped, stoppable
from stealing.training import launch
from stealing.training.fit import Recorder, Settings, fit

CODES = {signal.SIGINT: 1, signal.SIGTERM: 143}
SENTENCES = {
    signal.SIGINT: "Stopped: what was done is kept, and the same command resumes from there.",
    signal.SIGTERM: "Stopped by SIGTERM: what was done is kept, and the same command resumes from "
    "there.",
}


def trained(
    module: Any, folder: Path, *, accumulate: int = 1, stop: int | None = None, by: int = 0
) -> dict[str, Tensor]:
    """Weights after a fit that saves only if it is stopped; the signal comes in batch `stop`."""
    inner, count = module.training_step, [0]

    def step(batch: Any, batch_idx: int) -> Tensor:
        if count[0] == stop:
            os.kill(os.getpid(), by)
        count[0] += 1
        return inner(batch, batch_idx)

    module.training_step = step
    torch.manual_seed(torch.seed() % 2**32)  # another global state each time
    settings = Settings(checkpoint_seconds=3600, threads=1, accumulate=accumulate)
    batches = TrainingImages(IMAGES, 8, 5)
    fit(
        module,
        batches,
        folder,
        name="t",
        total_steps=STEPS,
        seed=3,
        settings=settings,
        recorder=Recorder(),
    )
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("by", CODES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("make", [simclr, surrogate])
def test_a_signal_in_any_batch_of_a_fit_writes_a_checkpoint_from_which_it_ends_in_the_same_bits(
    make: Callable[[], Any],
    accumulate: int,
    by: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also in the last batch of an epoch, amid an accumulation, and in the last batch of all."""
    whole = trained(make(), tmp_path / "whole", accumulate=accumulate)
    for stop in range(0, STEPS * accumulate, accumulate):
        folder = tmp_path / str(stop)
        with pytest.raises(SystemExit) as ended, stoppable():
            trained(make(), folder, accumulate=accumulate, stop=stop, by=by)
        assert ended.value.code == CODES[by]
        assert capsys.readouterr().err.splitlines()[-1] == SENTENCES[by]
        assert (folder / "last.ckpt").exists()
        assert equal(trained(make(), folder, accumulate=accumulate), whole), (
            f"stopped in batch {stop}"
        )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "as it was before"


def test_a_second_signal_does_not_wait() -> None:
    stop = Deferred()
    with pytest.raises(SystemExit) as ended, stoppable(), stop:
        _strike_twice(stop)
    assert ended.value.code == 143


def _strike_twice(stop: Deferred) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert stop.pending == signal.SIGTERM, "the first waits"
    signal.raise_signal(signal.SIGTERM)
    pytest.fail("the second was to end it")


def test_what_a_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stoppable(), Deferred() as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.pending is None
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("method", ["reserve", "store"])
def test_sigterm_amid_the_books_leaves_nothing_in_doubt(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes as the second request is being booked, or as the first answer is being stored."""
    inner = local_target()
    monkeypatch.setattr(inner, "images_a_request", 8)
    original = getattr(Ledger, method)
    calls = list[int]()

    def struck(self: Ledger, *args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == (2 if method == "reserve" else 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **options)

    monkeypatch.setattr(Ledger, method, struck)
    with pytest.raises(Stopped), _raising():
        door(tmp_path, inner=inner).ask(QUERIES[:20], "attacker/0", "attack")
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    row, _ = spendings(ledger)
    assert row.in_doubt == 0 and row.spent == row.stored in (8, 16) and find_faults(ledger) == []


@contextmanager
def _raising() -> Iterator[None]:
    """Let SIGTERM raise, as within a command, without the command's end."""
    with stoppable():
        ours = signal.getsignal(signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def started(script: Sequence[str], work: Path, **environment: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "OMP_NUM_THREADS": "1", "STEALING_WORK": str(work), **environment}
    return subprocess.Popen(
        [sys.executable, *script], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )


def wait_for(work: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    while not list(work.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.1)


IN_A_FIT = "targets/*/curve-000/metrics.csv"


def state_of(work: Path) -> tuple[str, str]:
    [path] = work.glob("runs/*/status.json")
    told = json.loads(path.read_text())
    return told["state"], told["step"]


@pytest.mark.parametrize(
    "by", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_command_that_is_stopped_in_a_fit_says_so_sets_its_status_and_exits_with_its_code(
    by: signal.Signals, tmp_path: Path
) -> None:
    process = started(["train.py", *DEBUG, "pretrain.epochs=100000"], tmp_path)
    wait_for(tmp_path, IN_A_FIT, process)
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    assert process.returncode == CODES[by]
    assert (
        said.splitlines()[-1] == SENTENCES[by]
        and said.count("Stopped") == 1
        and "Traceback" not in said
    )
    assert state_of(tmp_path) == ("stopped", "pretrain")
    assert list(tmp_path.glob("targets/*/last.ckpt")), "though a minute had not passed"


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_in_and_between_fits_ends_in_the_bits_of_an_uninterrupted_one(
    command: Command, tmp_path: Path
) -> None:
    points = {
        "decoding": "stealing.data.cache:_reserve:1",
        "the target's training": "stealing.pretraining.simclr:SimCLRModule.training_step:6",
        "storing": "stealing.queries.ledger:Ledger.store:1",
        "the surrogate's training": "stealing.attacks.surrogate:SurrogateModule.training_step:7",
        "the control's training": "stealing.pretraining.simclr:SimCLRModule.training_step:2",
        "judging": "stealing.evaluation.protocol:probe_predict:5",
    }
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    first = command("train.py", *DEBUG, f"paths.work={plain}")
    second = command(
        "tests/killed.py",
        *points.values(),
        "--",
        *DEBUG,
        f"paths.work={stopped}",
        KILL_BY="SIGTERM",
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (
        second.stderr.count(SENTENCES[signal.SIGTERM]) == len(points)
        and "Traceback" not in second.stderr
    )
    one, two = result_of(plain), result_of(stopped)
    assert (
        one["tasks"] == two["tasks"]
        and one["fidelity"] == two["fidelity"]
        and one["queries"] == two["queries"]
    )
    weights = sorted(path.relative_to(plain) for path in plain.glob("[st]*s/*/*.safetensors"))
    assert len(weights) == 4, "target, surrogate, adapter and control"
    for path in weights:
        assert equal(load_file(plain / path), load_file(stopped / path)), path
    ledger = Ledger(str(stopped / "ledger.sqlite"))
    assert find_faults(ledger) == [] and sum(row.in_doubt for row in spendings(ledger)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the first", "all"])
def test_sigterm_stops_a_run_of_two_processes_with_a_checkpoint_whether_one_gets_it_or_all(
    whom: str, tmp_path: Path
) -> None:
    process = started(["train.py", *DEBUG, "trainer=ddp_cpu", "pretrain.epochs=100000"], tmp_path)
    wait_for(tmp_path, IN_A_FIT, process)
    others = left(tmp_path)
    assert len(others) == 1
    for number in [*others, process.pid] if whom == "all" else [process.pid]:
        os.kill(number, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and said.splitlines()[-1] == SENTENCES[signal.SIGTERM], said
    assert state_of(tmp_path) == ("stopped", "pretrain") and list(
        tmp_path.glob("targets/*/last.ckpt")
    )
    assert left(tmp_path) == []


@pytest.mark.slow
def test_sigterm_stops_a_sweep_and_names_its_cell_stopped(tmp_path: Path) -> None:
    process = started(["train.py", "-m", *DEBUG, "pretrain.epochs=100000", "seed=0,1"], tmp_path)
    wait_for(tmp_path, IN_A_FIT, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and said.count(SENTENCES[signal.SIGTERM]) == 1, said
    line = [sys.executable, "-m", "stealing.report", "--status", str(tmp_path)]
    told = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1 and "1 stopped, 1 missing." in told.stdout, told.stdout


@pytest.mark.slow
def test_sigterm_stops_an_audit(tmp_path: Path) -> None:
    line = [
        "eval.py",
        "--config-name",
        "audit",
        *DEBUG,
        "target=zoo",
        "audit.budgets=[64]",
        "audit.defenses=[]",
    ]
    process = started([*line, "data.size=32", "attack.steps=100000"], tmp_path)
    wait_for(tmp_path, IN_A_FIT.replace("targets", "surrogates"), process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and said.splitlines()[-1] == SENTENCES[signal.SIGTERM], said
    assert state_of(tmp_path) == ("stopped", "steal")


SLURM = {
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_JOB_ID": "872",
    "SLURM_JOB_NAME": "x",
    "SLURM_NODELIST": "127.0.0.1",
}


WAITING = """
import stealing.training.launch as launch
from stealing.signals import stoppable
launch.ANNOUNCED_AFTER = 0.5
with stoppable(), launch.run_processes(1, "cpu", [], "x"):
    pass
"""


def test_a_batch_script_waits_half_a_minute_before_it_says_so() -> None:
    """The test below shortens the wait."""
    assert launch.ANNOUNCED_AFTER == 30


def test_a_batch_script_without_srun_says_what_it_waits_for_and_sigterm_ends_the_wait(
    tmp_path: Path,
) -> None:
    process = started(["-c", WAITING], tmp_path, **SLURM)
    try:
        assert process.stderr is not None
        told = process.stderr.readline()
        assert (
            told.startswith(
                "Process 0 of 2 has waited 0 s for process 1, and stops after 60 minutes"
            )
            and "start the command by srun" in told
        )
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert process.returncode == 143 and said.splitlines()[-1] == SENTENCES[signal.SIGTERM], (
            said
        )
    finally:
        process.kill()


def test_a_fit_in_a_slurm_job_never_queues_the_job_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would take SIGUSR1 for a request to do so, and pass over SIGTERM."""
    for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}).items():
        monkeypatch.setenv(name, value)
    module = simclr()
    inner = module.training_step
    seen = set[Any]()

    def step(batch: Any, batch_idx: int) -> Tensor:
        seen.add(signal.getsignal(signal.SIGUSR1))
        return inner(batch, batch_idx)

    module.training_step = step  # type: ignore[method-assign]
    trained(module, tmp_path)
    assert seen == {signal.SIG_DFL}
