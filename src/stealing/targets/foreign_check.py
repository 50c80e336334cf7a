"""First look at a loaded foreign encoder: some labelled images in, figures and warnings out.

A wrong file, head or normalisation often loads without an error, and gives features that are worth
nothing. Shape letters: N images, D feature width.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.artefacts import key, write_atomically
from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder
from stealing.encoders.foreign.loaded import Loaded
from stealing.errors import TargetError
from stealing.evaluation.degenerate import flaw_of_features
from stealing.evaluation.features import encode
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.protocol import Task
from stealing.queries.target import Target
from stealing.reading import read_json
from stealing.targets.open import LocalEncoder
from stealing.text import printable
from stealing.training.distributed import rank

IMAGES = 300
"""Images of the training split that are looked at. A third is classified by the others."""

NEIGHBOURS = 10
TEMPERATURE = 0.1

LEAST_LEAD = 0.05
"""Accuracy by which a useful encoder leads an untrained network at least."""

MOST_COSINE = 0.999
"""Mean cosine of the features of different images above which they are said to be collapsed."""

LEAST_RANK = 2.0
"""Effective rank below which features are said to be collapsed."""

UNTRAINED = {
    "class": "Encoder",
    "backbone": {"class": "NarrowResNet", "stem": 16, "widths": [32, 64, 192], "blocks": [1, 1, 1]},
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
"""A network that everybody has, with initial weights."""


def check_foreign(source: LocalEncoder | Target, tasks: Sequence[Task], work: Path) -> None:
    """Print what was loaded, and how its features look on some images of the first task.

    Figures are stored in `targets/<fingerprint>/loaded.json` of the work folder. They are not
    measured again for the same encoder and images.

    Args:
        source: the target of a run; only one of another program is checked.
        tasks: of the run; without one, nothing is measured.
        work: the work folder.

    Raises:
        TargetError: all images have the same features, or a number is not finite.
    """
    if not isinstance(source, LocalEncoder) or source.foreign is None or rank() != 0:
        return
    figures = describe_loaded(source.foreign)
    if tasks:
        path = work / "targets" / source.encoder.fingerprint / "loaded.json"
        images = key(train=tasks[0].train.checksum)
        stored = read_json(path, TargetError) if path.is_file() else {}
        if stored.get("images") == images:
            figures = stored
        else:
            measured = measure(source.encoder, tasks[0])
            figures = {**figures, "images": images, **measured}
            write_atomically(path, json.dumps(figures, indent=1).encode())
    for line in lines_of(figures):
        print(printable(line), file=sys.stderr)


def describe_loaded(loaded: Loaded) -> dict[str, Any]:
    """Return what was recognised, as JSON values."""
    seen = loaded.preprocessing
    return {
        "source": loaded.source,
        "architecture": loaded.architecture,
        "width": loaded.encoder.feature_dim,
        "size": seen.size,
        "mean": list(seen.mean),
        "std": list(seen.std),
        "interpolation": seen.interpolation,
        "crop": seen.crop,
        "left_out": list(loaded.left_out),
        "notes": list(loaded.notes),
    }


def measure(encoder: Encoder, task: Task) -> dict[str, Any]:
    """Return accuracy, scale and rank of the features of some images.

    Raises:
        TargetError: all images have the same features, or a number is not finite.
    """
    neighbours, classified = _two_parts(task.train)
    features = _features(encoder, neighbours, classified)
    flaw = flaw_of_features({"neighbours": features[0], "classified": features[1]})
    if flaw is not None:
        raise TargetError(f"The target gives {flaw}: its file or its settings are not right.")
    untrained = _features(build_encoder(UNTRAINED, 0), neighbours, classified)
    directions_ND = F.normalize(features[0], dim=1)
    cosines_NN = directions_ND @ directions_ND.T
    count = len(cosines_NN)
    # The diagonal holds the cosines of images with themselves.
    cosine = float((cosines_NN.sum() - cosines_NN.trace()) / (count * (count - 1)))
    return {
        "task": task.name,
        "knn": _accuracy(features, neighbours, classified),
        "knn_untrained": _accuracy(untrained, neighbours, classified),
        "norm": float(features[0].norm(dim=1).median()),
        "cosine": cosine,
        "rank": effective_rank(features[0]),
    }


def effective_rank(features_ND: Tensor) -> float:
    """Return the exponential of the entropy of the shares of variance.

    Source: Roy and Vetterli 2007, "The effective rank", with variances in place of singular values.
    """
    values = torch.linalg.svdvals((features_ND - features_ND.mean(0)).double())
    shares = values.square() / values.square().sum()
    return float(torch.special.entr(shares).sum().exp())


def lines_of(figures: dict[str, Any]) -> Iterator[str]:
    """Give the lines that a user reads, warnings last."""
    mean = ", ".join(f"{value:g}" for value in figures["mean"])
    std = ", ".join(f"{value:g}" for value in figures["std"])
    yield (
        f"Target: {figures['architecture']} ({figures['source']}), {figures['width']} features of "
        f"{figures['size']} pixels, mean {mean}, std {std}, crop {figures['crop']:g}."
    )
    left_out = sorted({".".join(name.split(".")[:2]) for name in figures["left_out"]})
    if left_out:
        yield f"Left out: {', '.join(left_out[:8])}{', ...' if len(left_out) > 8 else ''}."
    for note in figures["notes"]:
        yield f"Note: {note}."
    if "knn" not in figures:
        return
    yield (
        f"On {figures['task']}: kNN {figures['knn']:.2f}, an untrained network's "
        f"{figures['knn_untrained']:.2f}; norm {figures['norm']:.3g}, mean cosine "
        f"{figures['cosine']:.2f}, effective rank {figures['rank']:.1f}."
    )
    if figures["knn"] < figures["knn_untrained"] + LEAST_LEAD:
        yield (
            "Warning: its features classify these images no better than an untrained network's: "
            "its weights, target.mean=, target.std= or target.size= may not be right."
        )
    if figures["cosine"] > MOST_COSINE or figures["rank"] < LEAST_RANK:
        yield "Warning: its features of different images are nearly the same: it may be collapsed."


def _two_parts(train: Images) -> tuple[Images, Images]:
    """Return neighbours and images to classify, from all over a list that may be sorted by class.

    Both are of the training split: test images are read once, by the evaluation.
    """
    rows = np.unique(np.linspace(0, len(train) - 1, IMAGES).astype(np.int64))
    is_classified = np.arange(len(rows)) % 3 == 0
    return train.part(rows[~is_classified]), train.part(rows[is_classified])


def _features(encoder: Encoder, neighbours: Images, classified: Images) -> tuple[Tensor, Tensor]:
    everything = slice(None)
    known = encode(encoder, neighbours.batch(everything))
    return known, encode(encoder, classified.batch(everything))


def _accuracy(features: tuple[Tensor, Tensor], neighbours: Images, classified: Images) -> float:
    predicted = knn_predict(
        features[0],
        torch.from_numpy(neighbours.targets()),
        features[1],
        classes=neighbours.classes,
        k=NEIGHBOURS,
        temperature=TEMPERATURE,
    )
    return float((predicted == torch.from_numpy(classified.targets())).float().mean())
