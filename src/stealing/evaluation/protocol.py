"""One protocol for every encoder: features of a task's two splits in, predictions of each head out; cached by content.

Shape letters: N training rows, M test rows, D feature width.
"""

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
from stealing.data.images import Images
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import ProbeSettings, probe_predict
from stealing.evaluation.rows import Rows

CONTROLS = ("untrained", "untrained_calibrated", "pixels", "ssl_on_queries")
"""What reaches an accuracy without asking the target anything; the strongest on a slice of train is C."""

RECOVERABLE = 0.05
"""Least TA_clean - C on a slice of train for which `recovered` is given: the share of a smaller gap is noise."""

INFORMATIVE = 0.10
"""Least TA_clean - C on a slice of train for which a task says anything about an attack."""

PREDICTIONS = 2
"""Raised when the code of a head changes what it predicts."""


@dataclass(frozen=True)
class Predicted:
    """What one head predicts.

    Attributes:
        test: of the test split, int64 (M,), after a fit to all of train.
        held: of the held rows of train, int64 (V,), after a fit to the others; choices are made by these.
    """

    test: NDArray[np.int64]
    held: NDArray[np.int64]


Predictions = dict[str, Predicted]
"""By head."""

HEADS = {"linear": probe_predict, "knn": knn_predict, "mlp": mlp_predict}
"""The function of each head."""


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
        holdout: share of train that is held back, the same rows for every encoder: penalties, the
            strongest control and informative tasks are chosen there.
        linear: of the linear probe.
        neighbours: of the kNN head.
        temperature: of the kNN head.
        mlp: of StolenEncoder's own head, or None to leave it out.
        resamples: of the bootstrap.
    """

    holdout: float
    linear: ProbeSettings
    neighbours: int
    temperature: float
    mlp: MLPSettings | None
    resamples: int

    @property
    def hash(self) -> str:
        """Results of different protocols are never put into one table; a head that is left out is no part of it."""
        return key(version=2, **{name: part for name, part in asdict(self).items() if part is not None})


class Judge:
    """Turns features into predictions, and remembers them.

    Args:
        protocol: the settings.
        cache: folder of remembered features and predictions.
        device: where the linear probe and kNN compute. Predictions are remembered for the kind of
            device, as a table never mixes processors with GPUs.
    """

    def __init__(self, protocol: Protocol, cache: Path, device: str = "cpu") -> None:
        self.protocol = protocol
        self.cache = cache
        self.device = device

    def features(self, identity: str, images: Images, compute: Callable[[Images], Tensor]) -> Tensor:
        """Features (N, D) of an encoder with this identity, computed once per list of images."""
        path = self.cache / "features" / f"{key(identity=identity, images=images.checksum)}.safetensors"
        if not path.exists():
            write_whole(path, save({"features": compute(images).numpy()}))
        return torch.from_numpy(load_file(path)["features"])

    def predictions(
        self, task: Task, jobs: dict[str, Job], chosen: Collection[str] | None = None
    ) -> dict[str, Predictions]:
        """Return the chosen heads' predictions for each job; what was predicted before is remembered.

        Args:
            task: its test labels are not read.
            jobs: by name.
            chosen: heads, or None for all of the protocol.
        """
        heads = {head: of for head, of in self._heads().items() if chosen is None or head in chosen}
        places: dict[str, dict[str, Path]] = {}
        for name, job in jobs.items():
            places[name] = {head: self._place(head, of, task, job) for head, of in heads.items()}
        for name, job in jobs.items():
            for head in heads.keys() - {"mlp"}:
                if not places[name][head].exists():
                    held_V, test_M = self._predict(head, task, job)
                    _store(places[name][head], held_V, test_M)
        if "mlp" in heads and self.protocol.mlp is not None:
            self._mlp(task, {places[name]["mlp"]: job for name, job in jobs.items()}, self.protocol.mlp)
        found: dict[str, Predictions] = {}
        for name, files in places.items():
            found[name] = {head: Predicted(**load_file(path)) for head, path in files.items()}
        return found

    def _heads(self) -> dict[str, object]:
        """Each head with all that decides what it predicts from given features."""
        protocol = self.protocol
        heads: dict[str, object] = {
            "linear": asdict(protocol.linear),
            "knn": [protocol.neighbours, protocol.temperature],
        }
        if protocol.mlp is not None:
            heads["mlp"] = asdict(protocol.mlp)
        return heads

    def _place(self, head: str, settings: object, task: Task, job: Job) -> Path:
        """Where the predictions of a head on a job are remembered."""
        name = key(
            version=PREDICTIONS,
            code=code_of(Rows, HEADS[head]),
            head=head,
            settings=settings,
            holdout=self.protocol.holdout,
            device=self.device,
            identity=job.identity,
            sample=job.sample,
            train=task.train.checksum,
            test=task.test.checksum,
        )
        return self.cache / "predictions" / f"{name}.safetensors"

    def rows(self, task: Task, job: Job) -> Rows:
        """Return the rows that a job's heads are trained on, and those that are held back."""
        labels = torch.from_numpy(task.train.targets())
        return Rows.split(job.train_ND, labels, self.protocol.holdout, job.sample)

    def _predict(self, head: str, task: Task, job: Job) -> tuple[Tensor, Tensor]:
        rows = self.rows(task, job).to(self.device)
        test_MD = job.test_MD.to(self.device)
        classes = task.train.classes
        if head == "linear":
            return probe_predict(rows, test_MD, classes, self.protocol.linear)
        k, temperature = self.protocol.neighbours, self.protocol.temperature
        held_V = knn_predict(*rows.fit, rows.held[0], classes=classes, k=k, temperature=temperature)
        test_M = knn_predict(*rows.all, test_MD, classes=classes, k=k, temperature=temperature)
        return held_V, test_M

    def _mlp(self, task: Task, jobs: dict[Path, Job], settings: MLPSettings) -> None:
        """Train the missing heads, those on features of one width side by side."""
        missing = {path: job for path, job in jobs.items() if not path.exists()}
        classes = task.train.classes
        for width in {job.train_ND.shape[1] for job in missing.values()}:
            some = {path: job for path, job in missing.items() if job.train_ND.shape[1] == width}
            rows = [self.rows(task, job) for job in some.values()]
            held = mlp_predict([each.fit for each in rows], [each.held[0] for each in rows], classes, settings)
            tests = [job.test_MD for job in some.values()]
            test = mlp_predict([each.all for each in rows], tests, classes, settings)
            for path, held_V, test_M in zip(some, held, test, strict=True):
                _store(path, held_V, test_M)


def _store(path: Path, held_V: Tensor, test_M: Tensor) -> None:
    write_whole(path, save({"held": held_V.cpu().numpy(), "test": test_M.cpu().numpy()}))
