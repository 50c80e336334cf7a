"""What heads cost: tasks and widths of features in, seconds on this machine out.

They are timed on random features. A linear probe takes as many steps as its features need, and
those are not there yet: steps are counted on random features whose spectrum falls as that of an
encoder's features does.

Shape letters: N training rows, D feature width.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stealing.data.sampling import generator
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings
from stealing.evaluation.protocol import Protocol, Task
from stealing.evaluation.rows import Labelled
from stealing.timing import now, seconds_of

FEW = 200
MANY = 2000
"""Rows that heads are timed on. A linear probe's time is a line through both; it has a part that
does not depend on rows."""

ITERATIONS = 20
"""Iterations of a linear probe that are timed."""

COUNTED = (500, 64, 10)
"""Rows, width and classes of the features on which evaluations of a linear probe are counted."""

SPECTRUM = -1.0
"""Exponent with which the deviations of these features fall, from the first direction to the last.

So a standard grid on 200 rows takes 260 evaluations. Features of CIFAR-10 and MNIST, of a trained
and of an untrained encoder, and their pixels took 104 to 379.
"""

EPOCHS = 5
"""Epochs of an MLP that are timed, after a fit of one epoch that shows what starting takes."""


@dataclass(frozen=True)
class _Costs:
    """Seconds of heads on features of one width.

    Attributes:
        few: of one evaluation of a linear probe's loss on FEW rows.
        many: the same on MANY rows.
        pair: of a kNN head, a pair of a labelled row and one to classify.
        mlp: of an MLP head, a training row.
    """

    few: float
    many: float
    pair: float
    mlp: float

    def evaluation(self, rows: float) -> float:
        """Return the seconds of one evaluation of a linear probe's loss on so many rows."""
        a_row = max(0.0, self.many - self.few) / (MANY - FEW)
        return self.few + a_row * max(0.0, rows - FEW)


def head_seconds(
    protocol: Protocol, tasks: Sequence[Task], widths: Mapping[int, int], device: str
) -> float:
    """Return the seconds of all heads on all tasks.

    Args:
        protocol: their settings.
        tasks: with their labels.
        widths: by width of the features, how many inputs of it are judged.
        device: where heads compute.
    """
    evaluations = _evaluations(protocol.linear, device)
    known = dict[tuple[int, int], _Costs]()
    seconds = 0.0
    for task in tasks:
        classes = task.train.classes
        rows = len(task.train)
        fitted = (1 - protocol.holdout) * rows
        pairs = rows * len(task.test) + fitted * (rows - fitted)
        for width, inputs in widths.items():
            if (width, classes) not in known:
                known[width, classes] = _costs(protocol, width, classes, device)
            costs = known[width, classes]
            # each penalty on the fitted rows, and the refit on all
            grid = len(protocol.linear.penalties) * costs.evaluation(fitted)
            linear = evaluations * (grid + costs.evaluation(rows))
            # a GPU solves the probes of one width side by side
            fits = inputs if device == "cpu" else 1
            seconds += fits * linear + inputs * (pairs * costs.pair + rows * costs.mlp)
    return seconds


class _CountingProbe(LinearProbe):
    """Counts how often its loss is computed."""

    evaluations = 0

    def training_step(self, batch: Labelled, batch_idx: int) -> Tensor:
        """Return the loss."""
        self.evaluations += 1
        return super().training_step(batch, batch_idx)


def _evaluations(settings: ProbeSettings, device: str) -> float:
    """Return how often a linear probe computes its loss for one penalty, as a mean of the grid."""
    rng = generator("forecast", "features")
    rows, width, classes = COUNTED
    labels = torch.arange(rows) % classes
    means = torch.randn(classes, width, generator=rng)
    directions = torch.linalg.qr(torch.randn(width, width, generator=rng)).Q
    scales = torch.arange(1.0, width + 1) ** SPECTRUM
    classed = torch.randn(rows, width, generator=rng) + means[labels] / 2  # classes overlap
    features = (classed * scales) @ directions
    features = (features - features.mean(0)) / features.std(0)
    probe = _CountingProbe(width, classes, settings)
    for penalty in sorted(settings.penalties, reverse=True):
        probe.fit((features.to(device), labels.to(device)), penalty)
    return probe.evaluations / len(settings.penalties)


def _costs(protocol: Protocol, width: int, classes: int, device: str) -> _Costs:
    """Time all heads on random features."""
    features = torch.randn(MANY, width, device=device)
    labels = torch.randint(classes, (MANY,), device=device)
    few = _evaluation_seconds(features[:FEW], labels[:FEW], classes, protocol.linear, device)
    many = _evaluation_seconds(features, labels, classes, protocol.linear, device)
    k = protocol.neighbours
    temperature = protocol.temperature
    classify = partial(knn_predict, classes=classes, k=k, temperature=temperature)
    neighbours = seconds_of(lambda: classify(features, labels, features), device)
    mlp = 0.0
    if protocol.mlp is not None:
        mlp = _mlp_seconds(features, labels, classes, protocol.mlp, device) / MANY
    return _Costs(few, many, neighbours / MANY**2, mlp)


def _evaluation_seconds(
    features_ND: Tensor, labels_N: Tensor, classes: int, settings: ProbeSettings, device: str
) -> float:
    """Return the seconds of one evaluation of a probe's loss, with its part of the solver."""
    settings = replace(settings, iterations=ITERATIONS, tolerance=0.0)
    probe = LinearProbe(features_ND.shape[1], classes, settings).to(device)
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        probe.zero_grad()
        loss = probe.training_step((features_ND, labels_N), 0)
        torch.autograd.backward(loss)
        return float(loss.detach())

    closure()
    optimizer: Any = probe.configure_optimizers()
    calls = 0
    start = now(device)
    optimizer.step(closure)
    return (now(device) - start) / calls


def _mlp_seconds(
    features_ND: Tensor, labels_N: Tensor, classes: int, settings: MLPSettings, device: str
) -> float:
    """Return the seconds of an MLP's two fits, to the fitted rows and to all."""

    def train(epochs: int) -> None:
        fits = [(features_ND, labels_N)]
        mlp_predict(fits, [features_ND], classes, replace(settings, epochs=epochs))

    with redirect_stderr(io.StringIO()):  # Lightning warns of much that is so on purpose here
        start = seconds_of(partial(train, 1), device)
        more = seconds_of(partial(train, 1 + EPOCHS), device)
    return 2 * settings.epochs * max(0.0, more - start) / EPOCHS
