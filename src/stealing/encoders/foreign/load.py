"""Load any foreign encoder: the settings of a target in, an encoder out."""

from collections.abc import Callable
from dataclasses import replace

from stealing.encoders.foreign.huggingface_models import load_huggingface
from stealing.encoders.foreign.imagenet import load_imagenet
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.opaque import load_onnx, load_torchscript
from stealing.encoders.foreign.open_clip_models import load_open_clip
from stealing.encoders.foreign.timm_models import load_timm
from stealing.encoders.foreign.torchvision_models import load_torchvision
from stealing.encoders.weights import flaw_of_weights
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import InvalidContent

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


def load_foreign(target: ForeignTarget) -> Loaded:
    """Return an encoder that another program saved.

    Raises:
        ConfigError: a setting is wrong, or a library is not installed.
        CheckpointError: the file is absent or broken, holds code, or does not fit the network.
    """
    try:
        loaded = FAMILIES[target.family](target)
    except InvalidContent as why:
        raise ConfigError(f"target= does not fit: {why}.") from why.__cause__
    flaw = flaw_of_weights(loaded.encoder)
    if flaw is not None:
        raise CheckpointError(f"{target.weights or target.name} {flaw}: train or fetch it again.")
    note = loaded.preprocessing.note()
    return replace(loaded, notes=(*loaded.notes, note)) if note else loaded
