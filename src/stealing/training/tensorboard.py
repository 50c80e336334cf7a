"""TensorBoard: curves and results of a run in, event files beside its artefacts out."""

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from stealing.errors import ConfigError
from stealing.training.fit import Pictures, Recorder, Rows


@dataclass(frozen=True)
class TensorBoardRecorder(Recorder):
    """Event files of each phase, in the folder `tensorboard` of the artefact that the phase makes.

    `tensorboard --logdir work` shows all of them. A phase that another run finished is reused from
    its artefact and is not logged again.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    _open: list[TensorBoardLogger] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "logger=tensorboard needs tensorboard: pip install -e '.[tensorboard]', or choose "
                "logger=csv."
            )

    def open(self, job: str, folder: Path, **facts: Any) -> Logger | None:
        """Begin the event file of this phase, with its settings as text."""
        logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
        described = {"cell": self.cell, "job": job, "choices": self.choices, **facts}
        text = json.dumps(described, indent=1, default=str)
        logger.experiment.add_text("run", f"```json\n{text}\n```")
        self._open.append(logger)
        return logger

    def show(self, name: str, content: Pictures | Rows) -> None:
        """Log images, or a table as text."""
        writer = self._open[-1].experiment
        if isinstance(content, list):
            names = list(content[0])
            lines = [" | ".join(names), " | ".join(["---"] * len(names))]
            for row in content:
                lines.append(" | ".join(str(value) for value in row.values()))
            writer.add_text(name, "\n".join(lines))
        else:
            writer.add_images(name, torch.from_numpy(content))

    def close(self) -> None:
        """Close the event file: the next fit of this process must not write into it."""
        while self._open:
            self._open.pop().experiment.close()
