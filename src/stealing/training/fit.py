"""Fit one LightningModule to the end: a module and images in, the trained module out; the same call resumes."""

import csv
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray

from stealing.artefacts import write_whole
from stealing.data.draws import TrainingImages
from stealing.training.batchnorm import share_batchnorm
from stealing.training.checkpoints import Clock, Last, StepSeed, WholeFiles, newest_readable
from stealing.training.launch import Joined, Terminated
from stealing.training.progress import Bar
from stealing.training.ranks import rank, world


@dataclass(frozen=True)
class Settings:
    """How to train, whatever is trained.

    Attributes:
        accelerator: Lightning's name, `cpu` or `gpu`.
        devices: processes, one a device; where torchrun or SLURM started them, their number counts.
        precision: Lightning's name: `32-true`, `bf16-mixed` or `16-mixed`; weights and answers are float32 in all.
        accumulate: batches whose gradients are averaged in one step; it costs no memory, and no more epochs.
        clip: greatest norm of the gradient in a step, or None.
        compile: compile the networks, not the views; worth its minute in long fits on a GPU.
        channels_last: keep images and filters in channels-last order, which most processors convolve faster.
        checkpoint_seconds: at most one checkpoint in this time.
        threads: of each process.
    """

    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    accumulate: int = 1
    clip: float | None = None
    compile: bool = False
    channels_last: bool = True
    checkpoint_seconds: float = 60.0
    threads: int = 2

    @property
    def numerics(self) -> dict[str, Any]:
        """What of this changes the result of a fit, and so is part of an artefact's key."""
        return {"precision": self.precision, "accumulate": self.accumulate, "clip": self.clip}

    def steps(self, epochs: int, batches: int) -> int:
        """Steps of the optimiser in this many epochs of as many batches; those that do not fill a step are left out."""
        return epochs * (batches // self.accumulate)


Pictures: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Recorder:
    """Where the curves of a fit go besides its CSV file: a logger for each named fit, closed after it.

    Attributes:
        cell: name of the run's folder.
        sweep: name of the folder of the sweep that the run is a cell of, or None.
        overrides: of the command, such as `attack.steps=40`.
        choices: the option chosen from each group.
        settings: the resolved configuration, as JSON values.
    """

    cell: str = ""
    sweep: str | None = None
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def open(self, job: str, folder: Path, **facts: Any) -> Logger | None:
        """Return a logger for one fit, or None.

        Args:
            job: the phase: `pretrain`, `steal`, `control` or `evaluate`.
            folder: of the artefact that the phase makes.
            facts: JSON values to keep beside the settings.
        """
        return None

    def show(self, name: str, shown: "Pictures | Rows") -> None:
        """Pictures (N, 3, H, W), uint8, or the rows of a table, beside what `open` began."""

    def close(self) -> None:
        """End what `open` began, so that the next fit of this process starts its own."""


def fit(
    module: L.LightningModule,
    images: TrainingImages,
    folder: Path,
    *,
    name: str,
    total_steps: int,
    seed: int,
    settings: Settings,
    recorder: Recorder,
    monitors: tuple[Callback, ...] = (),
) -> dict[str, float]:
    """Train `module` for `total_steps`, from the newest checkpoint in `folder` where there is one.

    Returns:
        Wall and processor seconds, summed over interruptions.

    Raises:
        CheckpointError: the checkpoints in `folder` cannot be read.
        TrainingError: the loss is no longer a number.
    """
    torch.set_num_threads(settings.threads)
    if settings.channels_last:
        module.to(memory_format=torch.channels_last)
    if world() > 1 and settings.accelerator == "cpu":
        share_batchnorm(module)
    if settings.compile:
        for network in module.children():
            network.compile()
    resume = newest_readable(folder)
    parts = sorted(folder.glob("curve-*"))  # CSVLogger wipes a folder it is given again: one a start
    loggers: list[Logger] = [CSVLogger(folder, name="", version=f"curve-{len(parts):03d}", flush_logs_every_n_steps=20)]
    extra = recorder.open(name, folder) if rank() == 0 else None
    clock = Clock()
    trainer = _trainer(
        total_steps,
        settings,
        [*loggers, *([extra] if extra else [])],
        [
            StepSeed(seed),
            Bar(name),
            clock,
            *([Terminated()] if world() > 1 else []),
            *monitors,
            Last(folder, settings.checkpoint_seconds),
        ],
    )
    try:
        trainer.fit(module, datamodule=images, ckpt_path=resume, weights_only=True)
    finally:
        recorder.close()
    if rank() == 0:
        _join_curves(folder)
    return clock.spent


def _trainer(total_steps: int, settings: Settings, loggers: list[Logger], callbacks: list[Callback]) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its greeting says nothing about this fit
    joined, several = Joined(), world() > 1
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=world() // joined.nodes,
        num_nodes=joined.nodes,
        strategy=DDPStrategy(cluster_environment=joined) if several else "auto",
        sync_batchnorm=several and settings.accelerator == "gpu",
        precision=settings.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        max_steps=total_steps,
        max_epochs=-1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _join_curves(folder: Path) -> None:
    """Write `curves.csv` from the parts of all starts; a step that two starts logged keeps the later row."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for part in sorted(folder.glob("curve-*/metrics.csv")):
        with part.open(newline="") as handle:
            for row in csv.DictReader(handle):
                kind = ",".join(name for name, value in row.items() if value and name not in ("step", "epoch"))
                rows[(row["step"], kind)] = row
    names = sorted({name for row in rows.values() for name in row})
    lines = [",".join(names)] + [",".join(row.get(name, "") for name in names) for row in rows.values()]
    write_whole(folder / "curves.csv", ("\n".join(lines) + "\n").encode())
