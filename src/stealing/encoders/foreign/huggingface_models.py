"""Towers of transformers: a local folder in, an encoder out. No code of the folder runs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stealing.artefacts import key
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded, Preprocessing
from stealing.encoders.foreign.matching import is_left_out
from stealing.encoders.foreign.names import IMAGE_TOWER
from stealing.encoders.foreign.text_tower import TextTower
from stealing.encoders.foreign.tower import Tower, checked, import_extra
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import first_line, quoted, read_json

EXTRA = ("transformers", "transformers", "huggingface")
RESAMPLES = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations."""


@dataclass(frozen=True)
class Kind:
    """How the features of one kind of model are taken.

    Attributes:
        network: name of the class in transformers.
        output: name of the features in its answer.
    """

    network: str
    output: str


KINDS = {
    "clip": Kind("CLIPVisionModelWithProjection", "image_embeds"),
    "clip_vision_model": Kind("CLIPVisionModelWithProjection", "image_embeds"),
    "dinov2": Kind("Dinov2Model", "pooler_output"),
    "siglip": Kind("SiglipVisionModel", "pooler_output"),
    "siglip_vision_model": Kind("SiglipVisionModel", "pooler_output"),
}
"""By `model_type` of the configuration. Of CLIP and SigLIP, the features are the projected ones,
which a text can be compared with."""

TEXT_KINDS = {
    "clip": Kind("CLIPTextModelWithProjection", "text_embeds"),
    "siglip": Kind("SiglipTextModel", "pooler_output"),
}
"""Text towers, likewise."""


def load_huggingface(target: ForeignTarget) -> Loaded:
    """Load the image tower of a model of transformers; see `stealing.encoders.foreign.load`."""
    transformers = import_extra(*EXTRA)
    folder = _folder(target)
    values = _configuration(folder)
    name = values.get("model_type")
    kind = KINDS.get(str(name))
    if kind is None:
        raise ConfigError(
            f"{folder} is a model of the type {quoted(name)}: {', '.join(KINDS)} are known."
        )
    network_class = getattr(transformers, kind.network)
    # A full CLIP has a configuration for each tower.
    arguments = _arguments(values, values.get("vision_config") or values)
    preprocessing = _preprocessing(folder, target)
    network, left_out = _network(network_class, network_class.config_class(**arguments), folder)
    tower = Tower(network, f"{kind.network} {key(**arguments)}", _taker(kind.output))
    encoder = checked(tower, preprocessing)
    return Loaded(
        encoder,
        preprocessing,
        f"transformers, {name}",
        kind.network,
        left_out=left_out,
    )


def load_huggingface_text(target: ForeignTarget) -> TextTower:
    """Load the text tower of a CLIP or SigLIP; see `stealing.encoders.foreign.load`."""
    transformers = import_extra(*EXTRA)
    folder = _folder(target)
    values = _configuration(folder)
    kind = TEXT_KINDS.get(str(values.get("model_type")))
    if kind is None or "text_config" not in values:
        raise ConfigError(
            f"{folder} has no text tower: name a folder with both towers, of the type "
            f"{' or '.join(TEXT_KINDS)}, or leave probe=zero_shot out."
        )
    network_class = getattr(transformers, kind.network)
    arguments = _arguments(values, values["text_config"])
    config = network_class.config_class(**arguments)
    network, _ = _network(network_class, config, folder, IMAGE_TOWER)
    tower = Tower(network, f"{kind.network} {key(**arguments)}", _taker(kind.output))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, RuntimeError, TypeError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"transformers cannot load the tokenizer of {folder}: {first_line(error)}."
        ) from None

    def tokenize(prompts: list[str]) -> Any:
        # SigLIP was trained with prompts of one length, and reads the last token.
        answer = tokenizer(
            prompts,
            padding="max_length",
            max_length=int(config.max_position_embeddings),
            truncation=True,
            return_tensors="pt",
        )
        return answer["input_ids"]

    return TextTower(tower.eval(), tokenize, int(config.vocab_size))


def _configuration(folder: Path) -> dict[str, Any]:
    values = read_json(folder / "config.json", ConfigError)
    return values if isinstance(values, dict) else {}


def _arguments(values: dict[str, Any], tower: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of one tower, with the width that both have in common."""
    arguments = dict(tower)
    if "projection_dim" in values:
        arguments["projection_dim"] = values["projection_dim"]
    return arguments


def _network(
    network_class: Any, config: Any, folder: Path, beside: Collection[str] = ()
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a network with the weights of a folder, and the names that are left out.

    transformers knows how the names in files differ from its present ones, and reads pickles with
    `weights_only`.

    Raises:
        ConfigError: there is no such network.
        CheckpointError: a weight is absent, of another shape, or unknown.
    """
    try:
        network, names = network_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"transformers cannot load {folder}: {first_line(error)}.") from None
    faults = [f"it lacks {quoted(name)}" for name in sorted(names["missing_keys"])]
    for name, *_ in sorted(names["mismatched_keys"]):
        faults.append(f"{quoted(name)} has another shape")
    left_out = sorted(names["unexpected_keys"])
    for name in left_out:
        if not is_left_out(name, "") and name.split(".")[0] not in beside:
            faults.append(f"{quoted(name)} is no weight of it")
    if faults:
        raise CheckpointError(
            f"{folder} does not fit {network_class.__name__}: {faults[0]}; fetch it again."
        )
    return network, tuple(left_out)


def _taker(output: str) -> Callable[[Any], Any]:
    def take(answer: Any) -> Any:
        return getattr(answer, output)

    return take


def _folder(target: ForeignTarget) -> Path:
    """Return the local folder of a model, fetched if the user allows it."""
    name = str(target.name)
    if Path(name).is_dir():
        return Path(name)
    if not target.hub:
        raise ConfigError(
            f"target.name={name} is not a folder: name one that save_pretrained wrote, or set "
            "target.hub=true to fetch it."
        )
    hub = import_extra("huggingface_hub", *EXTRA[1:])
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} cannot be fetched from the hub ({error}).") from None


def _preprocessing(folder: Path, target: ForeignTarget) -> Preprocessing:
    """Return what the folder's preprocessor_config.json says, with the user's own values."""
    values = read_json(folder / "preprocessor_config.json", ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{folder}/preprocessor_config.json is not a mapping.")
    resized = _side(values.get("size"), 224)
    size = resized
    if values.get("do_center_crop"):
        size = _side(values.get("crop_size"), resized)
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    if values.get("do_normalize", True):
        mean = tuple(values.get("image_mean", mean))
        std = tuple(values.get("image_std", std))
    interpolation = RESAMPLES.get(values.get("resample", 3), "bicubic")
    return Preprocessing(size, mean, std, interpolation, min(1.0, size / resized)).overridden(
        target
    )


def _side(value: Any, otherwise: int) -> int:
    """Return the side of an image from one of the forms that the files have."""
    if isinstance(value, dict):
        value = value.get("shortest_edge") or value.get("height")
    return value if type(value) is int and value > 0 else otherwise
