"""A sweep over processes that share one work folder and one ledger: through submitit, and on Ray.

Ray's launcher cannot be installed beside joblib's. `STEALING_RAY` names the folder of an
environment of its own, which is made if it is not there. Without it, the test on Ray is skipped.
"""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from conftest import ROOT, run_script

from stealing.queries.database import connect
from stealing.queries.schema import SCHEMA
from stealing.report.runs import find_runs, group_runs
from stealing.report.summary import tidy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CELLS = (
    "-m",
    "experiment=debug",
    "pretrain.epochs=1",
    "~data.tasks.plain_texture",
    "~data.tasks.scene_kind",
    "~data.tasks.plain_kind",
    "probe.resamples=50",
    "trainer.threads=1",
    "trainer.checkpoint_seconds=0",  # so that a cell can be killed in a fit
    "budget.images=64,128",
)
"""A sweep of two cells, which share a target and the answers to 64 images."""

LAUNCHERS = {
    "submitit": ("hydra/launcher=submitit_local",),
    "ray": (
        "hydra/launcher=ray",
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ),
}


@pytest.fixture(scope="module")
def ledgers() -> Iterator[str | None]:
    """The URL of a PostgreSQL server, or None without one: SQLite serves one machine."""
    if postgres.why_not():
        yield None
        return
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="module")
def ray_python() -> str:
    """The Python of the environment with Ray."""
    folder = os.environ.get("STEALING_RAY")
    if folder is None:
        pytest.skip("STEALING_RAY names no folder of an environment with Ray")
    python = Path(folder).absolute() / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[postgres,ray]"]
        subprocess.run(install, check=True)
    return str(python)


def start(work: Path, *overrides: str, python: str = sys.executable) -> subprocess.Popen[bytes]:
    """Start the sweep; its output goes to a file beside the work folder."""
    env = {**os.environ, "STEALING_WORK": str(work), "OMP_NUM_THREADS": "1"}
    # by default Ray's workers yield to all other work (15), and on a busy machine get no time
    env["RAY_worker_niceness"] = "0"
    env["RAY_AUTH_MODE"] = "disabled"  # else it writes a token into the home folder
    with work.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [python, "train.py", *CELLS, *overrides],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
        )


def ended(process: subprocess.Popen[bytes], work: Path) -> None:
    assert process.wait(600) == 0, work.with_suffix(".log").read_text()[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of the same sweep in one process, with a ledger of its own."""
    work = tmp_path_factory.mktemp("alone")
    done = run_script(work, "train.py", *CELLS)
    assert done.returncode == 0, done.stderr
    return work


def holder_of(lock: Path) -> int | None:
    """The process that has this file open, or None."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == lock:
                return int(descriptor.parts[2])
        except OSError:  # it ended meanwhile
            continue
    return None


def kill_a_cell_in_its_fit(sweep: subprocess.Popen[bytes], work: Path) -> str:
    """Kill the process of a cell that trains its surrogate; return the name of its run."""
    while True:
        assert sweep.poll() is None, work.with_suffix(".log").read_text()[-3000:]
        for path in work.glob("runs/*/status.json"):
            if json.loads(path.read_text())["step"] == "steal":
                process = holder_of(path.parent / ".lock")
                if process is not None:
                    os.kill(process, signal.SIGKILL)
                    return path.parent.name
        time.sleep(0.01)


def spent(ledger: str) -> dict[str, list[int]]:
    """By purpose: images that were paid for, and images whose answer is stored."""
    reader = connect(ledger, SCHEMA)
    found = dict[str, list[int]]()
    for purpose, paid in reader.read("SELECT purpose, sum(spent) FROM budgets GROUP BY purpose"):
        [(stored,)] = reader.read(
            "SELECT count(*) FROM queries WHERE purpose = ? AND state = 'stored' AND charged = 1",
            (purpose,),
        )
        found[purpose] = [int(paid), int(stored)]
    reader.close()
    return found


def check_sweep(work: Path, alone: Path, url: str | None, launcher: str, python: str) -> None:
    """Kill a cell of a sweep, start the sweep again, and compare it with one process."""
    ledger = str(work / "ledger.sqlite") if url is None else postgres.database(url)
    overrides = (*LAUNCHERS[launcher], f'paths.ledger="{ledger}"')
    process = start(work, *overrides, python=python)
    killed = kill_a_cell_in_its_fit(process, work)
    code = process.wait(600)
    if launcher == "submitit":  # Ray starts the cell again by itself
        assert (
            code == 1 and "The process of a cell was killed" in work.with_suffix(".log").read_text()
        )
    [other] = [path for path in work.glob("runs/*-s0-*") if path.name != killed]
    while not (other / "done.json").exists():  # the cells of submitit outlive the command
        time.sleep(0.1)
    before = (other / "result.json").stat().st_mtime_ns
    ended(start(work, *overrides, python=python), work)
    assert (other / "result.json").stat().st_mtime_ns == before, "a finished cell ran again"
    assert len(list((work / "targets").iterdir())) == 1
    both = [tidy(group_runs(find_runs([folder / "runs"]))) for folder in (alone, work)]
    assert both[0].equals(both[1]), "the table of one process"
    paid = spent(ledger)
    assert paid["attack"] == [128, 128], "the largest budget is paid for, and no answer twice"
    assert paid == spent(str(alone / "ledger.sqlite"))


def test_a_sweep_through_submitit_ends_as_one_process_does(
    tmp_path: Path, alone: Path, ledgers: str | None
) -> None:
    check_sweep(tmp_path / "work", alone, ledgers, "submitit", sys.executable)


def test_a_sweep_on_a_ray_cluster_of_two_workers_ends_as_one_process_does(
    tmp_path: Path, alone: Path, ledgers: str | None, ray_python: str
) -> None:
    check_sweep(tmp_path / "work", alone, ledgers, "ray", ray_python)
