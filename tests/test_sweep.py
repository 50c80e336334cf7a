"""A sweep: cells that failed, are missing or were killed; and its report, in a real browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from browsing import look
from conftest import DEBUG, ROOT, Command, run_script, stored
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console

from stealing.artefacts import read_done, write_done
from stealing.config import cores_each
from stealing.errors import DataError
from stealing.report.comparisons import comparisons
from stealing.report.runs import find_runs, group_runs
from stealing.report.states import show
from stealing.report.summary import overview, paired_tests, tidy
from stealing.report.write import write
from stealing.sweeps.cells import Cell, cells

pytestmark = pytest.mark.timeout(1800)  # whole sweeps, of which one waits for the other

DATA = os.environ.get("STEALING_DATA", "")
CELLS = (
    "-m",
    "experiment=cifar10_sweep",
    "trainer.threads=1",
    "attack=stolen_encoder,conventional",
    "budget.images=128,256,512",
    "defense=none,topk",
    "seed=0,1",
    "budget.price=0.001",
    "~data.tasks.shapes_texture",
    "~data.tasks.tiny_other_classes",
)


def status(work: Path) -> subprocess.CompletedProcess[str]:
    return run_script(work, "-m", "stealing.report", "--status", str(work))


def test_a_failed_cell_lets_the_others_finish_and_is_told_of_at_the_end(
    command: Command, tmp_path: Path
) -> None:
    failing = ("-m", *DEBUG, "attack.batch_size=200,32", "budget.images=64", "until=query")
    done = command("train.py", *failing)
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stderr and "Traceback" not in done.stderr
    assert "set attack.batch_size=64 or a larger budget" in done.stderr
    [sweep] = (tmp_path / "work" / "sweeps").iterdir()
    assert [cell.state for cell in cells(sweep)] == ["failed", "done"]
    told = status(tmp_path / "work")
    assert (
        told.returncode == 1
        and "attack.batch_size=200" in told.stdout
        and "1 done, 1 failed." in told.stdout
    )
    [run] = (tmp_path / "work" / "runs").iterdir()
    shutil.rmtree(run)
    assert [cell.state for cell in cells(sweep)] == ["failed", "missing"]


def test_a_sweep_that_is_stopped_says_what_is_interrupted_and_what_never_began(
    tmp_path: Path,
) -> None:
    line = [sys.executable, "train.py", "-m", *DEBUG, "seed=0,1"]
    process = subprocess.Popen(line, cwd=ROOT, env={**os.environ, "STEALING_WORK": str(tmp_path)})
    while not list(tmp_path.glob("runs/*/status.json")):
        time.sleep(0.02)
    assert "1 running, 1 missing." in status(tmp_path).stdout
    process.kill()
    process.wait()
    told = status(tmp_path)
    assert told.returncode == 1 and "1 interrupted, 1 missing." in told.stdout, told.stdout


def test_a_matrix_has_a_row_for_what_varies_and_a_deletion_is_no_value() -> None:
    plan = [
        ("~data.tasks.plain_kind", f"seed={seed}", f"defense={name}")
        for seed in (0, 1)
        for name in ("none", "b4b")
    ]
    states, console = (
        ("done", "failed", "missing", "done"),
        Console(width=100, record=True, file=StringIO()),
    )
    show([Cell(words, state, None, "") for words, state in zip(plan, states, strict=True)], console)
    lines = [line.split() for line in console.export_text().replace("│", " ").splitlines()]
    assert ["0", "done", "failed"] in lines and ["1", "missing", "done"] in lines
    assert ["2", "done,", "1", "failed,", "1", "missing."] in lines and "plain_kind" not in str(
        lines
    )


def test_threads_are_what_the_machine_has_for_each_process() -> None:
    cores = len(os.sched_getaffinity(0))
    assert cores_each(1) == cores and cores_each(cores) == 1 and cores_each(10 * cores) == 1


@pytest.mark.parametrize(
    ("launcher", "threads"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 8),
        (
            {
                "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                "n_jobs": 4,
            },
            2,
        ),
        (
            {
                "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                "n_jobs": -1,
            },
            1,
        ),
        (
            {
                "_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
                "cpus_per_task": 3,
            },
            3,
        ),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}, 1),
        (
            {
                "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
                "ray": {"remote": {}},
            },
            1,
        ),
        (
            {
                "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
                "ray": {"remote": {"num_cpus": 4}},
            },
            4,
        ),
    ],
)
def test_threads_are_what_a_launcher_leaves_to_each_cell(
    launcher: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    multirun = OmegaConf.create({"mode": RunMode.MULTIRUN, "launcher": launcher})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: multirun)
    assert cores_each(1) == threads


def sweep(work: Path, kills: int) -> list[dict[Path, int]]:
    """Run the sweep to its end, its process group killed so often on the way.

    Returns what was done at each end, and when.
    """
    seen = []
    for number in range(kills + 1):
        env = {**os.environ, "STEALING_WORK": str(work), "OMP_NUM_THREADS": "1"}
        with (work.parent / f"{work.name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "train.py", *CELLS],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            while number < kills and process.poll() is None:
                if len(list(work.glob("runs/*/done.json"))) >= 6 * number + 3:
                    time.sleep(1.5 * number)  # another moment of a cell each time
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.05)
            process.wait()
        seen.append({path: path.stat().st_mtime_ns for path in work.glob("runs/*/result.json")})
    assert process.returncode == 0, (work.parent / f"{work.name}.log").read_text()[-2000:]
    return seen


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted sweep of 24 cells on real images, shared by workers."""
    if not DATA:
        assert os.environ.get("STEALING_REQUIRE_DATA") != "1", "STEALING_DATA has no images"
        pytest.skip("STEALING_DATA has no images")
    beside = "PYTEST_XDIST_WORKER" in os.environ
    root = tmp_path_factory.getbasetemp().parent if beside else tmp_path_factory.mktemp("swept")
    with FileLock(root / "swept.lock"):
        if not (root / "swept.done").exists():
            sweep(root / "whole", 0)
            (root / "swept.done").touch()
    return root / "whole"


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_as_one_that_was_not(swept: Path, tmp_path: Path) -> None:
    seen = sweep(tmp_path / "killed", 3)
    assert [len(done) for done in seen] == sorted({len(done) for done in seen}), (
        "each start went on"
    )
    assert len(seen[0]) >= 3 and len(seen[-1]) == 24
    for before in seen[:-1]:
        assert before.items() <= seen[-1].items(), "a finished cell ran again"
    whole, killed = (
        group_runs(find_runs([work / "runs"])) for work in (swept, tmp_path / "killed")
    )
    assert tidy(whole).equals(tidy(killed))
    assert overview(whole, "linear") == overview(killed, "linear") and len(whole) == 12
    assert paired_tests(comparisons(whole, "linear")) == paired_tests(comparisons(killed, "linear"))
    assert stored(swept) == stored(tmp_path / "killed"), "billed"


