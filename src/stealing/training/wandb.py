"""Curves and results to Weights & Biases: online where the user is logged in, offline otherwise, never a prompt."""

import os
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from stealing.artefacts import write_whole
from stealing.training.fit import Pictures, Recorder, Rows


@cache
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
    """One wandb run a fit, with the choices as tags; `WANDB_RUN_GROUP`, which train.py sets, groups those of a sweep.

    Attributes:
        project: wandb's project.
    """

    project: str = "stealing"

    def open(self, job: str, folder: Path) -> Logger | None:
        """The run of this fit: its files and its id lie in the artefact's folder, so that a resumed fit continues it.

        Offline, each start leaves a folder of its own under the one id, and counts its own steps: plot against
        `trainer/global_step`, and upload them by one `wandb sync` of all.
        """
        tags = [f"{group}={choice}"[:64] for group, choice in self.tags.items()]
        begun = wandb.init(
            project=self.project,
            id=_identity(folder / f"wandb-{job}.id"),
            resume="allow",
            name=f"{job}-{folder.name}",
            job_type=job,
            tags=tags,
            dir=folder,
            mode=mode(),  # type: ignore[arg-type]
            settings=wandb.Settings(init_timeout=15, silent=True),
        )
        begun.define_metric("*", step_metric="trainer/global_step")
        return WandbLogger(experiment=begun)

    def show(self, name: str, shown: Pictures | Rows) -> None:
        """As images that a browser pages through, or as a table that wandb can sort and plot."""
        assert wandb.run is not None
        if isinstance(shown, list):
            made: Any = wandb.Table(columns=list(shown[0]), data=[list(row.values()) for row in shown])
        else:
            made = [wandb.Image(picture.transpose(1, 2, 0)) for picture in shown]
        wandb.run.log({name: made})

    def close(self) -> None:
        """Finish the run, or the next fit of this process would be logged into it."""
        wandb.finish()


def _identity(path: Path) -> str:
    """The run's id, drawn once: an artefact of the same inputs that another made has another run."""
    if not path.exists():
        write_whole(path, secrets.token_hex(4).encode())
    return path.read_text()
