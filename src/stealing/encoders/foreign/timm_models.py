"""Encoders of timm: a network's name and a file of weights in, an encoder out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from stealing.encoders.building import build_seeded
from stealing.encoders.checkpoints import read_checkpoint
from stealing.encoders.foreign.loaded import (
    ForeignTarget,
    Loaded,
    Preprocessing,
    known_interpolation,
)
from stealing.encoders.foreign.matching import Match, check_shapes, fill, match
from stealing.encoders.timm_network import converted, import_timm
from stealing.errors import CheckpointError, ConfigError


def load_timm(target: ForeignTarget) -> Loaded:
    """Load a network of timm; see `stealing.encoders.foreign.load`."""
    assert target.name is not None
    preprocessing = timm_preprocessing(target.name).overridden(target)
    backbone: dict[str, Any] = {"class": "Timm", "name": target.name, "pool": target.pool}
    if import_timm().get_pretrained_cfg(target.name).fixed_input_size:
        backbone["size"] = preprocessing.size
    description = preprocessing.around(backbone)
    if target.weights is None:
        return _fetched(target, preprocessing, description)
    path = Path(target.weights)
    encoder = build_seeded(description, 0, ())
    network: Any = encoder.backbone.backbone.network  # type: ignore[union-attr]
    found = match_timm(network, read_checkpoint(path), path)
    notes = check_shapes(found.weights, network.state_dict(), path)
    fill(network, found.weights)
    return Loaded(
        encoder.eval(),
        preprocessing,
        found.source,
        target.name,
        description,
        found.left_out,
        tuple(notes),
    )


def _fetched(
    target: ForeignTarget,
    preprocessing: Preprocessing,
    description: dict[str, Any],
) -> Loaded:
    """Load the public weights of a network."""
    if not target.hub:
        raise ConfigError(
            "target.weights= names no file: name one, or set target.hub=true to fetch timm's own "
            "weights of this network."
        )
    backbone = description["backbone"]["backbone"]
    public = {**backbone, "hub": True}
    wanted = preprocessing.around(public)
    encoder = build_seeded(wanted, 0, ())
    return Loaded(encoder.eval(), preprocessing, "timm", str(target.name), description)


def timm_preprocessing(name: str) -> Preprocessing:
    """Return what timm's own configuration of a network says.

    Raises:
        ConfigError: timm is absent, or has no such network.
    """
    timm = import_timm()
    if ":" in name or not timm.is_model(name):
        raise ConfigError(f"timm has no network {name!r}: timm.list_models() has the names.")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return Preprocessing(
        size=int(config["input_size"][-1]),
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config["std"]),
        interpolation=known_interpolation(config["interpolation"]),
        crop=min(1.0, float(config["crop_pct"])),
    )


def match_timm(network: Any, content: dict[str, Any], path: Path) -> Match:
    """Match a checkpoint with a network of timm, in timm's format or an earlier one.

    Raises:
        CheckpointError: it fits neither way.
    """
    own = network.state_dict()
    try:
        found = match(content, own, path)
    except CheckpointError:
        weights = converted(network, content)
        # Without a converter the first refusal is the better one.
        if weights is None or own.keys() - weights.keys():
            raise
        return match(weights, own, path)
    if all(tensor.shape == own[name].shape for name, tensor in found.weights.items()):
        return found
    # Position embeddings of another size of images.
    weights = converted(network, found.weights)
    return found if weights is None else replace(found, weights=weights)
