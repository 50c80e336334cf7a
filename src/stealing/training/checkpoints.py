"""Checkpoints that survive a kill: a running fit in, files that resume it exactly out."""

import math
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stealing.artefacts import replacing
from stealing.data.sampling import Batch, generator
from stealing.errors import CheckpointError
from stealing.provenance import peak_memory
from stealing.signals import Deferred, Stopped
from stealing.training.distributed import all_reduce_sum, rank, world_size

VOTE_EVERY = 1.0
"""Seconds between two votes of several processes on a checkpoint or a stop.

A stop takes effect after so many seconds, or after one batch if that takes longer.
"""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it, and keeps the previous checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replace `path`; the file that was there becomes `.prev`."""
        final = Path(path)
        with replacing(final, previous=final.with_suffix(".prev")) as handle:
            torch.save(checkpoint, handle)


def newest_readable(folder: Path) -> Path | None:
    """Return the checkpoint to resume from: `last.ckpt`, else `last.prev`, else None.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    paths = [folder / "last.ckpt", folder / "last.prev"]
    present = [path for path in paths if path.exists()]
    for path in present:
        if _is_whole(path):
            return path
        if rank() == 0:
            print(f"{path} is damaged (checksum): it is passed over.", file=sys.stderr, flush=True)
    if present:
        raise CheckpointError(
            f"No checkpoint in {folder} can be read: delete that folder to start this step afresh."
        )
    return None


def _is_whole(path: Path) -> bool:
    """Return True if a checkpoint can be read and each tensor has its checksum."""
    try:
        # a checkpoint is a zip archive with a CRC-32 of each tensor, which torch does not compare
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a file cut short fails in as many ways as there are places to cut it
        return False
    return True


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` between two batches: every `every` seconds, and before a stop.

    After the last batch of an epoch it waits for the epoch's end: Lightning would resume a
    checkpoint of that moment in the old epoch.

    Several processes vote, because saving is collective. They do so every few batches: process 0
    says after each vote how many there are until the next one.

    Args:
        folder: of the checkpoint.
        every: seconds.
        stop: holds back Ctrl-C and SIGTERM while the fit runs.
    """

    def __init__(self, folder: Path, every: float, stop: Deferred) -> None:
        self.path = folder / "last.ckpt"
        self.every = every
        self.stop = stop
        self.saved = time.monotonic()
        self._voted = self.saved
        self._interval = 1  # moments between two votes
        self._moments = 0  # since the last vote

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from Lightning; correct its counters if an epoch was complete."""
        # Lightning ends a fit on SIGTERM without a checkpoint, and with exit code 0
        self.stop.take_over()
        # Lightning 2.6 broadcasts before each batch whether it got SIGTERM, and waits for the GPU
        loop = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = _no_vote  # type: ignore[method-assign]
        loop = trainer.fit_loop.epoch_loop
        if loop.batch_progress.current.completed >= trainer.num_training_batches:
            # the old epoch was complete: Lightning would count the next batch as one more of it
            loop.batch_progress.reset_on_run()
            loop.scheduler_progress.reset_on_run()
            loop.automatic_optimization.optim_progress.reset_on_run()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save within an epoch."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # a checkpoint does not hold the gradients of an accumulation that is not complete
        is_between_steps = progress.current.ready % trainer.accumulate_grad_batches == 0
        if is_between_steps and not progress.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save between epochs."""
        self._save_if_due(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        """Save if it is time on process 0, or if any process is to stop. Then all of them stop.

        Raises:
            Stopped: after the checkpoint is written.
        """
        self._moments += 1
        if self._moments < self._interval:
            return
        is_time = time.monotonic() - self.saved >= self.every and rank() == 0
        is_stopping = self.stop.pending is not None
        # saving is collective: without a vote, one process would wait for the others for ever
        is_wanted = all_reduce_sum(is_time or is_stopping)
        self._plan_next_vote()
        if not is_wanted:
            return
        trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()
        # asked again: a signal may have come while the checkpoint was written
        if all_reduce_sum(self.stop.pending is not None):
            raise Stopped(self.stop.pending or signal.SIGTERM)

    def _plan_next_vote(self) -> None:
        """Agree on how many moments the processes let pass until they vote again."""
        if world_size() == 1:  # a vote costs nothing
            self._moments = 0
            return
        now = time.monotonic()
        seconds = max(now - self._voted, 1e-9) / self._moments
        fitting = int(min(VOTE_EVERY, self.every) / seconds)
        # at most twice as many: a few fast batches say little about the next ones
        interval = min(max(fitting, 1), 2 * self._interval)
        self._interval = int(all_reduce_sum(interval if rank() == 0 else 0))
        self._voted = now
        self._moments = 0


def _no_vote() -> None:
    """Stand in for a vote of Lightning: `LastCheckpoint` stops all processes together."""


class StepSeed(Callback):
    """Seeds the global generator at each step.

    What draws from it, such as dropout, depends on (seed, step, rank) and not on what ran before.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, _: int
    ) -> None:
        """Seed for this batch."""
        place = (trainer.fit_loop.total_batch_idx, trainer.global_rank)
        seed = generator(self.seed, "global", *place).initial_seed()
        # torch.manual_seed would note a stack trace for each kind of device that is not used
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)


class Stopwatch(Callback):
    """Wall time and CPU time of a fit, summed over interruptions, and its peak memory.

    CPU time and memory are summed over processes. The memory is the peak over interruptions: on a
    GPU, of what the fit allocated there; on a CPU, of what the process used until then, data
    included.

    Args:
        device: torch's name of the device that the fit computes on.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.before = {"seconds": 0.0, "cpu_seconds": 0.0, "memory_gib": 0.0}
        self.wall_start = time.monotonic()
        self.cpu_start = time.process_time()

    @property
    def spent(self) -> dict[str, float]:
        """`seconds`, `cpu_seconds` and, if it is known, `memory_gib` so far.

        Seconds after the checkpoint that was resumed are not counted. All processes must read it
        together.
        """
        wall = time.monotonic() - self.wall_start
        cpu = all_reduce_sum(time.process_time() - self.cpu_start)
        spent = {
            "seconds": self.before["seconds"] + wall,
            "cpu_seconds": self.before["cpu_seconds"] + cpu,
        }
        memory = all_reduce_sum(self._memory())
        if not math.isnan(memory):  # unknown on Windows
            # Checkpoints of earlier versions do not have it.
            spent["memory_gib"] = max(self.before.get("memory_gib", 0.0), memory)
        return spent

    def _memory(self) -> float:
        """Return the peak memory of this process, in GiB."""
        if self.device == "cuda":
            return float(torch.cuda.max_memory_allocated()) / 2**30
        return peak_memory()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return self.spent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.before = dict(state_dict)
