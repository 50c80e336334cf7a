"""Weights & Biases: curves and results of a run in, one wandb run for each phase out.

It is online if the user is logged in, else offline, and never prompts.
"""

import os
import re
import secrets
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from stealing.artefacts import write_atomically
from stealing.training.fit import Pictures, Recorder, Rows

SECRET = re.compile(r"secret|credential|password|token|api[_-]?key|authorization", re.IGNORECASE)
"""Names of settings that never leave this machine."""

PASSWORD = re.compile(r"(://[^/:@\s]*):[^/\s]*(?=@)")
"""A password in a URL before its host; the first group is all that stands before it."""

PARAMETER = re.compile(r"([?&][^=&\s]*(?:password|secret|token|key)=)[^&\s]*", re.IGNORECASE)
"""A password among the parameters of a URL."""

LONGEST_NAME = 128
"""Characters that wandb takes in the name of a run or group."""

LONGEST_TAG = 64
"""Characters that wandb takes in a tag."""

TARGET = ("data", "arch@target_arch", "pretrain")
"""The groups that decide about a target that is trained here; cells of other attacks share it."""

CONNECT_WITHIN = 15
"""Seconds: without a network, wandb would wait for 100."""


@cache
def mode() -> str:
    """Return `WANDB_MODE` if it is set, else `online` with a key that works, else `offline`.

    It is decided once and passed on: after a login attempt, wandb ignores the environment.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return chosen
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:  # a key without a network fails in several ways, and no curve is worth a run
        return "offline"


def without_secrets(value: Any) -> Any:
    """Return a JSON value without settings named as `SECRET` and without passwords in URLs.

    Settings are left out at any depth, with all that stands under them.
    """
    if isinstance(value, dict):
        public = {name: part for name, part in value.items() if not SECRET.search(name)}
        return {name: without_secrets(part) for name, part in public.items()}
    if isinstance(value, list):
        return [without_secrets(part) for part in value]
    if isinstance(value, str):
        return PARAMETER.sub(r"\1", PASSWORD.sub(r"\1", value))
    return value


def is_public(override: str) -> bool:
    """Return True if an override, such as `attack.steps=40`, holds no secret."""
    name, _, value = override.partition("=")
    return not SECRET.search(name) and without_secrets(value) == value


@dataclass(frozen=True)
class WandbRecorder(Recorder):
    """One wandb run per phase of a cell: its `job_type` is the phase, its `group` is the cell.

    A phase that another cell finished is reused from its artefact and is not logged again. So the
    run of the type `evaluate` is the one that each judged cell has: it holds all settings, the
    final figures, and which artefacts the cell used.

    Attributes:
        project: wandb's project.
    """

    project: str = "stealing"

    def open(self, job: str, folder: Path, **facts: Any) -> Logger | None:
        """Begin or continue the wandb run of this phase.

        The run's files and its id lie in the artefact's folder, so that a resumed fit continues its
        own run. Offline, each start leaves a folder of its own under the one id, and counts its own
        steps: plot against `trainer/global_step`, and upload them by one `wandb sync` of all.
        """
        # wandb copies the command line beside the run: not if it holds a secret
        hides_command = not all(is_public(word) for word in sys.argv)
        run = wandb.init(
            project=self.project,
            id=_run_id(folder / f"wandb-{job}.id"),
            resume="allow",
            name=self.name_of(job, folder),
            group=os.environ.get("WANDB_RUN_GROUP") or self.cell[-LONGEST_NAME:],
            job_type=job,
            tags=self.tags(),
            config=self.config_of(folder) | facts,
            dir=folder,
            mode=mode(),  # type: ignore[arg-type]
            settings=wandb.Settings(
                init_timeout=CONNECT_WITHIN, silent=True, x_disable_meta=hides_command
            ),
        )
        run.define_metric("*", step_metric="trainer/global_step")
        return WandbLogger(experiment=run)

    def name_of(self, job: str, folder: Path) -> str:
        """Return the phase and the cell's name; for a target, which cells share, its inputs."""
        name = self.cell
        if job == "pretrain":
            parts = [self.choices[group] for group in TARGET]
            name = "-".join([*parts, f"s{self.settings['target']['seed']}", folder.name])
        room = LONGEST_NAME - len(job) - 1
        return f"{job} {name[-room:]}"  # the end tells runs apart: budget, seed, hash

    def tags(self) -> list[str]:
        """Return `name=value` for choices, overridden settings, the budget, seeds and the sweep."""
        values: dict[str, Any] = {}
        for group, choice in self.choices.items():
            if choice is not None:  # Hydra's choice of a group that is left empty
                values[group] = choice
        for override in self.overrides:
            name, _, value = override.lstrip("+~").partition("=")
            if "." in name and not name.startswith("paths.") and is_public(override):
                values[name] = value
        values["budget.images"] = self.settings["budget"]["images"]
        values["seed"] = self.settings["seed"]
        values["target.seed"] = self.settings["target"]["seed"]
        if self.sweep is not None:
            values["sweep"] = self.sweep
        tags = [f"{name}={value}"[:LONGEST_TAG] for name, value in values.items()]
        return list(dict.fromkeys(tags))  # shortened tags may be equal, which wandb refuses

    def config_of(self, folder: Path) -> dict[str, Any]:
        """Return all settings without secrets, with the choices, cell, sweep and artefact."""
        return {
            **without_secrets(self.settings),
            "choices": self.choices,
            "cell": self.cell,
            "sweep": self.sweep,
            "artefact": f"{folder.parent.name}/{folder.name}",
        }

    def show(self, name: str, content: Pictures | Rows) -> None:
        """Log images to page through in a browser, or a table to sort and plot."""
        assert wandb.run is not None
        if isinstance(content, list):
            columns: list[str | int] = list(content[0])
            rows = [list(row.values()) for row in content]
            media: Any = wandb.Table(columns=columns, data=rows)
        else:
            media = [wandb.Image(image.transpose(1, 2, 0)) for image in content]
        wandb.run.log({name: media})

    def close(self) -> None:
        """Finish the run: the next fit of this process must not be logged into it."""
        wandb.finish()


def _run_id(path: Path) -> str:
    """Return the run's id, which is drawn once.

    It is not a function of the inputs: the same artefact in another work folder has a run of
    its own.
    """
    if not path.exists():
        write_atomically(path, secrets.token_hex(4).encode())
    return path.read_text()
