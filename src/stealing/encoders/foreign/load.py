"""Load any foreign encoder: the settings of a target in, an encoder out."""

from collections.abc import Callable
from dataclasses import replace

from stealing.encoders.foreign.huggingface_models import (
    load_huggingface,
    load_huggingface_text,
)
from stealing.encoders.foreign.imagenet import load_imagenet
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.opaque import load_onnx, load_torchscript
from stealing.encoders.foreign.open_clip_models import load_open_clip, load_open_clip_text
from stealing.encoders.foreign.text_tower import TextTower
from stealing.encoders.foreign.timm_models import load_timm
from stealing.encoders.foreign.torchvision_models import load_torchvision
from stealing.encoders.weights import flaw_of_weights
from stealing.errors import CheckpointError
from stealing.reading import refused_as_setting

FAMILIES: dict[str, Callable[[ForeignTarget], Loaded]] = {
    "huggingface": load_huggingface,
    "imagenet": load_imagenet,
    "onnx": load_onnx,
    "open_clip": load_open_clip,
    "timm": load_timm,
    "torchscript": load_torchscript,
    "torchvision": load_torchvision,
}
"""By the name of the option `target=`."""

TEXT_FAMILIES: dict[str, Callable[[ForeignTarget], TextTower]] = {
    "huggingface": load_huggingface_text,
    "open_clip": load_open_clip_text,
}
"""Families whose models may have a text tower."""


def load_foreign(target: ForeignTarget) -> Loaded:
    """Return an encoder that another program saved.

    Raises:
        ConfigError: a setting is wrong, or a library is not installed.
        CheckpointError: the file is absent or broken, holds code, or does not fit the network.
    """
    with refused_as_setting("target"):
        loaded = FAMILIES[target.family](target)
    flaw = flaw_of_weights(loaded.encoder)
    if flaw is not None:
        raise CheckpointError(f"{target.weights or target.name} {flaw}: train or fetch it again.")
    note = loaded.preprocessing.note()
    return replace(loaded, notes=(*loaded.notes, note)) if note else loaded


def load_text(target: ForeignTarget) -> TextTower:
    """Return the text tower that belongs to an encoder of one of `TEXT_FAMILIES`.

    Raises:
        ConfigError: it has none, a setting is wrong, or a library is not installed.
        CheckpointError: the file is absent or broken, holds code, or does not fit the network.
    """
    with refused_as_setting("target"):
        text = TEXT_FAMILIES[target.family](target)
    flaw = flaw_of_weights(text.tower)
    if flaw is not None:
        raise CheckpointError(
            f"The text tower of {target.weights or target.name} {flaw}: fetch it again."
        )
    return text
