"""Start the processes of a run, or join those that torchrun or SLURM started; they end when the run ends.

The first process of a run starts the others before its first step, and they all take every step together. Lightning
would start them in each fit, by running the whole command again: under a sweep that is one sweep a process, and other
choices in each of them. Here they start from the run's saved choices, and stop where these differ.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from stealing.errors import ConfigError, ProcessError
from stealing.training.ranks import found, rank, wait, world

PATIENCE = timedelta(days=2)
"""How long one process waits for another: the first may be asking a slow target, while the rest have nothing to do."""


class Joined(ClusterEnvironment):
    """What Lightning needs to know of processes that already speak with each other."""

    creates_processes_externally = True
    main_address = "127.0.0.1"  # asked for only by who still has to join
    main_port = 0

    @staticmethod
    def detect() -> bool:
        """Never by itself: it is given."""
        return False

    def world_size(self) -> int:
        """W."""
        return world()

    def set_world_size(self, size: int) -> None:
        """It is as it is."""

    def global_rank(self) -> int:
        """Of this process."""
        return rank()

    def set_global_rank(self, rank: int) -> None:
        """It is as it is."""

    def local_rank(self) -> int:
        """On this machine: the number of its device."""
        environment = found()
        return environment.local_rank() if environment else rank()

    def node_rank(self) -> int:
        """Of this machine."""
        environment = found()
        return environment.node_rank() if environment else 0

    @property
    def nodes(self) -> int:
        """Number of machines."""
        names = ("GROUP_WORLD_SIZE", "SLURM_NNODES")  # of torchrun and of SLURM
        return int(next((os.environ[name] for name in names if name in os.environ), 1)) if found() else 1


@contextmanager
def together(count: int, accelerator: str, command: list[str], identity: str) -> Iterator[None]:
    """Do the body in `count` processes, or in as many as torchrun or SLURM started.

    Args:
        count: processes on this machine, one a device.
        accelerator: `cpu` or `gpu`.
        command: starts another one; its rank, the count and a port are added.
        identity: of the run; processes with different ones stop.

    Raises:
        ConfigError: the processes were given different choices.
        ProcessError: another process ended before its time.
    """
    environment = found()
    if environment is None and count == 1:
        yield
        return
    children: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    if environment is not None:
        place = f"tcp://{environment.main_address}:{environment.main_port}"
        joining: dict[str, Any] = {"init_method": place}
        where, count = environment.global_rank(), environment.world_size()
    else:
        store = TCPStore("127.0.0.1", 0, count, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        for number in range(1, count):
            line = [*command, str(number), str(count), str(store.port)]
            child = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the first
            )
            children.append(child)
            threading.Thread(target=_watch, args=(child, over), daemon=True).start()
        joining, where = {"store": store}, 0
    local = environment.local_rank() if environment else 0
    try:
        with _joined(where, count, local, accelerator, identity, joining):
            yield
    finally:
        over.set()
        for child in children:
            child.kill()
            child.wait()
            assert child.stdin is not None
            child.stdin.close()


@contextmanager
def as_child(number: int, count: int, port: int, accelerator: str, identity: str) -> Iterator[None]:
    """The body as one of the processes that `together` started; it ends when the first does, however that ends."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    store = TCPStore("127.0.0.1", port, count, is_master=False, timeout=PATIENCE)
    with _joined(number, count, number, accelerator, identity, {"store": store}):
        yield


def _watch(child: "subprocess.Popen[bytes]", over: threading.Event) -> None:
    """End this process where a child died and no collective has noticed: some wait for it without an end."""
    child.wait()
    if not over.wait(timeout=30):
        print("ProcessError: Another process of this run ended early; run the same command again.", file=sys.stderr)
        os._exit(1)


def _follow_parent() -> None:
    sys.stdin.buffer.read()  # returns when the first process is gone and its end of the pipe is closed
    os._exit(1)


@contextmanager
def _joined(
    where: int, count: int, local: int, accelerator: str, identity: str, joining: dict[str, Any]
) -> Iterator[None]:
    if accelerator == "gpu":
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if accelerator == "gpu" else "gloo"
    dist.init_process_group(backend, rank=where, world_size=count, timeout=PATIENCE, **joining)
    try:
        identities: list[Any] = [None] * count
        dist.all_gather_object(identities, identity)
        if len(set(identities)) > 1:
            raise ConfigError(
                f"The {count} processes of this run were given different choices: start all by the same command."
            )
        yield
        wait()
    except RuntimeError as error:  # of the collectives: the connection to another process is closed
        if not _closed(error):
            raise
        raise ProcessError("Another process of this run ended early: what it said stands above.") from None
    finally:
        dist.destroy_process_group()


class Terminated(Callback):
    """Ends the process at once on SIGTERM, as Ctrl-C would; the same command goes on from the last checkpoint.

    Lightning answers it with a broadcast out of turn, which the other processes take for another of theirs.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handler; it puts back the one before its own when the fit ends."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _closed(error: RuntimeError) -> bool:
    signs = ("Connection closed", "Connection reset", "Broken pipe", "remote process exited")  # the last is NCCL's
    return any(sign in str(error) for sign in signs)
