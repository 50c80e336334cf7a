"""One protocol for every encoder: features of a task's two splits in, predictions of each head out; cached by content.

Shape letters: N training rows, M test rows, D feature width.
"""

import io
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor

from stealing.artefacts import key, write_whole
from stealing.code import code_of
from stealing.data.draws import generator
from stealing.data.images import Images
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import ProbeSettings, probe_predict

CONTROLS = ("untrained", "untrained_calibrated", "pixels", "ssl_on_queries")
"""What reaches an accuracy without asking the target anything; the strongest of them is C."""

RECOVERABLE = 0.05
"""Least TA_clean - C for which `recovered` is given: below it, the share of a small gap is noise."""

INFORMATIVE = 0.10
"""Least TA_clean - C for which a task says anything about a theft."""

PREDICTIONS = 1
"""Raised when the code of a head changes what it predicts."""

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
class Job:
    """What heads are trained and tested on.

    Attributes:
        identity: of the encoder, for the memory of predictions.
        train_ND: features of the training split.
        test_MD: features of the test split.
        sample: number of the bootstrap sample of train that the heads see, the same for every encoder; None for train
            itself. Two heads on one encoder, each on a sample of its own, agree as much as two encoders can.
    """

    identity: str
    train_ND: Tensor
    test_MD: Tensor
    sample: int | None = None


@dataclass(frozen=True)
class Protocol:
    """Settings of every head, and of the intervals.

    Attributes:
        linear: of the linear probe.
        neighbours: of the kNN head.
        temperature: of the kNN head.
        mlp: of StolenEncoder's own head, or None to leave it out.
        resamples: of the bootstrap.
    """

    linear: ProbeSettings
    neighbours: int
    temperature: float
    mlp: MLPSettings | None
    resamples: int

    @property
    def hash(self) -> str:
        """Results of different protocols are never put into one table; a head that is left out is no part of it."""
        return key(version=1, **{name: part for name, part in asdict(self).items() if part is not None})


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

    def predictions(
        self, task: Task, jobs: dict[str, Job], chosen: Collection[str] | None = None
    ) -> dict[str, Predictions]:
        """The chosen heads' predictions on the test split, for each job; what was predicted before is remembered."""
        heads = {"linear": asdict(self.protocol.linear), "knn": [self.protocol.neighbours, self.protocol.temperature]}
        if self.protocol.mlp is not None:
            heads["mlp"] = asdict(self.protocol.mlp)
        heads = {head: settings for head, settings in heads.items() if chosen is None or head in chosen}
        trains = {"linear": probe_predict, "knn": knn_predict, "mlp": mlp_predict}
        codes = {head: code_of(_drawn, trains[head]) for head in heads}
        memory, places = self.cache / "predictions", dict[str, dict[str, Path]]()
        for name, job in jobs.items():
            inputs = {"identity": job.identity, "sample": job.sample}
            inputs |= {"train": task.train.checksum, "test": task.test.checksum}
            places[name] = {
                head: memory
                / f"{key(version=PREDICTIONS, code=codes[head], head=head, settings=settings, **inputs)}.npy"
                for head, settings in heads.items()
            }
        for name, job in jobs.items():
            for head in heads.keys() - {"mlp"}:
                if not places[name][head].exists():
                    self._store(places[name][head], self._predict(head, task, job))
        if "mlp" in heads and self.protocol.mlp is not None:
            self._mlp(task, {places[name]["mlp"]: job for name, job in jobs.items()}, self.protocol.mlp)
        return {name: {head: np.load(path) for head, path in files.items()} for name, files in places.items()}

    def _predict(self, head: str, task: Task, job: Job) -> Tensor:
        train, labels = _drawn(task, job)
        if head == "linear":
            return probe_predict((train, labels), job.test_MD, task.train.classes, self.protocol.linear)
        k, temperature = self.protocol.neighbours, self.protocol.temperature
        return knn_predict(train, labels, job.test_MD, classes=task.train.classes, k=k, temperature=temperature)

    def _mlp(self, task: Task, jobs: dict[Path, Job], settings: MLPSettings) -> None:
        """Train the missing heads, those on features of one width side by side."""
        missing = {path: job for path, job in jobs.items() if not path.exists()}
        for width in {job.train_ND.shape[1] for job in missing.values()}:
            some = {path: job for path, job in missing.items() if job.train_ND.shape[1] == width}
            drawn = [_drawn(task, job) for job in some.values()]
            trains, labels = ([pair[place] for pair in drawn] for place in range(2))
            tests = [job.test_MD for job in some.values()]
            found = mlp_predict(trains, labels, tests, task.train.classes, settings)
            for path, predictions in zip(some, found, strict=True):
                self._store(path, predictions)

    def _store(self, path: Path, predictions_M: Tensor) -> None:
        stream = io.BytesIO()
        np.save(stream, predictions_M.numpy())
        write_whole(path, stream.getvalue())


def _drawn(task: Task, job: Job) -> tuple[Tensor, Tensor]:
    """The rows and labels that a job's heads are trained on."""
    labels = torch.from_numpy(task.train.targets())
    if job.sample is None:
        return job.train_ND, labels
    rows = torch.randint(len(labels), (len(labels),), generator=generator("bootstrap", job.sample))
    return job.train_ND[rows], labels[rows]
