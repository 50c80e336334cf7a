"""Run on a GPU all that only a GPU can show, the most wanted figure first.

    python benchmarks/card.py                 on a machine with a GPU: about ten minutes
    python benchmarks/card.py --small         the same steps on a CPU at debug size, as a test does

Each step is a command with a time limit of its own. Its output goes to a file of its name in the
output folder (`OUT`, else results/card), and its end and seconds to card.json. A step that fails or
takes too long does not stop the next one.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable

SMALL = [
    "experiment=debug",
    "pretrain.epochs=1",
    "attack.steps=8",
    "probe.resamples=50",
    "~data.tasks.plain_texture",
    "~data.tasks.scene_kind",
    "~data.tasks.plain_kind",
]
"""Overrides of a run that takes seconds on a CPU, most of them imports."""


@dataclass(frozen=True)
class Step:
    """One command of the list.

    Attributes:
        name: of its output.
        command: words.
        limit: seconds.
        kill_first: true to kill it when it has written its first checkpoint, and to run it again.
    """

    name: str
    command: list[str]
    limit: float
    kill_first: bool = False


def steps_of(is_small: bool, out: Path) -> list[Step]:
    """Return the steps in their order."""
    place = ["trainer=cpu", "trainer.threads=1"] if is_small else ["trainer=gpu"]
    small = SMALL if is_small else []
    speed = [PYTHON, "benchmarks/speed.py", "--out", str(out / "speed.json")]
    short = ["--seconds", "0.2", "--rounds", "1"] if is_small else ["--seconds", "3"]
    run = [PYTHON, "train.py", "logger=csv", *place]
    rows = ["steal"] if is_small else ["simclr", "steal_paper", "steal", "evaluate", "views"]
    judged = ["experiment=cifar10_gpu", "~data.tasks.mnist"]
    quick = ["experiment=quickstart"]
    # a CPU skips all of these tests
    replays = [PYTHON, "-m", "pytest", "-q", "tests/test_fast_step.py", "-k", "gpu"]
    first = [] if is_small else [Step("replays", replays, 120)]
    return [
        *first,
        Step("speed", [*speed, *short, *place, "--only", *rows], 240),
        Step("pretrain", [*run, *(small or judged), "until=pretrain", *graph(is_small)], 300),
        Step("quickstart", [*run, *(small or quick)], 180),
        Step(
            "resumed",
            [*run, *(small or quick), "seed=1", "trainer.checkpoint_seconds=0"],
            180,
            kill_first=True,
        ),
        Step("cifar10_gpu", [*run, *(small or judged), *graph(is_small)], 600),
    ]


def graph(is_small: bool) -> list[str]:
    """Return the override that a debug run lacks; the experiment has it."""
    return ["trainer.graph=true"] if is_small else []


def run(step: Step, out: Path, work: Path, limit: float) -> dict[str, Any]:
    """Run a step; return how it ended and how long it took."""
    log = out / f"{step.name}.log"
    env = {**os.environ, "STEALING_WORK": str(work)}
    start = time.monotonic()
    with log.open("ab") as file:
        if step.kill_first:
            killed = _kill_after_checkpoint(step, env, file, work, limit)
        code: int | None
        try:
            left = max(limit - (time.monotonic() - start), 1)
            done = subprocess.run(
                step.command, cwd=ROOT, env=env, stdout=file, stderr=file, timeout=left
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
    ended: dict[str, Any] = {
        "name": step.name,
        "code": code,
        "seconds": round(time.monotonic() - start, 1),
    }
    if step.kill_first:
        ended["killed_in_a_fit"] = killed
    return ended


def _kill_after_checkpoint(
    step: Step, env: dict[str, str], file: Any, work: Path, limit: float
) -> bool:
    """Start the command and kill it when a fit has a checkpoint; return False if none came."""
    before = set(work.rglob("last.ckpt"))
    process = subprocess.Popen(
        step.command, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True
    )
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < limit / 2:
        if set(work.rglob("last.ckpt")) - before:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return False


def main() -> None:
    """Run all steps within the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="on a CPU, at debug size")
    parser.add_argument("--seconds", type=float, default=560, help="for all steps together")
    typed = parser.parse_args()
    out = Path(os.environ.get("OUT", ROOT / "results" / "card"))
    work = Path(os.environ.get("STEALING_WORK", out / "work"))
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + typed.seconds
    ends: list[dict[str, Any]] = []
    for step in steps_of(typed.small, out):
        left = end - time.monotonic()
        if left < 5:
            break
        ends.append(run(step, out, work, min(step.limit, left)))
        print(ends[-1], flush=True)
        (out / "card.json").write_text(json.dumps({"steps": ends}, indent=1))
    for result in work.glob("runs/*/result.json"):
        (out / f"{result.parent.name[:60]}.json").write_bytes(result.read_bytes())
    sys.exit(0 if all(ended["code"] == 0 for ended in ends) else 1)


if __name__ == "__main__":
    main()
