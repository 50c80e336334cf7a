"""One protocol for every encoder: features of a task's two splits in, predictions of each head out; cached by content.

Shape letters: N training rows, M test rows, D feature width.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor

from stealing.artefacts import key, write_whole
from stealing.data.draws import generator
from stealing.data.images import Images
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.probe import ProbeSettings, probe_predict

CONTROLS = ("untrained", "untrained_calibrated", "pixels", "ssl_on_queries")
"""What reaches an accuracy without asking the target anything; the strongest of them is C."""

RECOVERABLE = 0.05
"""Least TA_clean - C for which `recovered` is given: below it, the share of a small gap is noise."""

INFORMATIVE = 0.10
"""Least TA_clean - C for which a task says anything about a theft."""

Predictions = dict[str, NDArray[np.int64]]
"""Predictions (M,) by head."""


@dataclass(frozen=True)
class Task:
    """A downstream task.

    Attributes:
        name: in tables and results.
        role: `own` (the target's pre-training data), `query_domain` (like the queries) or `unseen`.
        train: labelled images for the heads.
        test: touched once.
    """

    name: str
    role: str
    train: Images
    test: Images


@dataclass(frozen=True)
class Protocol:
    """Settings of every head, and of the intervals.

    Attributes:
        linear: of the linear probe.
        neighbours: of the kNN head.
        temperature: of the kNN head.
        resamples: of the bootstrap.
    """

    linear: ProbeSettings
    neighbours: int
    temperature: float
    resamples: int

    @property
    def hash(self) -> str:
        """Results of different protocols are never put into one table."""
        return key(version=1, **asdict(self))


class Judge:
    """Turns features into predictions, and remembers them.

    Args:
        protocol: the settings.
        cache: folder of remembered features and predictions.
    """

    def __init__(self, protocol: Protocol, cache: Path) -> None:
        self.protocol, self.cache = protocol, cache

    def features(self, identity: str, images: Images, compute: Callable[[Images], Tensor]) -> Tensor:
        """Features (N, D) of an encoder with this identity, computed once per list of images."""
        path = self.cache / "features" / f"{key(identity=identity, images=images.checksum)}.safetensors"
        if not path.exists():
            write_whole(path, save({"features": compute(images).numpy()}))
        return torch.from_numpy(load_file(path)["features"])

    def predictions(self, identity: str, task: Task, train_ND: Tensor, test_MD: Tensor) -> Predictions:
        """Each head's predictions on the test split."""
        return self._remembered(identity, task, lambda: self._heads(task, train_ND, test_MD, None))

    def resampled(self, number: int, identity: str, task: Task, train_ND: Tensor, test_MD: Tensor) -> Predictions:
        """Each head's predictions when it is trained on bootstrap sample `number` of train, the same for every encoder.

        Two heads on one encoder, each trained on a sample of its own, agree as much as two encoders can.
        """
        rows = torch.randint(len(train_ND), (len(train_ND),), generator=generator("bootstrap", number))
        name = f"{identity}/bootstrap-{number}"
        return self._remembered(name, task, lambda: self._heads(task, train_ND, test_MD, rows))

    def _remembered(self, identity: str, task: Task, compute: Callable[[], Predictions]) -> Predictions:
        inputs = {"identity": identity, "train": task.train.checksum, "test": task.test.checksum}
        path = self.cache / "predictions" / f"{key(protocol=self.protocol.hash, **inputs)}.safetensors"
        if not path.exists():
            write_whole(path, save(compute()))
        return load_file(path)

    def _heads(self, task: Task, train_ND: Tensor, test_MD: Tensor, rows: Tensor | None) -> Predictions:
        labels, classes = torch.from_numpy(task.train.targets()), task.train.classes
        if rows is not None:
            train_ND, labels = train_ND[rows], labels[rows]
        settings = {"k": self.protocol.neighbours, "temperature": self.protocol.temperature}
        return {
            "linear": probe_predict((train_ND, labels), test_MD, classes, self.protocol.linear).numpy(),
            "knn": knn_predict(train_ND, labels, test_MD, classes=classes, **settings).numpy(),  # type: ignore[arg-type]
        }
