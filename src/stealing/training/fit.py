"""Fit one LightningModule to the end: a module and images in, the trained module out.

The same call resumes an interrupted fit.
"""

import csv
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import write_atomically
from stealing.config import instantiate_node, to_dict
from stealing.data.sampling import TrainingImages
from stealing.encoders.weights import flaw_of_weights
from stealing.errors import ConfigError, TrainingError
from stealing.processor import set_up_processor
from stealing.signals import Deferred
from stealing.training.batchnorm import share_batchnorm
from stealing.training.captured import OptimizerSteps, capture
from stealing.training.checkpoints import (
    AtomicCheckpoints,
    LastCheckpoint,
    StepSeed,
    Stopwatch,
    newest_readable,
)
from stealing.training.distributed import MetProcesses, rank, world_size
from stealing.training.progress import TrainingProgress
from stealing.training.step import LOG_EVERY

Pictures: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """How to train, whatever is trained.

    Attributes:
        accelerator: Lightning's name, `cpu` or `gpu`.
        devices: processes, one a device; torchrun and SLURM bring their own number.
        precision: Lightning's name: `32-true`, `bf16-mixed` or `16-mixed`. Weights and answers are
            float32 in all of them.
        accumulate: batches whose gradients are averaged in one step. It costs no memory, and the
            number of epochs does not change.
        clip: greatest norm of the gradient in a step, or None.
        compile: compile the networks, not the views. It takes about a minute and saves time only in
            long fits on a GPU.
        graph: replay each step as one CUDA graph, so that a GPU is busy on small batches.
        channels_last: keep images and filters in channels-last order, which most processors
            convolve faster.
        checkpoint_seconds: least time between two checkpoints.
        threads: of each process.
        profiler: Lightning's name, `simple` or `advanced`, or None. It writes the times of a fit to
            `fit-profile.txt` in the artefact's folder.
        callbacks: Lightning callbacks of every fit, as nodes with a `_target_`, by name.
    """

    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    accumulate: int = 1
    clip: float | None = None
    compile: bool = False
    graph: bool = False
    channels_last: bool = True
    checkpoint_seconds: float = 60.0
    threads: int = 2
    profiler: str | None = None
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def numerics(self) -> dict[str, Any]:
        """The settings that change the result of a fit; they are part of an artefact's key."""
        numerics: dict[str, Any] = {
            "precision": self.precision,
            "accumulate": self.accumulate,
            "clip": self.clip,
        }
        # nobody knows which callbacks change weights; keys without callbacks are older than they
        if self.callbacks:
            numerics["callbacks"] = self.callbacks
        return numerics

    def steps(self, epochs: int, batches: int) -> int:
        """Return the optimizer's steps in this many epochs of this many batches.

        Batches at an epoch's end that do not fill a step are left out.
        """
        return epochs * (batches // self.accumulate)


def device_of(accelerator: str) -> str:
    """Return torch's name of the device of `trainer.accelerator`."""
    return "cuda" if accelerator == "gpu" else "cpu"


def settings_of(config: DictConfig) -> Settings:
    """Return the settings of all fits of a run.

    Args:
        config: resolved and checked.
    """
    settings: Settings = instantiate_node(config.trainer)
    return replace(settings, callbacks=to_dict(config.callbacks))


def build_callbacks(settings: Settings) -> list[Callback]:
    """Build the callbacks of one fit; callbacks have state, so each fit gets its own.

    Raises:
        ConfigError: one of them is not a callback of Lightning.
    """
    callbacks: list[Callback] = []
    for name, node in settings.callbacks.items():
        callback = instantiate_node(OmegaConf.create({name: node})[name])
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name}={node['_target_']} is not a callback: derive it from "
                "lightning.pytorch.callbacks.Callback."
            )
        callbacks.append(callback)
    return callbacks


