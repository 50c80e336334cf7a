"""Start the processes of a run, or join those of torchrun or SLURM; end them with the run.

The first process of a run starts the others before its first step, and they take all steps
together. Lightning would start them in each fit, by running the whole command again. Under a sweep
that is one sweep a process, and each with other choices. Here they start from the run's saved
choices, and stop if these differ.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import (  # type: ignore[attr-defined]
    PrefixStore,
    Store,
    TCPStore,
)

from stealing.errors import ConfigError, ProcessError
from stealing.training.distributed import barrier, detect

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: process 0 may send queries to a slow service alone."""

ANNOUNCED_AFTER = 30.0
"""Seconds after which a process that waits for the others to be started says so."""

MEETING = 3600.0
"""Seconds after which it waits no longer. Another machine may have to decode its images first."""

POLL = 0.1
"""Seconds between two looks at who is there."""

NAMED = 8
"""Most processes that one sentence names."""

LEAVING = 1.0
"""Seconds that a process which gives up waits for its last look to end."""

GRACE = 30.0
"""Seconds in which a collective operation may fail by itself after another process died."""

LOST_CONNECTION = (
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "remote process exited",  # NCCL's
)
"""Words of torch's errors about another process that is gone."""


@dataclass(frozen=True)
class _Place:
    """A process's place among those of a run.

    Attributes:
        rank: number of the process.
        world_size: number of all processes.
        device: number of the process on its machine.
        open_store: opens the store by which the processes meet. It waits for process 0.
        remedy: what to do if the others never come.
    """

    rank: int
    world_size: int
    device: int
    open_store: Callable[[], Store]
    remedy: str = "the command starts all processes; read what it printed, and run it again."


@contextmanager
def run_processes(
    count: int, accelerator: str, command: list[str], identity: str
) -> Iterator[None]:
    """Run the body in `count` processes, or in as many as torchrun or SLURM started.

    Args:
        count: processes on this machine, one a device.
        accelerator: `cpu` or `gpu`.
        command: starts another process; its number, the count and a port are appended.
        identity: of the run; processes with different ones stop.

    Raises:
        ConfigError: the processes have different choices.
        ProcessError: another process ended early.
    """
    environment = detect()
    if environment is not None:
        with _joined(_started_by(environment), accelerator, identity):
            yield
        return
    if count == 1:
        yield
        return
    store = TCPStore(
        "127.0.0.1", 0, count, is_master=True, wait_for_workers=False, timeout=PATIENCE
    )
    first = _Place(0, count, 0, lambda: store)
    with _children(count, command, store.port), _joined(first, accelerator, identity):
        yield


@contextmanager
def join_processes(
    number: int, count: int, port: int, accelerator: str, identity: str
) -> Iterator[None]:
    """Run the body as one of the processes that `run_processes` started.

    The process ends when the first one does, however that ends.
    """
    # a scheduler sends SIGTERM to all processes of a job: the first decides when all of them stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    open_store = partial(TCPStore, "127.0.0.1", port, count, is_master=False, timeout=PATIENCE)
    with _joined(_Place(number, count, number, open_store), accelerator, identity):
        yield


def _started_by(environment: ClusterEnvironment) -> _Place:
    """Return the place that torchrun or SLURM gave this process."""
    remedy = "start the command by torchrun on every machine."
    if isinstance(environment, SLURMEnvironment):
        remedy = (
            "start the command by srun, or ask SLURM for one task (--ntasks-per-node=1 --nodes=1)."
        )
    # torchrun's own process may be the server of the store
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_master = environment.global_rank() == 0 and not is_served
    address = (environment.main_address, environment.main_port)
    # it still holds what the processes wrote in earlier runs, and before torchrun restarted them
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"{attempt}/{next(_runs)}"

    def open_store() -> Store:
        return PrefixStore(prefix, _shared_store(*address, environment.world_size(), is_master))

    return _Place(
        environment.global_rank(),
        environment.world_size(),
        environment.local_rank(),
        open_store,
        remedy,
    )


_runs = itertools.count()
"""Numbers the runs of this process, which are the same in all processes."""


@cache
def _shared_store(address: str, port: int, size: int, is_master: bool) -> Store:
    """Return the store of all runs of these processes.

    It stays open between two runs: a process that is early would connect to the server of the last
    run, which then goes.
    """
    return TCPStore(
        address, port, size, is_master=is_master, wait_for_workers=False, timeout=PATIENCE
    )


