"""Kill and stop runs at random moments inside both fits, resume each, and compare all bits.

Usage: python benchmarks/kills.py [--count 30] [--seed 0]

A blow is SIGKILL or SIGTERM at equal odds, in the target's training (SimCLR) and in the surrogate's
by turns. Each third run steals from a real service: it first loses requests, as it is killed
between asking and storing, and forfeits them (`budget.in_doubt=forfeit`), so that their images are
asked about again and counted twice. (A local target takes such requests back.) A blow after the end
of the fit does not count, and another is drawn. All runs are forks of this process, on drawn
images. They are compared with an undisturbed run of the same target. Prints a table, and writes all
blows to `results/hostile/kills.json`; the exit code is 1 if any bit differs, or if a service's run
forfeited nothing.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import stealing.attacks.steal
import stealing.pipeline
import stealing.pretraining.pretrain
from stealing.provenance import provenance
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from serving import Served, served  # noqa: E402

OUT = ROOT / "results" / "hostile" / "kills.json"

RUN = (
    "experiment=debug",
    "until=steal",
    "trainer.threads=1",
    "trainer.checkpoint_seconds=0.2",
    "pretrain.epochs=4",
    "attack.steps=30",
    "budget.in_doubt=forfeit",
)
"""A run whose fits take a second or two."""

REMOTE = ("target=service", "target.remote.wire.images_a_request=16", "target.remote.in_flight=2")
"""What a run takes that steals from the service; the service offers the target of such a run."""

FITS: dict[str, Any] = {"pretrain": stealing.pretraining.pretrain, "steal": stealing.attacks.steal}
"""The module that calls each fit by the name `fit`."""

MADE_BEFORE = {"pretrain": ("cache",), "steal": ("cache", "targets", "banks", "ledger.sqlite*")}
"""What a run has before the fit in which it is struck."""

ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}


@dataclass(frozen=True)
class Blow:
    """What happened to one run.

    Attributes:
        fit: in which it was struck.
        by: the signal.
        after: seconds from the start of the fit.
        forfeits: whether its target was a service, and it had lost requests before.
        failed: images that were given up.
        differs: files whose bits are not those of the run left alone, and faults of its ledger.
    """

    fit: str
    by: signal.Signals
    after: float
    forfeits: bool
    failed: int
    differs: list[str]


def ended(
    work: Path,
    prepare: Callable[[], None] = lambda: None,
    service: Served | None = None,
) -> int:
    """Do the run in a fork, after `prepare`; return its exit code, negative for a signal.

    Args:
        work: folder of its artefacts.
        prepare: called in the fork.
        service: whose encoder it steals; None to train a target of its own.
    """
    process = os.fork()
    if process == 0:
        os.chdir(ROOT)
        os.environ["STEALING_WORK"] = str(work)
        os.dup2(os.open(work.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        # another state in each fork: a fit must not depend on it
        torch.manual_seed(time.time_ns() % 2**32)
        prepare()
        sys.argv = ["train.py", *RUN]
        if service is not None:
            os.environ["STEALING_KEY"] = service.key
            sys.argv += [*REMOTE, f"target.remote.url={service.url}"]
        os._exit(code_of_train())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def code_of_train() -> int:
    """Run train.py in this process and return its exit code.

    It must not end the fork by itself: that would remove the parent's temporary folders.
    """
    code: Any = 0
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        print(code)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


def strike(fit: str, by: signal.Signals, after: float) -> None:
    """Send this process a signal some seconds after the fit begins, if it still runs then."""
    original = FITS[fit].fit

    def struck(*args: Any, **options: Any) -> Any:
        timer = threading.Timer(after, os.kill, (os.getpid(), by))
        timer.daemon = True
        timer.start()
        spent = original(*args, **options)
        timer.cancel()
        return spent

    FITS[fit].fit = struck


def lose_requests() -> None:
    """Kill this process once its fifth request is answered and not stored.

    The first requests are single images, which check that the service answers.
    """
    store = Ledger.store
    calls = 0

    def killed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return store(*arguments, **options)

    Ledger.store = killed  # type: ignore[method-assign]


def lengths(work: Path, service: Served | None = None) -> dict[str, float]:
    """Do an undisturbed run; return the seconds of each of its fits."""
    work.mkdir()
    fits = FITS if service is None else ("steal",)
    notes = {name: work.parent / f"{work.name}-{name}.seconds" for name in fits}

    def time_fits() -> None:
        for name, note in notes.items():
            FITS[name].fit = timed(FITS[name].fit, note)

    if ended(work, time_fits, service) != 0:
        sys.exit(work.with_suffix(".log").read_text())
    return {name: float(note.read_text()) for name, note in notes.items()}


def timed(original: Any, note: Path) -> Any:
    """Return a fit that also writes down its seconds."""

    def measured(*args: Any, **options: Any) -> Any:
        start = time.monotonic()
        spent = original(*args, **options)
        note.write_text(str(time.monotonic() - start))
        return spent

    return measured


def copy_made_before(fit: str, alone: Path, work: Path) -> None:
    """Copy what an undisturbed run had when this fit began."""
    for pattern in MADE_BEFORE[fit]:
        for source in alone.glob(pattern):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, work / source.name)


def struck_run(
    alone: Path,
    work: Path,
    fit: str,
    by: signal.Signals,
    after: float,
    service: Served | None,
) -> Blow | None:
    """Do a run that is struck once, and finish it; return None if the blow came too late."""
    work.mkdir()
    if service is None:
        copy_made_before(fit, alone, work)
    elif ended(work, lose_requests, service) != -signal.SIGKILL:
        sys.exit(work.with_suffix(".log").read_text())
    if ended(work, lambda: strike(fit, by, after), service) != ENDS[by]:
        return None
    if ended(work, service=service) != 0:
        sys.exit(work.with_suffix(".log").read_text())
    # equal weights are not enough: the ledger must have no fault, either
    ledger = Ledger(str(work / "ledger.sqlite"))
    failed = sum(row.failed for row in spendings(ledger))
    flaws = [*different(alone, work), *find_faults(ledger)]
    return Blow(fit, by, after, service is not None, failed, flaws)


def different(alone: Path, work: Path) -> list[str]:
    """Return the files of weights that do not hold the same numbers."""
    files = list[str]()
    for path in sorted(alone.glob("[st]*s/*/*.safetensors")):
        name = path.relative_to(alone)
        if not (work / name).exists():
            files.append(f"{name} is missing")
            continue
        one = load_file(path)
        two = load_file(work / name)
        if one.keys() != two.keys() or not all(torch.equal(one[key], two[key]) for key in one):
            files.append(str(name))
    return files


def blows(count: int, seed: int, folder: Path) -> list[Blow]:
    """Strike this many runs."""
    alone = folder / "alone"
    seconds = lengths(alone)
    [target] = alone.glob("targets/*/encoder.safetensors")
    with served(folder, encoder=target) as service:
        remote = folder / "alone-remote"
        seconds_remote = lengths(remote, service)
        times = ", ".join(f"{name} {length:.1f} s" for name, length in seconds.items())
        print(f"undisturbed: {times}; {seconds_remote['steal']:.1f} s from a service", flush=True)
        draw = random.Random(seed)
        landed = list[Blow]()
        tries = 0
        while len(landed) < count:
            number = len(landed)
            forfeits = number % 3 == 2
            fit = "steal" if forfeits or number % 2 else "pretrain"
            by = draw.choice(list(ENDS))
            after = draw.uniform(0, seconds[fit])
            tries += 1
            work = folder / f"struck-{tries}"
            if forfeits:
                blow = struck_run(remote, work, fit, by, after, service)
            else:
                blow = struck_run(alone, work, fit, by, after, None)
            shutil.rmtree(work)
            if blow is not None:
                landed.append(blow)
                tell(len(landed), blow)
    return landed


def tell(number: int, blow: Blow) -> None:
    """Print what one blow did."""
    what = "; ".join(blow.differs) or "same bits"
    lost = f", {blow.failed} images forfeited" if blow.forfeits else ""
    print(f"{number}: {blow.by.name} {blow.after:.2f} s into {blow.fit}{lost}: {what}", flush=True)


def table(landed: list[Blow]) -> str:
    """Count the runs by fit and signal."""
    lines = ["fit | signal | runs | of these with forfeited requests | with other bits"]
    for fit in FITS:
        for by in ENDS:
            own = [blow for blow in landed if blow.fit == fit and blow.by == by]
            forfeited = sum(blow.failed > 0 for blow in own)
            different = sum(bool(blow.differs) for blow in own)
            lines.append(f"{fit} | {by.name} | {len(own)} | {forfeited} | {different}")
    return "\n".join(lines)


def write(landed: list[Blow], seed: int, origin: dict[str, Any]) -> None:
    """Write what happened to each run, with the table of `table`."""
    happened = list[dict[str, Any]]()
    for blow in landed:
        after = round(blow.after, 2)
        happened.append({**asdict(blow), "by": blow.by.name, "after": after})
    facts = {**origin, "seed": seed, "table": table(landed).splitlines(), "blows": happened}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """Strike, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    # read now: somebody may edit the clone while the runs go on
    origin = provenance(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        landed = blows(chosen.count, chosen.seed, Path(folder))
    print(table(landed))
    write(landed, chosen.seed, origin)
    idle = any(blow.forfeits and not blow.failed for blow in landed)
    sys.exit(1 if idle or any(blow.differs for blow in landed) else 0)


if __name__ == "__main__":
    main()
