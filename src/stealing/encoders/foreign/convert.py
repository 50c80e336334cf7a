"""Commands about files of other programs: a checkpoint in; what it is, or our format, out.

python -m stealing.encoders inspect my/checkpoint.pth
python -m stealing.encoders convert my/checkpoint.pth my/encoder.safetensors --name resnet50
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stealing.encoders.checkpoints import read_checkpoint
from stealing.encoders.files import load_encoder, save_encoder
from stealing.encoders.foreign.load import load_foreign
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.torchvision_models import match_torchvision, outline
from stealing.errors import CheckpointError, ConfigError

GUESSES = (
    ("torchvision", "resnet18"),
    ("torchvision", "resnet34"),
    ("torchvision", "resnet50"),
    ("torchvision", "resnet101"),
    ("torchvision", "resnet152"),
    ("torchvision", "wide_resnet50_2"),
    ("torchvision", "densenet121"),
    ("torchvision", "mobilenet_v2"),
    ("torchvision", "vgg19_bn"),
    ("torchvision", "vit_b_16"),
    ("timm", "vit_tiny_patch16_224"),
    ("timm", "vit_small_patch16_224"),
    ("timm", "vit_base_patch16_224"),
    ("timm", "vit_small_patch8_224"),
    ("timm", "vit_base_patch8_224"),
    ("timm", "vit_large_patch16_224"),
)
"""Networks that are tried if the user names none, in this order; all others have to be named."""


def add_commands(commands: Any) -> None:
    """Add `inspect` and `convert` to a parser's commands; `run` of the result is what to call."""
    inspect = commands.add_parser("inspect", help="print what a checkpoint is")
    inspect.add_argument("file")
    convert = commands.add_parser("convert", help="write a checkpoint in this project's format")
    convert.add_argument("file")
    convert.add_argument("out", type=Path, help="ends in .safetensors; its card stands beside it")
    for command in (inspect, convert):
        command.add_argument("--family", help="torchvision or timm; another library cannot be kept")
        command.add_argument("--name", help="of the network in its library")
        command.add_argument("--pool", help="of timm: avg, max, token or map")
        command.add_argument("--stem", help="of a ResNet: imagenet, cifar or cont_steal")
        command.add_argument("--size", type=int, help="side of the images, in pixels")
        command.add_argument("--mean", type=float, nargs=3, help="of each channel of 0 to 1")
        command.add_argument("--std", type=float, nargs=3)
        command.add_argument("--interpolation", help="bilinear or bicubic")
        command.add_argument("--crop", type=float, help="share of the shorter side")
    inspect.set_defaults(run=_inspect)
    convert.set_defaults(run=_convert)


def _inspect(chosen: argparse.Namespace) -> None:
    """Print what a file is; a file of this project by its card."""
    path = Path(chosen.file)
    if path.with_suffix(".json").is_file() and path.suffix == ".safetensors":
        encoder, card = load_encoder(path)
        print(f"an encoder of this project: {card['arch']}")
        print(f"features: {encoder.feature_dim}, of images of {card['size']} pixels")
        return
    for line in lines_of(load_foreign(target_of(chosen))):
        print(line)


def _convert(chosen: argparse.Namespace) -> None:
    """Write a checkpoint as an encoder of this project, and print what it is."""
    loaded = load_foreign(target_of(chosen))
    convert(loaded, chosen.out, chosen.file)
    for line in lines_of(loaded):
        print(line)
    print(f"written: {chosen.out} and its card")


def convert(loaded: Loaded, out: Path, source: str) -> None:
    """Write a foreign encoder in this project's format.

    Args:
        loaded: what to write.
        out: ends in `.safetensors`.
        source: of the weights, for the card.

    Raises:
        CheckpointError: its network is not one that a card can name.
    """
    if loaded.description is None:
        raise CheckpointError(
            f"A card cannot name {loaded.architecture}: keep the file, and name it by target=."
        )
    save_encoder(
        loaded.encoder,
        out,
        arch=loaded.description,
        size=loaded.preprocessing.size,
        provenance={"made": {"by": loaded.source, "of": Path(source).name}},
    )


def target_of(chosen: argparse.Namespace) -> ForeignTarget:
    """Return what the command line names, with the network that fits if it names none.

    Raises:
        ConfigError: no network that is tried fits.
        CheckpointError: the file cannot be read.
    """
    values = {name: value for name, value in vars(chosen).items() if value is not None}
    family = values.get("family") or "torchvision"
    if "name" not in values:
        family, values["name"] = guess(Path(chosen.file), chosen.family)
    return ForeignTarget.of({**values, "family": family, "weights": chosen.file})


def guess(path: Path, family: str | None) -> tuple[str, str]:
    """Return the first network of `GUESSES` that a checkpoint fits, as its library and its name.

    Raises:
        ConfigError: there is none.
        CheckpointError: the file cannot be read.
    """
    content = read_checkpoint(path)
    for library, name in _fitting(content, path):
        if family in (None, library):
            return library, name
    raise ConfigError(
        f"{path} is none of the networks that are tried: name its own by --family= and --name=."
    )


def _fitting(content: dict[str, Any], path: Path) -> Iterator[tuple[str, str]]:
    for library, name in GUESSES:
        network = outline(library, name)
        try:
            found = match_torchvision(content, network, path)
        except CheckpointError:
            continue
        own = network.state_dict()
        # The stems of ResNets differ, and are inferred from the weights later.
        if all(
            tensor.shape == own[weight].shape or weight == "conv1.weight"
            for weight, tensor in found.weights.items()
        ):
            yield library, name


def lines_of(loaded: Loaded) -> Iterator[str]:
    """Give what was recognised, one fact a line."""
    seen = loaded.preprocessing
    yield f"written by: {loaded.source}"
    yield f"network: {loaded.architecture}"
    yield f"features: {loaded.encoder.feature_dim}"
    yield f"images: {seen.size} pixels, {seen.interpolation}, crop {seen.crop:g}"
    yield f"mean: {' '.join(f'{value:g}' for value in seen.mean)}"
    yield f"std: {' '.join(f'{value:g}' for value in seen.std)}"
    yield f"left out: {', '.join(loaded.left_out) or 'nothing'}"
    for note in loaded.notes:
        yield f"note: {note}"
