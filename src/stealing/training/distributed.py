"""The processes of a run: which one this is, and what they compute together.

With one process, every function returns its argument and waits for nothing. How processes start and
end is in `stealing.training.launch`.

Shape letters: B rows of this process, D feature width, W processes.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor

from stealing.errors import ConfigError
from stealing.text import printable

T = TypeVar("T")

ENVIRONMENTS: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)


def detect() -> ClusterEnvironment | None:
    """Return what torchrun or SLURM says about the processes that it started; None for one process.

    Raises:
        ConfigError: Lightning cannot work with the processes that SLURM was asked for.
    """
    try:
        environments = [kind() for kind in ENVIRONMENTS if kind.detect()]
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The SLURM job does not fit: {reason}") from None
    for environment in environments:
        if environment.world_size() > 1:
            return environment
    return None


def world_size() -> int:
    """Return the number of processes that have met, W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; process 0 sends queries, writes files and prints."""
    if dist.is_initialized():
        return dist.get_rank()
    environment = detect()
    return environment.global_rank() if environment else 0


def process_count(devices: int) -> int:
    """Return the run's number of processes: as torchrun or SLURM started, else one a device."""
    environment = detect()
    return environment.world_size() if environment else devices


def say(sentence: str) -> None:
    """Print one line on the standard error, only on process 0."""
    if rank() == 0:
        print(printable(sentence), file=sys.stderr, flush=True)


def barrier() -> None:
    """Wait until all processes are here."""
    broadcast(None)


def broadcast(value: T) -> T:
    """Return process 0's value in all processes."""
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    received: T = values[0]
    return received


def all_reduce_sum(value: float) -> float:
    """Return the sum over all processes, in all of them."""
    # float64: CPU seconds and counts must not be rounded to float32
    total = torch.tensor(value, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(total)
    return float(total)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the body on process 0 first; the others wait, then run it on what process 0 stored."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of the processes.

    The gradient of a row is the sum over all processes: each of them used the row.
    """

    @staticmethod
    def forward(_: Any, rows_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(rows_BD) for _ in range(world_size())]
        dist.all_gather(parts, rows_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def all_gather_with_grad(rows_BD: Tensor) -> Tensor:
    """Return the rows of all processes, (W * B, D), with gradient; B is the same in all processes.

    A loss of them is the loss of the whole batch, in every process. Its gradient needs no factor:
    the backward pass sums over the processes, and DistributedDataParallel divides the gradients of
    the weights by W.
    """
    if world_size() == 1:
        return rows_BD
    rows: Tensor = _Gather.apply(rows_BD)
    return rows


class MetProcesses(ClusterEnvironment):
    """Tells Lightning about processes that have met already.

    Given to a trainer, it also keeps Lightning from looking for SLURM, where it would queue the job
    again.
    """

    creates_processes_externally = True
    main_address = "127.0.0.1"  # Lightning reads both only for processes that have to meet
    main_port = 0

    @staticmethod
    def detect() -> bool:
        """Return False: Lightning never chooses it by itself."""
        return False

    def world_size(self) -> int:
        """Return W."""
        return world_size()

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number is fixed."""

    def global_rank(self) -> int:
        """Return the number of this process."""
        return rank()

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the number is fixed."""

    def local_rank(self) -> int:
        """Return the number of this process on its machine, which is that of its device."""
        environment = detect()
        return environment.local_rank() if environment else rank()

    def node_rank(self) -> int:
        """Return the number of this machine."""
        environment = detect()
        return environment.node_rank() if environment else 0

    @property
    def nodes(self) -> int:
        """The number of machines."""
        if detect() is None:
            return 1
        for name in ("GROUP_WORLD_SIZE", "SLURM_NNODES"):  # of torchrun and of SLURM
            if name in os.environ:
                return int(os.environ[name])
        return 1