@contextmanager
def _children(count: int, command: list[str], port: int) -> Iterator[None]:
    """Start the other processes of this machine, and end them with the body."""
    children: list[subprocess.Popen[bytes]] = []
    is_over = threading.Event()
    try:
        for number in range(1, count):
            child = subprocess.Popen(
                [*command, str(number), str(count), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C goes only to the first process
            )
            children.append(child)
            threading.Thread(target=_watch, args=(child, is_over), daemon=True).start()
        yield
    finally:
        is_over.set()
        for child in children:
            child.kill()
            child.wait()
            assert child.stdin is not None
            child.stdin.close()


def _watch(child: "subprocess.Popen[bytes]", is_over: threading.Event) -> None:
    """End this process if a child died and no collective operation failed: some wait for ever."""
    child.wait()
    if not is_over.wait(timeout=GRACE):
        print(
            "ProcessError: Another process of this run ended early; run the same command again.",
            file=sys.stderr,
        )
        os._exit(1)


def _follow_parent() -> None:
    sys.stdin.buffer.read()  # returns once the first process has closed its end
    os._exit(1)


@contextmanager
def _joined(place: _Place, accelerator: str, identity: str) -> Iterator[None]:
    """Meet the other processes, run the body, and part from them.

    Raises:
        ConfigError: the processes have different choices.
        ProcessError: another process ended early.
    """
    backend = "gloo"
    if accelerator == "gpu":
        torch.cuda.set_device(place.device)
        # gloo, too: objects and counts are exchanged from the CPU
        backend = "cpu:gloo,cuda:nccl"
    _meet(place, backend)
    try:
        identities: list[Any] = [None] * place.world_size
        dist.all_gather_object(identities, identity)
        if len(set(identities)) > 1:
            raise ConfigError(
                f"The {place.world_size} processes of this run were given different choices: start "
                "all by the same command."
            )
        yield
        barrier()
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST_CONNECTION):
            raise
        raise ProcessError(
            "Another process of this run ended early: read its message above."
        ) from None
    finally:
        dist.destroy_process_group()


class _Meeting:
    """One meeting of all processes, in a thread.

    No signal ends a wait inside torch, and Ctrl-C and SIGTERM must.

    Attributes:
        thread: ends when all processes are connected, or with an error.
        error: that error, or None.
        absent: numbers of the processes that are not here. At first it is process 0, which serves
            the store.
    """

    def __init__(self, place: _Place, backend: str) -> None:
        self.error: Exception | None = None
        self.absent = [0]
        self._is_over = threading.Event()
        self.thread = threading.Thread(target=self._meet, args=(place, backend), daemon=True)
        self.thread.start()

    def _meet(self, place: _Place, backend: str) -> None:
        try:
            store = place.open_store()
            store.set(_here(place.rank), "yes")
            self.absent = list(range(place.world_size))
            while self.absent:
                self.absent = [number for number in self.absent if not store.check([_here(number)])]
                if self.absent and self._is_over.wait(POLL):
                    return
            dist.init_process_group(
                backend,
                store=store,
                rank=place.rank,
                world_size=place.world_size,
                timeout=PATIENCE,
            )
        except Exception as error:
            self.error = error

    def leave(self) -> None:
        """End the thread, unless torch itself waits in it for process 0 or for a connection.

        It must not ask the store while Python ends: that would abort the process ("terminate called
        without an active exception"), as Python ends such threads inside torch's code.
        """
        self._is_over.set()
        self.thread.join(LEAVING)

    def awaited(self) -> str:
        """Return in words for whom this process waits."""
        numbers = [str(number) for number in self.absent]
        if not numbers:
            return "a connection to the others"
        if len(numbers) == 1:
            return f"process {numbers[0]}"
        more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        return f"processes {', '.join(numbers[:NAMED])}{more}"


def _here(number: int) -> str:
    """Return the key that a process writes into the store when it is here."""
    return f"{number} is here"


def _meet(place: _Place, backend: str) -> None:
    """Wait until all processes are here.

    Raises:
        ProcessError: they are not, after `MEETING` seconds.
    """
    meeting = _Meeting(place, backend)
    try:
        _await(meeting, place)
    finally:
        meeting.leave()


def _await(meeting: _Meeting, place: _Place) -> None:
    """Wait until a meeting has taken place; see `_meet`."""
    meeting.thread.join(ANNOUNCED_AFTER)
    me = f"Process {place.rank} of {place.world_size}"
    if meeting.thread.is_alive():
        print(
            f"{me} has waited {ANNOUNCED_AFTER:.0f} s for {meeting.awaited()}, and stops after "
            f"{MEETING / 60:.0f} minutes: {place.remedy}",
            file=sys.stderr,
            flush=True,
        )
        meeting.thread.join(MEETING - ANNOUNCED_AFTER)
    if meeting.thread.is_alive():
        raise ProcessError(
            f"{me} has waited {MEETING / 60:.0f} minutes for {meeting.awaited()} and stops: "
            f"{place.remedy}"
        )
    if meeting.error is not None:
        raise meeting.error
