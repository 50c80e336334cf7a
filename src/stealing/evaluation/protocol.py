"""The protocol of evaluation: features of a task's two splits in, predictions of each head out.

The protocol is the same for every encoder. Features and predictions are cached by their content.

Shape letters: N training rows, M test rows, V held rows, D feature width.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.artefacts import key
from stealing.code import code_of
from stealing.data.images import Images
from stealing.evaluation.cache import Arrays, compute_once
from stealing.evaluation.degenerate import check_features
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import ProbeSettings, probe_predict
from stealing.evaluation.probes import probes_predict
from stealing.evaluation.rows import Rows
from stealing.evaluation.zero_shot import MAJORITY, ZeroShot

BESIDE = ("independent", "distilled")
"""Encoders that may be judged beside the surrogate, in a run that names them; they are never C."""

CONTROLS = ("untrained", "untrained_calibrated", "pixels", "ssl_on_queries")
"""What every attacker has without a query. The strongest control on the held rows is C."""

SOME_CONTROLS = ("public", MAJORITY)
"""Others: the public encoder that a surrogate's training starts from; the zero-shot head's own."""

RECOVERABLE = 0.05
"""Least TA_clean - C on the held rows for which `recovered` is given; a share of less is noise."""

INFORMATIVE = 0.10
"""Least TA_clean - C on the held rows of an informative task."""

PREDICTIONS = 2
"""Version of the heads: raised if their code predicts something else than before."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of one head.

    Attributes:
        test: predictions of the test split, int64 (M,), after a fit to all of train.
        held: predictions of the held rows, int64 (V,), after a fit to the other rows of train.
            Choices are made by these.
    """

    test: NDArray[np.int64]
    held: NDArray[np.int64]


def controls_among(names: Collection[str]) -> list[str]:
    """Return the controls among the names of encoders, in their order."""
    return [name for name in (*CONTROLS, *SOME_CONTROLS) if name in names]


Predictions = dict[str, Predicted]
"""Predictions by head."""

HEADS = {"linear": probe_predict, "knn": knn_predict, "mlp": mlp_predict}
"""The function of each head on a CPU."""

GPU_HEADS = {**HEADS, "linear": probes_predict}
"""The function of each head on a GPU."""

SIDE_BY_SIDE = 8
"""Heads that a GPU trains at once: of a target, a surrogate, three controls, and resampled ones."""

STACKED = 256 * 2**20
"""Bytes of training features that a GPU holds for heads side by side. More keep it busy alone."""


@dataclass(frozen=True)
class Task:
    """A downstream task.

    Attributes:
        name: in tables and results.
        role: `own` (the target's pre-training data), `query_domain` (like the queries) or `unseen`.
        train: labelled images for the heads.
        test: labelled images that are predicted once.
    """

    name: str
    role: str
    train: Images
    test: Images


@dataclass(frozen=True)
class HeadInput:
    """What heads are trained and tested on.

    Attributes:
        identity: of the encoder, for the cache of predictions.
        train_ND: features of the training split.
        test_MD: features of the test split.
        sample: number of the bootstrap sample of train that the heads see, the same rows for every
            encoder; None for train itself. Two heads on one encoder, each on its own sample, give
            the greatest agreement that two encoders can have.
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
        linear: settings of the linear probe.
        neighbours: number of neighbours of the kNN head.
        temperature: of the kNN head.
        mlp: settings of StolenEncoder's own head, or None to leave it out.
        resamples: number of bootstrap resamples.
        zero_shot: settings of the zero-shot head (`stealing.evaluation.texts`), or None.
    """

    holdout: float
    linear: ProbeSettings
    neighbours: int
    temperature: float
    mlp: MLPSettings | None
    resamples: int
    zero_shot: ZeroShot | None = None

    @property
    def hash(self) -> str:
        """Hash of the settings; results of different protocols are never put into one table."""
        settings = asdict(self)
        for head in ("mlp", "zero_shot"):
            if settings[head] is None:  # results from before there was this head keep their hash
                del settings[head]
        return key(version=2, **settings)


class Evaluator:
    """Trains heads on features, predicts with them, and caches features and predictions.

    Args:
        protocol: the settings.
        cache: folder of the cache.
        device: where all heads compute. Predictions are cached by kind of device: a table never
            mixes CPUs with GPUs.
    """

    def __init__(self, protocol: Protocol, cache: Path, device: str = "cpu") -> None:
        self.protocol = protocol
        self.cache = cache
        self.device = device
        self.heads = HEADS if device == "cpu" else GPU_HEADS

    def features(
        self, identity: str, images: Images, compute: Callable[[Images], Tensor]
    ) -> Tensor:
        """Return features (N, D), computed once for each encoder and list of images.

        Args:
            identity: of the encoder.
            images: the list.
            compute: returns the features of a list.
        """
        name = key(identity=identity, images=images.checksum)
        path = self.cache / "features" / f"{name}.safetensors"

        def computed(paths: list[Path]) -> Iterator[tuple[Path, Arrays]]:
            yield path, {"features": compute(images).numpy()}

        arrays = compute_once([path], computed)
        return torch.from_numpy(arrays[path]["features"])

    def predictions(
        self,
        task: Task,
        jobs: dict[str, HeadInput],
        chosen: Collection[str] | None = None,
    ) -> dict[str, Predictions]:
        """Return the predictions of each head for each job; those in the cache are not made again.

        Args:
            task: its test labels are not read.
            jobs: by name of the encoder, as in `result.json`.
            chosen: names of heads, or None for all of the protocol.

        Raises:
            TargetError, TrainingError: Features are not finite, or the same for all images; the
                latter is accepted of a control.
        """
        controls = controls_among(jobs)
        for name, job in jobs.items():
            is_control = name in controls
            check_features(name, task.name, job.train_ND, job.test_MD, may_be_constant=is_control)
        predictions: dict[str, Predictions] = {name: {} for name in jobs}
        for head, settings in self._head_settings().items():
            if chosen is not None and head not in chosen:
                continue
            paths = {name: self._path(head, settings, task, job) for name, job in jobs.items()}
            # Jobs that are equal have one path.
            by_path = {path: jobs[name] for name, path in paths.items()}
            predicted = self._predict(head, task, by_path)
            for name, path in paths.items():
                predictions[name][head] = predicted[path]
        return predictions

    def rows(self, task: Task, job: HeadInput) -> Rows:
        """Return the training rows of a job, with those that are held back."""
        # Only of train: nothing in this module reads the labels of the test split.
        labels = torch.from_numpy(task.train.targets())
        return Rows.split(job.train_ND, labels, self.protocol.holdout, job.sample)

    def _head_settings(self) -> dict[str, object]:
        """Return, by head, all settings that its predictions depend on."""
        protocol = self.protocol
        settings: dict[str, object] = {
            "linear": asdict(protocol.linear),
            "knn": [protocol.neighbours, protocol.temperature],
        }
        if protocol.mlp is not None:
            settings["mlp"] = asdict(protocol.mlp)
        return settings

    def _path(self, head: str, settings: object, task: Task, job: HeadInput) -> Path:
        """Return where the predictions of a head for a job are cached."""
        name = key(
            version=PREDICTIONS,
            code=code_of(Rows, self.heads[head]),  # other code may predict something else
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

    def _predict(
        self,
        head: str,
        task: Task,
        jobs: Mapping[Path, HeadInput],
    ) -> dict[Path, Predicted]:
        """Return the predictions of a head, from the cache or for the cache."""
        arrays: dict[Path, Arrays] = {}
        if head == "knn" or (head == "linear" and self.device == "cpu"):
            arrays = compute_once(list(jobs), partial(self._one_by_one, head, task, jobs))
        else:
            for paths in _by_width(jobs):
                count = self._count(paths, jobs)
                compute = partial(self._side_by_side, head, task, jobs, count)
                arrays |= compute_once(paths, compute, count)
        return {path: Predicted(**parts) for path, parts in arrays.items()}

    def _one_by_one(
        self,
        head: str,
        task: Task,
        jobs: Mapping[Path, HeadInput],
        paths: Sequence[Path],
    ) -> Iterator[tuple[Path, Arrays]]:
        """Compute the predictions of a linear or kNN head."""
        classes = task.train.classes
        k = self.protocol.neighbours
        temperature = self.protocol.temperature
        knn = partial(knn_predict, classes=classes, k=k, temperature=temperature)
        for path in paths:
            rows = self.rows(task, jobs[path]).to(self.device)
            test_MD = jobs[path].test_MD.to(self.device)
            if head == "linear":
                yield path, _arrays(*probe_predict(rows, test_MD, classes, self.protocol.linear))
            else:
                held_VD, _ = rows.held
                yield path, _arrays(knn(*rows.fit, held_VD), knn(*rows.all, test_MD))

    def _count(self, paths: Sequence[Path], jobs: Mapping[Path, HeadInput]) -> int:
        """Return how many heads on features of one shape are trained side by side."""
        if self.device == "cpu":
            return len(paths)
        # A function only of the shape, so that equal jobs get equal predictions.
        return max(1, min(SIDE_BY_SIDE, STACKED // jobs[paths[0]].train_ND.nbytes))

    def _side_by_side(
        self,
        head: str,
        task: Task,
        jobs: Mapping[Path, HeadInput],
        count: int,
        paths: Sequence[Path],
    ) -> Iterator[tuple[Path, Arrays]]:
        """Compute the predictions of linear or MLP heads on features of one shape."""
        filled = list(paths)
        if self.device != "cpu":
            # On a GPU, products of fewer matrices may differ in the last bits from those of more.
            filled += [paths[-1]] * (count - len(paths))
        rows = [self.rows(task, jobs[path]).to(self.device) for path in filled]
        tests = [jobs[path].test_MD.to(self.device) for path in filled]
        if head == "linear":
            pairs = probes_predict(rows, tests, task.train.classes, self.protocol.linear)
        else:
            pairs = self._mlp(rows, tests, task.train.classes)
        for path, pair in zip(paths, pairs, strict=False):  # the rest fills up
            yield path, _arrays(*pair)

    def _mlp(
        self, rows: Sequence[Rows], tests: list[Tensor], classes: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the predictions of the held rows and of the test rows, of each MLP head."""
        settings = self.protocol.mlp
        assert settings is not None
        fits = [one.fit for one in rows]
        held_features = [one.held[0] for one in rows]
        held = mlp_predict(fits, held_features, classes, settings)
        trains = [one.all for one in rows]
        return list(zip(held, mlp_predict(trains, tests, classes, settings), strict=True))


def _by_width(jobs: Mapping[Path, HeadInput]) -> list[list[Path]]:
    """Return the paths of jobs whose features have one width, together."""
    by_width: dict[int, list[Path]] = {}
    for path, job in jobs.items():
        by_width.setdefault(job.train_ND.shape[1], []).append(path)
    return list(by_width.values())


def _arrays(held_V: Tensor, test_M: Tensor) -> Arrays:
    return {"held": held_V.cpu().numpy(), "test": test_M.cpu().numpy()}
