"""What heads cost: tasks and widths of features in, seconds on this machine out.

They are timed on random features. A linear probe takes as many steps as its features need, and
those are not there yet: a typical number is assumed.

Shape letters: N training rows, D feature width.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stealing.evaluation.knn import knn_predict
from stealing.evaluation.mlp import MLPSettings, mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings
from stealing.evaluation.protocol import Protocol, Task
from stealing.timing import now, seconds_of

ROWS = 2000
"""Rows that heads are timed on; their time is proportional to the rows."""

ITERATIONS = 20
"""Iterations of a linear probe that are timed."""

EVALUATIONS = 75
"""How often a linear probe computes its loss for one penalty.

Measured on CIFAR-10 and drawn images, with a trained and an untrained encoder.
"""


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
    costs = dict[tuple[int, int], tuple[float, float, float]]()
    seconds = 0.0
    for task in tasks:
        classes = task.train.classes
        rows = len(task.train)
        held = protocol.holdout * rows
        pairs = rows * len(task.test) + (rows - held) * held
        for width, inputs in widths.items():
            if (width, classes) not in costs:
                costs[width, classes] = _costs(protocol, width, classes, device)
            linear, neighbours, mlp = costs[width, classes]
            # a GPU solves the probes of one width side by side
            fits = inputs if device == "cpu" else 1
            seconds += fits * rows * linear + inputs * (pairs * neighbours + rows * mlp)
    return seconds


def _costs(protocol: Protocol, width: int, classes: int, device: str) -> tuple[float, float, float]:
    """Return the seconds of a linear probe and of an MLP a training row, of kNN a pair of rows."""
    features = torch.randn(ROWS, width, device=device)
    labels = torch.randint(classes, (ROWS,), device=device)
    one = _evaluation_seconds(features, labels, classes, protocol.linear, device)
    # each penalty on the fitted rows, and the refit on all
    penalties = 1 + (1 - protocol.holdout) * len(protocol.linear.penalties)
    linear = penalties * EVALUATIONS * one
    k = protocol.neighbours
    temperature = protocol.temperature
    classify = partial(knn_predict, classes=classes, k=k, temperature=temperature)
    neighbours = seconds_of(lambda: classify(features, labels, features), device)
    mlp = 0.0
    if protocol.mlp is not None:
        mlp = _mlp_seconds(features, labels, classes, protocol.mlp, device)
    return linear / ROWS, neighbours / ROWS**2, mlp / ROWS


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
        one = seconds_of(partial(train, 1), device)
        two = seconds_of(partial(train, 2), device)
    return 2 * settings.epochs * max(0.0, two - one)
