"""Progress of a fit: its steps in; images a second, loss and time left out, on stderr."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stealing.data.sampling import Batch
from stealing.errors import TrainingError
from stealing.training.distributed import rank

REFRESH = 0.5
"""Seconds between two readings of the loss: each waits for the device."""

LINE_EVERY = 30.0
"""Seconds between two lines in a log file."""


class TrainingProgress(Callback):
    """A progress bar on a terminal, and one line every half minute in a log file.

    It also stops a fit whose loss is no longer a number.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.images = 0
        self.first_step = 0
        self.printed = 0.0
        self.read = 0.0  # when the loss was read, which waits for a GPU
        self.bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=rank() > 0 or not sys.stderr.isatty(),
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step that was resumed."""
        self.start = time.monotonic()
        self.printed = self.start
        self.read = self.start
        self.first_step = trainer.global_step
        self.bar.start()
        self.task = self.bar.add_task(
            self.name, total=trainer.max_steps, completed=self.first_step, rate=""
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Advance.

        Raises:
            TrainingError: the loss is not finite.
        """
        now = time.monotonic()
        self.images += batch.draw.total
        is_last = trainer.global_step >= trainer.max_steps
        if now - self.read < REFRESH and not is_last:
            return
        self.read = now
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss of '{self.name}' is no longer a number: lower its learning rate and run "
                "again."
            )
        rate = self.images / max(now - self.start, 1e-9)
        if not self.bar.disable:
            self._show_bar(trainer.global_step, rate, loss)
        elif now - self.printed >= LINE_EVERY and rank() == 0:
            self._print_line(trainer, now, rate, loss)
            self.printed = now

    def _show_bar(self, step: int, rate: float, loss: float) -> None:
        facts = f"{rate:.0f} images/s loss {loss:.4f}"
        self.bar.update(self.task, completed=step, rate=facts)

    def _print_line(self, trainer: L.Trainer, now: float, rate: float, loss: float) -> None:
        step = trainer.global_step
        seconds_a_step = (now - self.start) / max(step - self.first_step, 1)
        minutes = (trainer.max_steps - step) * seconds_a_step / 60
        print(
            f"{self.name}: step {step}/{trainer.max_steps}, {rate:.0f} images/s, loss {loss:.4f}, "
            f"{minutes:.1f} min left",
            file=sys.stderr,
            flush=True,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()