@pytest.mark.slow
def test_the_page_of_a_sweep_is_readable_in_a_browser_and_on_a_phone(
    swept: Path, browser: Any, tmp_path: Path
) -> None:
    [folder] = (swept / "sweeps").iterdir()
    page = write([folder], tmp_path / "report", "linear")
    tab = look(browser, page, tmp_path / "shots")
    look(browser, page, tmp_path / "shots", width=390)
    titles = [node.inner_text() for node in tab.query_selector_all("h2")]
    assert len(titles) == len(set(titles)) >= 10 and "What is missing?" not in titles
    table = pyarrow.parquet.read_table(tmp_path / "report" / "runs.parquet")
    assert (
        table.num_rows == 24 * 2 * 2 and (tmp_path / "report" / "runs.csv").stat().st_size > 5_000
    )
    assert "\\toprule" in (tmp_path / "report" / "tables.tex").read_text()
    named = set(re.findall(r"cifar10_tiny-\S+?-s\d-\w{16}", page.read_text()))
    assert named == {run.name for run in (swept / "runs").iterdir() if run.is_dir()}, (
        "each figure names its runs"
    )


@pytest.mark.slow
def test_missing_cells_are_shown_as_missing_and_protocols_are_not_mixed(
    swept: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(swept, work)
    [folder] = (work / "sweeps").iterdir()
    gone = sorted(path for path in (work / "runs").iterdir() if path.is_dir())[0]
    shutil.rmtree(gone)
    for named in ([folder], [work / "runs"]):  # the sweep of a folder of runs is known too
        page = write(named, tmp_path / "report", "linear").read_text()
        assert "What is missing?" in page and page.count('class="missing">missing<') == 1
    other = next(path for path in (work / "runs").glob("*/result.json"))
    other.write_text(other.read_text().replace('"protocol_hash": "', '"protocol_hash": "0'))
    facts = read_done(other.parent)
    assert facts is not None
    write_done(
        other.parent, files=list(facts.pop("files")), **facts
    )  # as a run under that protocol would
    with pytest.raises(DataError, match="judged by 2 protocols"):
        group_runs(find_runs([work / "runs"]))


@pytest.mark.slow
def test_a_sweep_that_an_experiment_asks_for_is_planned_too_and_its_settings_are_told_apart(
    command: Command, tmp_path: Path
) -> None:
    mine = tmp_path / "conf" / "experiment" / "twice.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "# @package _global_\ndefaults: [debug]\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {attack.steps: '5,10'}}}\n"
    )
    choices = ("experiment=twice", "trainer.threads=1", "seed=0,1", "defense=topk")
    done = command("train.py", "--config-dir", str(mine.parents[1]), "-m", *choices)
    assert done.returncode == 0, done.stderr
    [sweep] = (tmp_path / "work" / "sweeps").iterdir()
    assert [cell.state for cell in cells(sweep)] == ["done"] * 4
    found = group_runs(find_runs([sweep, tmp_path / "work" / "runs"]))
    assert [setting.name for setting in found] == [
        "stolen_encoder steps=10",
        "stolen_encoder steps=5",
    ]
    assert [setting.joined["seeds"] for setting in found] == [[0, 1]] * 2, "each run counts once"
    [test] = comparisons(found, "linear")
    assert test.seeds == 2 and (test.first, test.second) == (
        "stolen_encoder steps=10",
        "stolen_encoder steps=5",
    )
    assert test.both == "" and 0.0 <= test.p <= test.adjusted <= 1
