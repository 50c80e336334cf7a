"""Encoders of torchvision: a network's name and a file of weights in, an encoder out.

Most self-supervised checkpoints are torchvision's ResNets under other names, and are read here too.
"""

from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from stealing.encoders.architectures import networks
from stealing.encoders.building import build_seeded
from stealing.encoders.checkpoints import read_checkpoint
from stealing.encoders.foreign.loaded import (
    CIFAR_MEAN,
    CIFAR_STD,
    ForeignTarget,
    Loaded,
    Preprocessing,
    known_interpolation,
)
from stealing.encoders.foreign.matching import Match, Spelling, check_shapes, fill, match
from stealing.encoders.foreign.names import SOLO_STEM
from stealing.encoders.transformer import NETWORKS
from stealing.errors import ConfigError
from stealing.reading import quoted

CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
"""Parts of a ResNet in torchvision's order. StolenEncoder and lightly name them by their number."""

SMALL = 32
"""Side of the images of a ResNet with a 3x3 stem, in pixels."""


def load_torchvision(target: ForeignTarget) -> Loaded:
    """Load a network of torchvision; see `stealing.encoders.foreign.load`."""
    name = str(target.name)
    if name not in (*networks(), *NETWORKS):
        raise ConfigError(
            f"target.name={quoted(name)} is no network of torchvision that is known here: "
            f"{', '.join(NETWORKS)} are, and resnet50 and other convolutional networks."
        )
    path = Path(target.weights) if target.weights else None
    content = read_checkpoint(path) if path else _fetched(name, target)
    path = path or Path(name)
    found = match_torchvision(content, outline("torchvision", name), path)
    stem = target.stem or _stem_of(name, found)
    preprocessing = _preprocessing(name, stem).overridden(target)
    notes = list[str]()
    if stem != "imagenet" and target.mean is None:
        notes.append(
            "a ResNet with a 3x3 stem: CIFAR-10's mean and std are taken; if it was trained on "
            "other images, set target.mean= and target.std="
        )
    if target.stem is None and stem == "cifar":
        notes.append("the padding of its stem is not in the weights: target.stem=cifar is taken")
    description = preprocessing.around(_backbone(name, stem, preprocessing.size))
    encoder = build_seeded(description, 0, ())
    network: Any = encoder.backbone.backbone.network  # type: ignore[union-attr]
    notes += check_shapes(found.weights, network.state_dict(), path)
    fill(network, found.weights)
    return Loaded(
        encoder.eval(),
        preprocessing,
        found.source,
        name,
        description,
        found.left_out,
        tuple(notes),
    )


def _backbone(name: str, stem: str, size: int | None) -> dict[str, Any]:
    """Return the description of the network without preprocessing."""
    if name in NETWORKS:
        return {"class": "Transformer", "name": name, "size": size or 224}
    return {"class": "Headless", "name": name, "stem": stem}


def outline(library: str, name: str) -> Any:
    """Build a network of torchvision or timm without memory for its weights."""
    backbone = _backbone(name, "imagenet", None)
    if library == "timm":
        backbone = {"class": "Timm", "name": name}
    encoder = build_seeded(Preprocessing(224).around(backbone), 0, (), "meta")
    return encoder.backbone.backbone.network  # type: ignore[union-attr]


def match_torchvision(content: dict[str, Any], network: Any, path: Path) -> Match:
    """Match a checkpoint with a network whose parts may be named by their number.

    Raises:
        CheckpointError: it does not fit.
    """
    names = list(network.state_dict())
    return match(content, names, path, *by_number(names))


def _fetched(name: str, target: ForeignTarget) -> dict[str, Any]:
    """Fetch torchvision's weights of a network."""
    if not target.hub:
        raise ConfigError(
            "target.weights= names no file: name one, or set target.hub=true to fetch "
            "torchvision's own weights of this network."
        )
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    state: dict[str, Any] = weights.get_state_dict(progress=False, check_hash=True)
    return state


def by_number(names: list[str]) -> list[Spelling]:
    """Return the spellings of a ResNet as a sequence of its parts, with its max-pool or without.

    There are none for other networks.
    """
    spellings = list[Spelling]()
    if "layer4.0.conv1.weight" not in names:
        return spellings
    without = tuple(part for part in CHILDREN if part != "maxpool")
    for children in (CHILDREN, without):
        spelling = dict[str, str]()
        for name in names:
            part, _, rest = name.partition(".")
            spelling[f"{children.index(part)}.{rest}"] = name
        spellings.append(spelling)
    return spellings


def _stem_of(name: str, found: Match) -> str:
    """Return the stem of a ResNet, from the kernel of its first convolution."""
    kernel: Tensor | None = found.weights.get("conv1.weight")
    if kernel is None or kernel.shape[-1] != 3:
        return "imagenet"
    return SOLO_STEM if found.source == "solo-learn" else "cifar"


def _preprocessing(name: str, stem: str) -> Preprocessing:
    """Return what torchvision documents for its weights, or what small ResNets are trained with."""
    if stem != "imagenet":
        return Preprocessing(SMALL, CIFAR_MEAN, CIFAR_STD)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    transforms = weights.transforms()
    [size] = transforms.crop_size
    [resized] = transforms.resize_size
    return Preprocessing(
        size=size,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=known_interpolation(transforms.interpolation.value),
        crop=min(1.0, size / resized),
    )
