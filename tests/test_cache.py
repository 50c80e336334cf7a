"""The cache of features and predictions between processes: what one computes, no other one does."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from stealing.evaluation.cache import Arrays, compute_once

WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from stealing.evaluation.cache import compute_once

folder, name = Path(sys.argv[1]), sys.argv[2]
at_once, seconds = int(sys.argv[3]), float(sys.argv[4])
paths = [folder / f"{file}.safetensors" for file in sys.argv[5:]]

def compute(paths):
    for path in paths:
        with (folder / "log").open("a") as log:
            log.write(f"{name} {path.stem}\\n")
        time.sleep(seconds)
        yield path, {"a": np.frombuffer(path.stem.encode(), np.uint8)}

print("ready", flush=True)
sys.stdin.readline()
print([bytes(arrays["a"]).decode() for arrays in compute_once(paths, compute, at_once).values()])
"""


def worker(
    folder: Path, name: str, at_once: int, seconds: float, *files: str
) -> subprocess.Popen[str]:
    """A process that computes these files as soon as it gets a line."""
    line = [sys.executable, "-c", WORKER, str(folder), name, str(at_once), str(seconds), *files]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def log(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_log(folder: Path, lines: int) -> None:
    end = time.monotonic() + 60
    while len(log(folder)) < lines:
        assert time.monotonic() < end
        time.sleep(0.01)


SHARED = [f"shared{number}" for number in range(6)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_two_processes_compute_each_file_once_and_share_the_work(
    at_once: int, tmp_path: Path
) -> None:
    files = {name: [*SHARED, f"own_{name}"] for name in ("first", "second")}
    workers = [worker(tmp_path, name, at_once, 0.3, *files[name]) for name in files]
    for process in workers:
        go(process)
    for process, name in zip(workers, files, strict=True):
        printed, _ = process.communicate(timeout=120)
        assert sorted(eval(printed)) == sorted(files[name])
    computed = log(tmp_path)
    assert sorted(file for _, file in computed) == sorted({*files["first"], *files["second"]})
    for name in files:
        assert sum(who == name for who, _ in computed) >= 3, "neither waited for the other's end"


def one(path: Path, computed: list[Path]) -> Arrays:
    """Compute one file here, noting that it was."""

    def compute(paths: list[Path]) -> Iterator[tuple[Path, Arrays]]:
        for each in paths:
            computed.append(each)
            yield each, {"a": np.zeros(1)}

    return compute_once([path], compute)[path]


def test_a_process_that_is_killed_while_it_computes_does_not_block_the_next(tmp_path: Path) -> None:
    holder = worker(tmp_path, "holder", 1, 600, "a")
    go(holder)
    wait_for_log(tmp_path, 1)
    waiting = worker(tmp_path, "waiting", 1, 0, "a")
    go(waiting)
    time.sleep(0.5)
    assert len(log(tmp_path)) == 1 and waiting.poll() is None, "it waits for the holder"
    holder.kill()
    holder.wait()
    printed, _ = waiting.communicate(timeout=60)
    assert printed == "['a']\n" and log(tmp_path) == [["holder", "a"], ["waiting", "a"]]


def test_what_is_there_is_computed_no_more_and_what_fails_is_free_for_the_next(
    tmp_path: Path,
) -> None:
    computed: list[Path] = []
    path = tmp_path / "x.safetensors"

    def fail(paths: list[Path]) -> Iterator[tuple[Path, Arrays]]:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        compute_once([path], fail)
    assert one(path, computed)["a"].shape == (1,) and one(path, computed)["a"].shape == (1,)
    assert computed == [path]
    path.write_bytes(b"damaged")
    one(path, computed)
    assert computed == [path, path]


def test_what_was_stored_stays_if_the_process_ends_before_the_rest(tmp_path: Path) -> None:
    holder = worker(tmp_path, "holder", 2, 1.5, "a", "b")
    go(holder)
    wait_for_log(tmp_path, 2)
    holder.kill()
    holder.wait()
    computed: list[Path] = []
    one(tmp_path / "a.safetensors", computed)
    one(tmp_path / "b.safetensors", computed)
    assert [path.stem for path in computed] == ["b"]
