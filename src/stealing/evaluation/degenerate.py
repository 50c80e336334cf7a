"""Features from which no head can learn: refused before an accuracy is computed from them.

Shape letters: N images, D feature width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from stealing.errors import StealingError, TargetError, TrainingError

CONSTANT = 1e-6
"""A feature whose spread, relative to its size, is at most this is constant up to rounding."""


def flaw_of_features(parts: Mapping[str, Tensor], *, may_be_constant: bool = False) -> str | None:
    """Return a phrase that completes "the target gives ..."; None if nothing is wrong.

    Args:
        parts: features (N, D) by the name of their images, such as `train`.
        may_be_constant: accept the same vector for all images of all parts.
    """
    count = 0
    least = []
    greatest = []
    for name, features_ND in parts.items():
        is_finite_N = features_ND.isfinite().all(1)
        if not is_finite_N.all():
            row = int(is_finite_N.int().argmin())
            return f"numbers that are not finite for {name} image {row}"
        count += len(features_ND)
        least.append(features_ND.amin(0))
        greatest.append(features_ND.amax(0))
    if count <= 1 or may_be_constant:
        return None
    least_D = torch.stack(least).amin(0)
    greatest_D = torch.stack(greatest).amax(0)
    # Relative to its size: a feature around 1,000 has rounding errors of 1e-4.
    size_D = least_D.abs().maximum(greatest_D.abs())
    if bool((greatest_D - least_D <= CONSTANT * size_D).all()):
        return f"one and the same vector for all {count} images"
    return None


def check_answers(features_ND: Tensor) -> None:
    """Refuse answers from which nothing can be learned.

    Raises:
        TargetError: A number is not finite, or all images have the same answer.
    """
    flaw = flaw_of_features({"query": features_ND})
    if flaw is not None:
        raise TargetError(
            f"The target gives {flaw}, so nothing can be learned from it: "
            "name another encoder, or another defense."
        )


def check_features(
    encoder: str,
    task: str,
    train_ND: Tensor,
    test_ND: Tensor,
    *,
    may_be_constant: bool,
) -> None:
    """Refuse features that a head cannot distinguish.

    Args:
        encoder: `TA`, `TA_clean`, `SA` or a control, as in `result.json`.
        task: name of the task, for the message.
        train_ND: features of the training split.
        test_ND: features of the test split.
        may_be_constant: accept the same vector for all images, as a worthless control may give.

    Raises:
        TargetError, TrainingError: A number is not finite, or all images have the same features.
    """
    parts = {"train": train_ND, "test": test_ND}
    flaw = flaw_of_features(parts, may_be_constant=may_be_constant)
    if flaw is None:
        return
    kind: type[StealingError] = TrainingError
    subject = f"The encoder of {encoder}"
    remedy = "lower the learning rate of its training and run again"
    if encoder.startswith("TA"):
        kind = TargetError
        subject = "The target"
        remedy = "name another encoder, or another defense"
    raise kind(f"{subject} gives {flaw} of task {task}, by which nothing can be judged: {remedy}.")
