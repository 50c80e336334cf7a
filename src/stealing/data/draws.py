"""Randomness as a function of (seed, purpose, epoch, step), and the batch sampler that resumes exactly by it.

Lightning restores its counters in mid-epoch but not the position in the data. The sampler here holds no state: it reads
those counters, so that a resumed fit sees the batches, and draws the views, that the uninterrupted one would have.
Several processes share each batch: what is drawn is drawn for the whole of it, so that they see what one would.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from stealing.data.images import Images
from stealing.seeds import derive_seed


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that is a pure function of the key, independent across keys."""
    return torch.Generator().manual_seed(derive_seed(*key))


class Dice(NamedTuple):
    """Random numbers of the `rows` of a batch of `total` images: drawn for all of it, as one process would."""

    generator: torch.Generator
    total: int
    rows: slice

    def uniform(self, columns: int) -> Tensor:
        """(B, columns) in [0, 1), float32 on the CPU."""
        return torch.rand(self.total, columns, generator=self.generator)[self.rows]


class Draw(NamedTuple):
    """One process's part of a batch to fetch.

    Attributes:
        epoch, step: where training stands.
        first, total: the part's first row in the batch, and the rows of the whole batch.
        indices: places of its images in the list, int64 (B,).
    """

    epoch: int
    step: int
    first: int
    total: int
    indices: Tensor

    def dice(self, seed: int) -> Dice:
        """For the views of these images, a function of (seed, epoch, step)."""
        drawn = generator(seed, "views", self.epoch, self.step)
        return Dice(drawn, self.total, slice(self.first, self.first + len(self.indices)))


class Batch(NamedTuple):
    """What a training step receives: images uint8 (B, 3, H, W), and how they were drawn."""

    images: Tensor
    draw: Draw


class Draws(Sampler[Draw]):
    """Shuffled batches of one size: an epoch's order depends on (seed, epoch), its start on the trainer's counters.

    Each of several processes gets its own rows of every batch. A last batch that would be smaller is left out:
    BatchNorm and NT-Xent depend on the size of the batch. So are last batches that would not fill an accumulation:
    Lightning would step on those that are there.
    """

    def __init__(self, trainer: L.Trainer, items: int, batch_size: int, seed: int) -> None:
        self.trainer, self.items, self.batch_size, self.seed = trainer, items, batch_size, seed

    def __len__(self) -> int:
        together = self.trainer.accumulate_grad_batches
        return self.items // self.batch_size // together * together

    def __iter__(self) -> Iterator[Draw]:
        epoch, first = divmod(self.trainer.fit_loop.total_batch_idx + 1, len(self))
        order = torch.randperm(self.items, generator=generator(self.seed, "order", epoch))
        rows = self.batch_size // self.trainer.world_size
        offset = rows * self.trainer.global_rank
        for step in range(first, len(self)):
            start = step * self.batch_size + offset
            yield Draw(epoch, step, offset, self.batch_size, order[start : start + rows])


class Fetch(torch.utils.data.Dataset[Batch]):
    """Fetches a whole batch with one index operation on the memory map."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, draw: Draw) -> Batch:
        return self.__getitems__(draw)

    def __getitems__(self, draw: Draw) -> Batch:
        """Called by the loader with what the batch sampler yields."""
        return Batch(self.images.batch(draw.indices.numpy()), draw)


def _as_fetched(batch: Batch) -> Batch:
    return batch


class _LazyLoader(DataLoader[Batch]):
    """Draws nothing before the first batch is asked for: Lightning calls iter() before it restores its counters."""

    def __iter__(self) -> Any:
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty: the position follows from the trainer's counters (this silences a warning that it is lost)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class TrainingImages(L.LightningDataModule):
    """Endless shuffled batches of a list of images for one fit.

    Args:
        images: the list, on this machine.
        batch_size: images a batch, over all processes, whose number divides it.
        seed: of the order.
    """

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed = images, batch_size, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches without workers: the images are in memory, and a batch is one index operation."""
        assert self.trainer is not None
        draws = Draws(self.trainer, len(self.images), self.batch_size, self.seed)
        return _LazyLoader(Fetch(self.images), batch_sampler=draws, collate_fn=_as_fetched)  # type: ignore[arg-type]
