"""Measure what waiting threads cost: training on a free machine, and beside busy processes.

    python benchmarks/threads.py    # two minutes on a free machine

OpenMP's threads spin by default while they wait for each other. Under OMP_WAIT_POLICY=PASSIVE, the
default of this project, they sleep. Each way of training is one process that waits for its turn.
Turns are interleaved, so that other work on the machine slows all ways equally. Figures are
medians. The weights are compared, too. Each row says how busy the machine was before it: on an idle
one, the load is below 1 before the first rows. Writes results/threads/{result.json,table.txt}.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch  # before `stealing`, which would set the policy in the worker that is to have none
from hydra import compose, initialize_config_dir

from stealing.config import to_dict
from stealing.data.sampling import generator
from stealing.encoders import build_encoder
from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
WAYS = (("1", None), ("2", None), ("2", "PASSIVE"))
"""Threads, and the policy of the process; with one thread there is no waiting."""

BUSY = (0, 1, 2)
"""Processes beside it that each keep a core busy."""

STEPS = 3
ROUNDS = 3
BATCH = 128


def train() -> str:
    """Take a few steps from the same start, and return the fingerprint of the weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        arch = to_dict(compose("train").arch)
    encoder = build_encoder(arch, seed=0).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    images = torch.rand(BATCH, 3, 32, 32, generator=generator("benchmark"))
    for _ in range(STEPS):
        loss = encoder(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.fingerprint


def work(threads: int) -> None:
    """Train once for each line of stdin; print wall seconds, CPU seconds and fingerprint."""
    torch.set_num_threads(threads)
    train()  # the first time allocates
    print("ready", flush=True)
    for _ in sys.stdin:
        wall = time.perf_counter()
        processor = time.process_time()
        fingerprint = train()
        print(time.perf_counter() - wall, time.process_time() - processor, fingerprint, flush=True)


@contextmanager
def worker(threads: str, policy: str | None) -> Iterator[subprocess.Popen[str]]:
    """Start a process that trains on demand, and end it with the body."""
    environment = dict(os.environ)
    for name in os.environ:
        if name.startswith(("OMP_", "GOMP_")):
            del environment[name]
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    line = [sys.executable, __file__, "--worker", threads]
    with subprocess.Popen(
        line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()  # it ends


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Start processes that compute without an end, and end them with the body."""
    # each ends with this script, however that ends
    program = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def turn(process: subprocess.Popen[str]) -> tuple[float, float, str]:
    """Let a worker train once; return wall seconds, CPU seconds and fingerprint."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    wall, processor, fingerprint = process.stdout.readline().split()
    return float(wall), float(processor), fingerprint


def measure() -> tuple[list[dict[str, Any]], bool]:
    """Return a row for each load and way, and whether both policies gave equal weights."""
    rows = list[dict[str, Any]]()
    prints = {way: set[str]() for way in WAYS}
    # all workers live throughout, so that each load of the machine is the same for all
    with ExitStack() as stack:
        workers = {way: stack.enter_context(worker(*way)) for way in WAYS}
        for count in BUSY:
            # before the busy processes start: what else runs here
            load = os.getloadavg()[0]
            taken = {way: list[tuple[float, float]]() for way in WAYS}
            with busy(count):
                for _ in range(ROUNDS):
                    for way, process in workers.items():
                        wall, processor, fingerprint = turn(process)
                        taken[way].append((wall, processor))
                        prints[way].add(fingerprint)
            for (threads, policy), seconds in taken.items():
                walls, processors = zip(*seconds, strict=True)
                row = {
                    "busy": count,
                    "load": round(load, 2),
                    "threads": int(threads),
                    "policy": policy or "none",
                    "wall": round(median(walls), 3),
                    "cpu": round(median(processors), 3),
                }
                rows.append(row)
                print(*row.values(), sep=" | ", flush=True)
    is_equal = prints[WAYS[1]] == prints[WAYS[2]] and len(prints[WAYS[1]]) == 1
    return rows, is_equal


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = ["busy processes  load before  threads  policy   wall s  CPU s"]
    for row in result["rows"]:
        start = f"{row['busy']:<14}  {row['load']:<11.2f}  {row['threads']:<7}  {row['policy']:<7}"
        lines.append(f"{start}  {row['wall']:<6.2f}  {row['cpu']:.2f}")
    hardware = result["hardware"]
    lines.append(f"equal weights whatever the policy: {'yes' if result['equal_weights'] else 'no'}")
    lines.append(f"{result['date']} {result['commit']} {hardware['cpu']} {hardware['cores']} cores")
    return "\n".join(lines) + "\n"


def main(out: Path) -> None:
    """Measure, write, and print."""
    rows, is_equal = measure()
    origin = provenance(2, 1)
    result = {"steps": STEPS, "batch": BATCH, "equal_weights": is_equal, "rows": rows, **origin}
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "table.txt").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", type=int, help="threads; used by the script itself")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "threads")
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker)
    else:
        main(chosen.out)
