"""Checkpoints that survive a kill at any moment, and the state that makes a resumed fit equal an uninterrupted one."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stealing.data.draws import Batch, generator
from stealing.errors import CheckpointError
from stealing.training.ranks import agreed, summed


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, flushes it, and keeps the previous one until the new one is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace `path`; the file that was there becomes `.prev`."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_suffix(".tmp")
        with temporary.open("wb") as handle:
            torch.save(checkpoint, handle)
            handle.flush()
            os.fsync(handle.fileno())
        if final.exists():
            os.replace(final, final.with_suffix(".prev"))
        os.replace(temporary, final)


def newest_readable(folder: Path) -> Path | None:
    """The checkpoint to resume from: `last.ckpt`, else the one before it, else None for a fresh start.

    Raises:
        CheckpointError: there are checkpoints and none can be read.
    """
    found = [path for path in (folder / "last.ckpt", folder / "last.prev") if path.exists()]
    for path in found:
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # a file cut short fails in as many ways as there are places to cut it
            continue
        return path
    if found:
        raise CheckpointError(f"No checkpoint in {folder} can be read: delete that folder to start this step afresh.")
    return None


class Last(Checkpoint):
    """Keeps `last.ckpt`, at most every `every` seconds, between two batches.

    The last batch of an epoch waits for the epoch's end: a checkpoint taken on it resumes in the old epoch.
    """

    def __init__(self, folder: Path, every: float) -> None:
        self.path, self.every, self.saved = folder / "last.ckpt", every, time.monotonic()

    def _save(self, trainer: L.Trainer) -> None:
        if agreed(time.monotonic() - self.saved >= self.every):  # all processes take part in it, or none
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save in mid-epoch."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        whole = progress.current.ready % trainer.accumulate_grad_batches == 0  # half an accumulation is not kept
        if whole and not progress.is_last_batch:
            self._save(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin an epoch where one had ended: Lightning would count the next batch as one more of the old epoch."""
        loop = trainer.fit_loop.epoch_loop
        if loop.batch_progress.current.completed >= trainer.num_training_batches:
            for progress in (loop.batch_progress, loop.scheduler_progress, loop.automatic_optimization.optim_progress):
                progress.reset_on_run()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save between epochs."""
        self._save(trainer)


class StepSeed(Callback):
    """Seeds the global generator at each step: dropout is a function of (seed, step, rank), not of what ran before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, _: int) -> None:
        """Seed for this batch."""
        place = (trainer.fit_loop.total_batch_idx, trainer.global_rank)
        torch.manual_seed(generator(self.seed, "global", *place).initial_seed())


class Clock(Callback):
    """Wall and processor seconds of a fit, summed over its interruptions; processor seconds over all processes too."""

    def __init__(self) -> None:
        self.before = {"seconds": 0.0, "cpu_seconds": 0.0}
        self.start = (time.monotonic(), time.process_time())

    @property
    def spent(self) -> dict[str, float]:
        """Seconds so far; what came after the checkpoint that was resumed is not in it. All processes must ask."""
        wall, cpu = time.monotonic() - self.start[0], summed(time.process_time() - self.start[1])
        return {"seconds": self.before["seconds"] + wall, "cpu_seconds": self.before["cpu_seconds"] + cpu}

    def state_dict(self) -> dict[str, Any]:
        """Kept in the checkpoint."""
        return self.spent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from the checkpoint."""
        self.before = dict(state_dict)
