"""What a person sees while a fit runs: images a second, loss and time left; and the check that the loss is a number."""

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stealing.data.draws import Batch
from stealing.errors import TrainingError
from stealing.training.ranks import rank


class Bar(Callback):
    """A progress bar on a terminal; elsewhere one line every half minute, so that a log file stays readable."""

    def __init__(self, name: str) -> None:
        self.name, self.images, self.first_step, self.printed = name, 0, 0, 0.0
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self.bar = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=rank() > 0 or not sys.stderr.isatty()
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the step that was resumed."""
        self.start = self.printed = time.monotonic()
        self.first_step = trainer.global_step
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=trainer.max_steps, completed=self.first_step, rate="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Advance; stop where the loss is no longer a number.

        Raises:
            TrainingError: a loss that is not finite.
        """
        now = time.monotonic()
        self.images += batch.draw.total
        if now - self.printed < 0.5 and trainer.global_step < trainer.max_steps:
            return  # reading the loss waits for the device: not on every step
        loss = float(outputs["loss"])
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                f"The loss of '{self.name}' is no longer a number: lower its learning rate and run again."
            )
        rate = self.images / max(now - self.start, 1e-9)
        left = (
            (trainer.max_steps - trainer.global_step)
            / max(trainer.global_step - self.first_step, 1)
            * (now - self.start)
        )
        if self.bar.disable and now - self.printed >= 30 and rank() == 0:
            line = f"{self.name}: step {trainer.global_step}/{trainer.max_steps}, {rate:.0f} images/s, loss {loss:.4f}"
            print(f"{line}, {left / 60:.1f} min left", file=sys.stderr, flush=True)
            self.printed = now
        elif not self.bar.disable:
            self.bar.update(self.task, completed=trainer.global_step, rate=f"{rate:.0f} images/s loss {loss:.4f}")
            self.printed = now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()