@dataclass(frozen=True)
class Recorder:
    """Where the curves of a fit go besides its CSV file; this class sends them nowhere.

    Attributes:
        cell: name of the run's folder.
        sweep: name of the sweep's folder, or None outside a sweep.
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

    def show(self, name: str, content: Pictures | Rows) -> None:
        """Log images (N, 3, H, W), uint8, or the rows of a table, with the logger that is open."""

    def close(self) -> None:
        """Close the logger that is open, so that the next fit of this process gets its own."""


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
    """Train `module` in place for `total_steps`, from the newest checkpoint in `folder`.

    Args:
        module: to train.
        images: its batches.
        folder: of checkpoints and curves.
        name: of the fit, for people and for `recorder`.
        total_steps: steps of the optimizer.
        seed: of what draws from the global generator, such as dropout.
        settings: how to train.
        recorder: where curves go besides `curves.csv`.
        monitors: callbacks of this fit.

    Returns:
        `seconds` (wall time) and `cpu_seconds`, summed over interruptions, and `memory_gib`, the
        peak, which is absent if it is unknown; see `stealing.training.checkpoints.Stopwatch`.

    Raises:
        CheckpointError: the checkpoints in `folder` cannot be read.
        TrainingError: the loss or, at the end, a weight is no longer a number.
        Stopped: by Ctrl-C or SIGTERM, after the current batch and a checkpoint.
    """
    settings = _prepare(module, settings)
    resume = newest_readable(folder)
    stopwatch = Stopwatch(device_of(settings.accelerator))
    stop = Deferred()
    callbacks = [
        *(OptimizerSteps(), StepSeed(seed), TrainingProgress(name), stopwatch),
        *monitors,
        *build_callbacks(settings),
        # last: it then holds what all other callbacks did in its step
        LastCheckpoint(folder, settings.checkpoint_seconds, stop),
    ]
    loggers = _loggers(name, folder, recorder)
    trainer = _trainer(total_steps, settings, folder, loggers, callbacks)
    try:
        with stop:
            trainer.fit(module, datamodule=images, ckpt_path=resume, weights_only=True)
    finally:
        recorder.close()
    if flaw := flaw_of_weights(module):
        raise TrainingError(
            f"The fit '{name}' {flaw} at its end: lower its learning rate and run again."
        )
    if rank() == 0:
        _join_curves(folder)
    return stopwatch.spent


def _prepare(module: L.LightningModule, settings: Settings) -> Settings:
    """Apply the settings of this process and of the networks; return those left to the trainer."""
    set_up_processor(settings.threads)
    if settings.channels_last:
        module.to(memory_format=torch.channels_last)
    if world_size() > 1 and settings.accelerator == "cpu":
        share_batchnorm(module)  # on GPUs, Lightning puts torch's SyncBatchNorm in
    if settings.compile:
        for network in module.children():
            network.compile()
    if settings.graph and capture(
        module,
        clip=settings.clip,
        accumulate=settings.accumulate,
        precision=settings.precision,
        has_callbacks=bool(settings.callbacks),
    ):
        return replace(settings, clip=None)  # a part of the captured step
    return settings


def _loggers(name: str, folder: Path, recorder: Recorder) -> list[Logger]:
    # CSVLogger empties a folder that it is given again, so each start has one of its own
    start = len(list(folder.glob("curve-*")))
    version = f"curve-{start:03d}"
    loggers: list[Logger] = [
        CSVLogger(folder, name="", version=version, flush_logs_every_n_steps=20)
    ]
    extra = recorder.open(name, folder) if rank() == 0 else None
    if extra is not None:
        loggers.append(extra)
    return loggers


def _trainer(
    total_steps: int,
    settings: Settings,
    folder: Path,
    loggers: list[Logger],
    callbacks: list[Callback],
) -> L.Trainer:
    # Lightning's greeting lists devices and tips, which say nothing about this fit
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    processes = MetProcesses()
    is_distributed = world_size() > 1
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=world_size() // processes.nodes,
        num_nodes=processes.nodes,
        # BatchNorm's statistics are the same in all processes, and the answers never change
        strategy=DDPStrategy(broadcast_buffers=False) if is_distributed else "auto",
        sync_batchnorm=is_distributed and settings.accelerator == "gpu",
        precision=settings.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        max_steps=total_steps,
        max_epochs=-1,
        logger=loggers,
        callbacks=callbacks,
        profiler=_profiler(settings, folder),
        plugins=[AtomicCheckpoints(), processes],
        use_distributed_sampler=False,  # the batch sampler shares out the rows
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _profiler(settings: Settings, folder: Path) -> Profiler | None:
    # with a file: Lightning would log the table at a level that is silenced here
    if settings.profiler == "simple":
        return SimpleProfiler(dirpath=folder, filename="profile")
    if settings.profiler == "advanced":
        return AdvancedProfiler(dirpath=folder, filename="profile")
    return None


def _join_curves(folder: Path) -> None:
    """Write `curves.csv` from the parts of all starts.

    Two starts may have logged the same step, as the later one resumed before it: its row counts.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    names: set[str] = set()
    for part in sorted(folder.glob("curve-*/metrics.csv")):
        with part.open(newline="") as handle:
            for row in csv.DictReader(handle):
                filled = [name for name, value in row.items() if value]
                # a step has a row for each kind of figure: the loss, and the monitor's
                kind = ",".join(name for name in filled if name not in ("step", "epoch"))
                rows[(row["step"], kind)] = row
                names.update(row)
    columns = sorted(names)
    lines = [",".join(columns)]
    for row in rows.values():
        lines.append(",".join(row.get(name, "") for name in columns))
    write_atomically(folder / "curves.csv", ("\n".join(lines) + "\n").encode())
