"""Which of a run's processes this is, and what they do together; where there is one, every function does nothing.

Shape letters: B rows of this process, D feature width, W processes.
"""

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

T = TypeVar("T")


def found() -> ClusterEnvironment | None:
    """What torchrun or SLURM says about the processes that it started, or None where this is the only one.

    Raises:
        ConfigError: SLURM was asked for processes in a way that Lightning does not follow.
    """
    kinds: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)
    try:
        environments = [kind() for kind in kinds if kind.detect()]
    except RuntimeError as error:
        raise ConfigError(f"The SLURM job does not fit: {' '.join(str(error).split())}") from None
    return next((each for each in environments if each.world_size() > 1), None)


def world() -> int:
    """Number of processes of this run, W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 asks, writes and speaks."""
    if dist.is_initialized():
        return dist.get_rank()
    environment = found()
    return environment.global_rank() if environment else 0


def processes(devices: int) -> int:
    """How many this run has: as many as devices, or as torchrun or SLURM started."""
    environment = found()
    return environment.world_size() if environment else devices


def wait() -> None:
    """Until all processes are here."""
    agreed(None)


def agreed(value: T) -> T:
    """The first process's value, in all of them."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    found: T = box[0]
    return found


def summed(value: float) -> float:
    """The sum over all processes, in all of them."""
    total = torch.tensor(value, dtype=torch.float64)
    if world() > 1:
        dist.all_reduce(total)
    return float(total)


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process does the body alone; the others do it after, and find it done."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


class _Gather(torch.autograd.Function):
    """Rows of all processes, in their order; the gradient of each row is the sum over the processes that used it."""

    @staticmethod
    def forward(_: Any, rows_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(rows_BD) for _ in range(world())]
        dist.all_gather(parts, rows_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total.chunk(world())[rank()]


def gathered(rows_BD: Tensor) -> Tensor:
    """The rows of all processes, (W * B, D), with gradient; each has as many.

    A loss of them is the loss of the whole batch, in every process. Its gradient needs no factor: the backward pass
    sums it over the processes, and DistributedDataParallel divides that of the weights by their number.
    """
    if world() == 1:
        return rows_BD
    rows: Tensor = _Gather.apply(rows_BD)
    return rows
