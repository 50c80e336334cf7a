"""Curves and results to Weights & Biases: online where the user is logged in, offline otherwise, never a prompt."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from stealing.training.fit import Recorder


def mode() -> str:
    """`WANDB_MODE` where it is set, else `online` with a key that works, else `offline`.

    Decided once and passed on explicitly: after a login attempt wandb ignores the environment.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return chosen
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:  # a key without a network fails in several ways, and no curve is worth a run
        return "offline"


@dataclass(frozen=True)
class WandbRecorder(Recorder):
    """One wandb run a fit, grouped by the experiment, with the choices as tags.

    Attributes:
        project: wandb's project.
    """

    project: str = "stealing"
    mode: str = field(default_factory=mode)

    def open(self, job: str, folder: Path) -> Logger | None:
        """A run for one fit; its files lie in the artefact's folder."""
        tags = [f"{group}={choice}"[:64] for group, choice in self.tags.items()]
        begun = wandb.init(
            project=self.project,
            name=f"{job}-{folder.name}",
            group=self.name,
            job_type=job,
            tags=tags,
            dir=folder,
            mode=self.mode,  # type: ignore[arg-type]
            settings=wandb.Settings(init_timeout=15, silent=True),
        )
        return WandbLogger(experiment=begun)

    def close(self) -> None:
        """Finish the run, or the next fit of this process would be logged into it."""
        wandb.finish()
