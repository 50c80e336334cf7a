"""Write one exported file: a source, a format and a place in; the file, compared, and its card out.

The file is written beside its place, read back, and compared with the network on real and on random
images. It gets its name only then.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from stealing.artefacts import unfinished, write_atomically
from stealing.data.sampling import generator
from stealing.errors import CheckpointError, ConfigError
from stealing.export.card import card_of
from stealing.export.formats import FORMATS, Network
from stealing.export.sources import Source

TOLERANCE = 1e-4
"""Largest difference of a feature, as a share of the largest feature if that is above 1."""

BATCHES = (1, 3)
"""Sizes of the batches that are compared beside the one of all images: none may be a constant."""


def export(source: Source, kind: str, path: Path) -> float:
    """Write the file and its card; return the largest difference of a feature.

    Args:
        source: what is exported.
        kind: one of `FORMATS`.
        path: of the new file; its card is beside it, with the suffix `.md`.

    Raises:
        ConfigError: The name does not end as the format does, or a file of this name is there.
        CheckpointError: The written file gives other features; nothing is kept.
    """
    suffix, write = FORMATS[kind]
    if path.suffix != suffix:
        raise ConfigError(f"{path} does not end in {suffix}, as a file for {kind} does: rename it.")
    card_path = path.with_suffix(".md")
    places = [path, card_path]
    if kind == "safetensors":
        places.append(path.with_suffix(".json"))
    for place in places:
        if place.exists():
            raise ConfigError(f"{place} is there already: name another file, or move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder, because one format is two files that know each other's names.
    folder = unfinished(path)
    folder.mkdir()
    try:
        network = write(source, folder / path.name)
        difference = largest_difference(source, network)
        write_atomically(folder / card_path.name, card_of(source, kind, path).encode())
        for place in reversed(places):
            os.replace(folder / place.name, place)
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return difference


@torch.inference_mode()
def largest_difference(source: Source, network: Network) -> float:
    """Return the largest difference of a feature between a written file and its source.

    Raises:
        CheckpointError: It is above `TOLERANCE`, or the features have another shape.
    """
    noise = torch.rand(source.images.shape, generator=generator("export"))
    difference = 0.0
    for images in (source.images, noise):
        expected = source.module(images)
        scale = max(1.0, float(expected.abs().max()))
        for count in (*BATCHES, len(images)):
            features = network(images[:count])
            if features.shape != expected[:count].shape:
                raise _differs(source, f"of the shape {tuple(features.shape)}")
            apart = _apart(features, expected[:count])
            # `not <=`: a NaN is no small number.
            if not apart <= TOLERANCE * scale:
                raise _differs(source, f"that differ by {apart:.2g}")
            difference = max(difference, apart)
    return difference


def _apart(features: Tensor, expected: Tensor) -> float:
    return float((features - expected).abs().max())


def _differs(source: Source, how: str) -> CheckpointError:
    return CheckpointError(
        f"The written file gives features {how} from those of {source.name}: "
        "nothing was kept; choose another format."
    )
