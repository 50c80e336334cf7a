"""Randomness as a function of (seed, purpose, epoch, step), and batches that resume exactly.

In the middle of an epoch Lightning restores its counters, but not the position in the data. The
sampler here has no state: it reads these counters. So a resumed fit has the same batches and views
as an uninterrupted one. Several processes share each batch. Random numbers are drawn for the whole
batch, so that these processes have the same views as one process.

Shape letters: B images of a batch, or of one process's part of it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from stealing.data.images import Images
from stealing.seeds import derive_seed

CPU = torch.device("cpu")

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that the pixels of a fit may take; networks need the rest."""


def generator(*key: int | str) -> torch.Generator:
    """Return a generator on the CPU, a function of the key; other keys give independent numbers."""
    return torch.Generator().manual_seed(derive_seed(*key))


class RandomNumbers(Protocol):
    """Random numbers of one step, for the images of this process."""

    def uniform(self, columns: int) -> Tensor:
        """Return numbers in [0, 1), float32 (B, columns), on the device of the images."""
        ...


class BatchRandom(NamedTuple):
    """Random numbers for one process's part of a batch, drawn for the whole batch.

    Attributes:
        generator: of the batch.
        total: number of images of the whole batch.
        rows: the part.
    """

    generator: torch.Generator
    total: int
    rows: slice

    def uniform(self, columns: int) -> Tensor:
        """Return numbers in [0, 1), float32 (B, columns), on the CPU."""
        return torch.rand(self.total, columns, generator=self.generator)[self.rows]


class BatchIndices(NamedTuple):
    """Which images one process fetches of one batch.

    Attributes:
        epoch: number of the epoch.
        step: number of the batch in the epoch.
        first: row of the batch at which the part of this process begins.
        total: rows of the whole batch.
        indices: places of the images in the list, int64 (B,), on the device that holds the images.
        steps: number of batches in an epoch.
    """

    epoch: int
    step: int
    first: int
    total: int
    indices: Tensor
    steps: int

    def random(self, seed: int) -> BatchRandom:
        """Return random numbers for these images' views, a function of (seed, epoch, step)."""
        rows = slice(self.first, self.first + len(self.indices))
        return BatchRandom(generator(seed, "views", self.epoch, self.step), self.total, rows)


class Batch(NamedTuple):
    """The input of a training step.

    Attributes:
        images: uint8 (B, 3, H, W).
        draw: how they were drawn.
    """

    images: Tensor
    draw: BatchIndices


class ResumableBatchSampler(Sampler[BatchIndices]):
    """Shuffled batches of one size that begin where the trainer's counters are.

    The order of an epoch is a function of (seed, epoch). Each of several processes gets its own
    rows of every batch. A last batch that would be smaller is left out: BatchNorm and NT-Xent
    depend on the batch size. Last batches that would not fill an accumulation are left out too:
    Lightning would take a step on fewer.

    Args:
        trainer: its counters say where to begin.
        items: number of images in the list.
        batch_size: images of a batch over all processes.
        seed: of the order.
        device: of the places that a batch names.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        items: int,
        batch_size: int,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        self.trainer = trainer
        self.items = items
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def __len__(self) -> int:
        accumulated = self.trainer.accumulate_grad_batches
        steps = self.items // self.batch_size // accumulated
        return steps * accumulated

    def __iter__(self) -> Iterator[BatchIndices]:
        epoch, first = divmod(self.trainer.fit_loop.total_batch_idx + 1, len(self))
        # Every process draws the same order, and takes its own rows of each batch.
        order = torch.randperm(self.items, generator=generator(self.seed, "order", epoch))
        # once an epoch: a copy for each batch would make the device wait
        order = order.to(self.device)
        rows = self.batch_size // self.trainer.world_size
        offset = rows * self.trainer.global_rank
        for step in range(first, len(self)):
            start = step * self.batch_size + offset
            indices = order[start : start + rows]
            yield BatchIndices(epoch, step, offset, self.batch_size, indices, len(self))


class BatchDataset(torch.utils.data.Dataset[Batch]):
    """A list of images that returns a whole batch by one index operation on its memory map.

    Args:
        images: the list.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, draw: BatchIndices) -> Batch:
        return self.__getitems__(draw)

    def __getitems__(self, draw: BatchIndices) -> Batch:
        """Return a batch; the loader calls this with what the batch sampler yields."""
        return Batch(self.images.batch(draw.indices.numpy()), draw)


class ResidentDataset(BatchDataset):
    """A list of images whose pixels are on a device, where each batch is taken from them.

    Args:
        images: the list.
        device: where the pixels go, all of them, once.
    """

    def __init__(self, images: Images, device: torch.device) -> None:
        super().__init__(images)
        self.pixels = images.batch(slice(None)).to(device)

    def __getitems__(self, draw: BatchIndices) -> Batch:
        """Return a batch on the device; `draw.indices` are there, too."""
        return Batch(self.pixels[draw.indices], draw)


def fits(images: Images, device: torch.device) -> bool:
    """Return True if the images go to this GPU as a whole: see `RESIDENT_SHARE`."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    size = len(images) * images.pixels[0].nbytes
    return bool(size <= RESIDENT_SHARE * free)


def _identity(batch: Batch) -> Batch:
    """Replace PyTorch's collation: a batch is fetched whole."""
    return batch


class _LazyLoader(DataLoader[Batch]):
    """A loader that does not read the trainer's counters before the first batch.

    Lightning calls iter() before it restores its counters.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()  # a generator: its body runs at the first next()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position follows from the trainer's counters.

        Without this method Lightning warns that the position is lost.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class TrainingImages(L.LightningDataModule):
    """Shuffled batches of a list of images for one fit.

    Args:
        images: the list, on this machine.
        batch_size: images of a batch over all processes; a multiple of their number.
        seed: of the order.
    """

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images = images
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of batches.

        On a CPU, a batch is one index operation on images in memory, without workers. On a GPU, the
        pixels lie there if they fit. Otherwise one worker fetches batches ahead, into pinned
        memory, from which copies do not block.
        """
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        is_resident = fits(self.images, device)
        is_fetched_ahead = device.type == "cuda" and not is_resident
        sampler = ResumableBatchSampler(
            self.trainer,
            len(self.images),
            self.batch_size,
            self.seed,
            device if is_resident else CPU,
        )
        dataset = ResidentDataset(self.images, device) if is_resident else BatchDataset(self.images)
        return _LazyLoader(
            dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=_identity,  # type: ignore[arg-type]
            num_workers=1 if is_fetched_ahead else 0,
            pin_memory=is_fetched_ahead,
        )
