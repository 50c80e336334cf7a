"""Towers of open_clip: a model's name and a file of weights in, an encoder out.

The features are those of `encode_image`, before they are normalised: the projected ones, which a
text can be compared with. The text tower is built only for the zero-shot head.
"""

import copy
import json
from pathlib import Path
from typing import Any

from torch import nn

from stealing.artefacts import key
from stealing.encoders.checkpoints import read_checkpoint
from stealing.encoders.foreign.loaded import (
    ForeignTarget,
    Loaded,
    Preprocessing,
    known_interpolation,
)
from stealing.encoders.foreign.matching import check_shapes, fill, match
from stealing.encoders.foreign.names import IMAGE_TOWER
from stealing.encoders.foreign.text_tower import TextTower
from stealing.encoders.foreign.tower import Tower, checked, file_of, import_extra
from stealing.errors import ConfigError
from stealing.reading import first_line, quoted, read_json

EXTRA = ("open_clip", "open_clip_torch", "open_clip")

VOCABULARY = 49408
"""Tokens of open_clip's own tokenizer, the default of its configurations."""

CONTEXT = 77
"""Tokens of a prompt, likewise."""


def load_open_clip(target: ForeignTarget) -> Loaded:
    """Load the image tower of a CLIP; see `stealing.encoders.foreign.load`."""
    config, transforms = configuration(str(target.name))
    vision = config["vision_cfg"]
    preprocessing = _preprocessing(vision, transforms).overridden(target)
    vision["image_size"] = preprocessing.size
    # A configuration may ask for weights of timm, which would be fetched.
    vision["timm_model_pretrained"] = False
    variant = f"open_clip {key(**config)}"
    path = Path(file_of(target))
    if target.hub:
        open_clip = import_extra(*EXTRA)
        model = open_clip.create_model(str(target.name), pretrained=target.weights)
        encoder = checked(Tower(model.visual, variant), preprocessing)
        return Loaded(encoder, preprocessing, "open_clip", str(target.name))
    network = vision_tower(config)
    found = match(read_checkpoint(path), network.state_dict(), path)
    notes = check_shapes(found.weights, network.state_dict(), path)
    fill(network, found.weights)
    encoder = checked(Tower(network, variant), preprocessing)
    return Loaded(
        encoder,
        preprocessing,
        "open_clip",
        str(target.name),
        left_out=found.left_out,
        notes=tuple(notes),
    )


def load_open_clip_text(target: ForeignTarget) -> TextTower:
    """Load the text tower of a CLIP; see `stealing.encoders.foreign.load`."""
    config, _ = configuration(str(target.name))
    settings = dict(config.get("text_cfg") or {})
    if "hf_model_name" in settings:
        raise ConfigError(
            f"The text tower of {target.name} is a model of transformers, which is not read here: "
            "leave probe=zero_shot out."
        )
    path = Path(file_of(target))
    if target.hub:
        open_clip = import_extra(*EXTRA)
        model = open_clip.create_model(str(target.name), pretrained=target.weights)
        content = dict(model.state_dict())
    else:
        content = read_checkpoint(path)
    is_quick = bool(config.get("quick_gelu", False))
    build = import_extra("open_clip.model", *EXTRA[1:])._build_text_tower
    try:
        network: nn.Module = build(config["embed_dim"], settings, is_quick)
        tokenize = _tokenizer(target, settings)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"open_clip cannot build its text tower: {first_line(error)}.") from None
    found = match(content, network.state_dict(), path, beside=IMAGE_TOWER)
    check_shapes(found.weights, network.state_dict(), path)
    fill(network, found.weights)
    tower = Tower(network, f"open_clip text {key(quick=is_quick, **settings)}")
    return TextTower(tower.eval(), tokenize, int(settings.get("vocab_size", VOCABULARY)))


def _tokenizer(target: ForeignTarget, settings: dict[str, Any]) -> Any:
    """Return open_clip's own tokenizer, or the one of the hub that a configuration names."""
    open_clip = import_extra(*EXTRA)
    if "hf_tokenizer_name" not in settings:
        length = int(settings.get("context_length", CONTEXT))
        clean = (settings.get("tokenizer_kwargs") or {}).get("clean", "lower")
        return open_clip.SimpleTokenizer(context_length=length, clean=clean)
    if not target.hub:
        raise ConfigError(
            f"The tokenizer of {target.name} is not in open_clip: set target.hub=true to fetch it, "
            "or leave probe=zero_shot out."
        )
    return open_clip.get_tokenizer(str(target.name))


def configuration(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of a model, and what its images undergo.

    Args:
        name: of open_clip, or of a JSON file of such a configuration.

    Raises:
        ConfigError: open_clip is absent, has no such model, or the file is no configuration.
    """
    open_clip = import_extra(*EXTRA)
    if name.endswith(".json"):
        values = read_json(Path(name), ConfigError)
        # The hub's files hold both parts.
        config = values.get("model_cfg", values) if isinstance(values, dict) else None
        if not isinstance(config, dict) or not isinstance(config.get("vision_cfg"), dict):
            raise ConfigError(f"{name} has no vision_cfg: name a configuration of open_clip.")
        return config, dict(values.get("preprocess_cfg") or {})
    config = None if ":" in name else open_clip.get_model_config(name)
    if config is None:
        raise ConfigError(
            f"open_clip has no model {quoted(name)}: open_clip.list_models() has the names."
        )
    transforms: dict[str, Any] = {}
    # Weights of one model agree in their normalisation but for a few; the first tag decides.
    for tag in open_clip.list_pretrained_tags_by_model(name)[:1]:
        transforms = dict(open_clip.get_pretrained_cfg(name, tag))
    return copy.deepcopy(config), transforms


def vision_tower(config: dict[str, Any]) -> nn.Module:
    """Build the image tower of a configuration.

    Raises:
        ConfigError: it is not one that open_clip builds.
    """
    build = import_extra("open_clip.model", *EXTRA[1:])._build_vision_tower
    is_quick = bool(config.get("quick_gelu", False))
    try:
        network: nn.Module = build(config["embed_dim"], config["vision_cfg"], is_quick)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"open_clip cannot build {json.dumps(config)[:60]}: {error}.") from None
    return network


def _preprocessing(vision: dict[str, Any], transforms: dict[str, Any]) -> Preprocessing:
    clip = import_extra("open_clip.constants", *EXTRA[1:])
    size = vision.get("image_size", 224)
    return Preprocessing(
        size=int(size[0] if isinstance(size, list | tuple) else size),
        mean=tuple(transforms.get("mean") or clip.OPENAI_DATASET_MEAN),
        std=tuple(transforms.get("std") or clip.OPENAI_DATASET_STD),
        interpolation=known_interpolation(str(transforms.get("interpolation", "bicubic"))),
    )
