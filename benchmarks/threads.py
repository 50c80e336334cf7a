"""What waiting threads cost: training of the narrow network, on a free machine and beside busy processes.

    python benchmarks/threads.py        # two minutes on a free machine; prints a table and what it ran on

OpenMP's threads spin by default while they wait for each other; under OMP_WAIT_POLICY=PASSIVE, the default of this
project, they sleep. Each way of training is one process that waits for its turn, and turns are interleaved, so that
other work on the machine meets all of them alike. Figures are medians. The weights are compared too.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import torch  # before `stealing`, which would set the policy in the worker that is to have none
from hydra import compose, initialize_config_dir

from stealing.config import plain
from stealing.data.draws import generator
from stealing.encoders import build_encoder
from stealing.provenance import provenance

CONF = Path(__file__).parents[1] / "conf"
WAYS = (("1", None), ("2", None), ("2", "PASSIVE"))
"""Threads, and the policy that the process is given; one thread waits for nobody."""

BUSY = (0, 1, 2)
"""Processes beside it that do nothing but keep a core busy."""

STEPS = 3
ROUNDS = 3
BATCH = 128


def train() -> str:
    """Take a few steps from the same start, and return the fingerprint of the weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        arch = plain(compose("train").arch)
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
    """Train once for each line of the standard input, and answer with wall seconds, CPU seconds and fingerprint."""
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
    """A process that trains on demand, ready."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    line = [sys.executable, __file__, "--worker", threads]
    with subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()  # it ends


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without an end, and end with the body."""
    program = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # it ends with this script, however that ends
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def turn(process: subprocess.Popen[str]) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds and fingerprint of one training."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    wall, processor, fingerprint = process.stdout.readline().split()
    return float(wall), float(processor), fingerprint


def main() -> None:
    """Measure, and print."""
    before = os.getloadavg()[0]
    print("busy processes | threads | policy | wall s | CPU s")
    prints = {way: set[str]() for way in WAYS}
    with ExitStack() as stack:
        workers = {way: stack.enter_context(worker(*way)) for way in WAYS}
        for count in BUSY:
            taken = {way: list[tuple[float, float]]() for way in WAYS}
            with busy(count):
                for _ in range(ROUNDS):
                    for way, process in workers.items():
                        wall, processor, fingerprint = turn(process)
                        taken[way].append((wall, processor))
                        prints[way].add(fingerprint)
            for (threads, policy), seconds in taken.items():
                wall = median(pair[0] for pair in seconds)
                processor = median(pair[1] for pair in seconds)
                print(f"{count} | {threads} | {policy or 'none'} | {wall:.2f} | {processor:.2f}", flush=True)
    print("equal weights whatever the policy:", prints[WAYS[1]] == prints[WAYS[2]] and len(prints[WAYS[1]]) == 1)
    origin = provenance(2, 1)
    print(origin["date"], origin["commit"], origin["hardware"]["cpu"], origin["hardware"]["cores"], "cores")
    print(f"load of the machine before: {before:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=int, help="threads; used by the script itself")
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker)
    else:
        main()
