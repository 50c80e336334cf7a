"""Controls: what an attacker has without a query, as encoders or features.

The control SimCLR on the query images is trained by `stealing.pretraining`. Independent encoders,
which a user may name, come from files; they are never C.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from stealing.config import instantiate_node
from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder, load_encoder
from stealing.encoders.initial import has_public_start, random_start
from stealing.errors import ConfigError
from stealing.evaluation.features import send
from stealing.evaluation.protocol import BESIDE


@dataclass(frozen=True)
class Independent:
    """An encoder of the target's kind that was trained without it.

    Attributes:
        path: of its file, with its card beside it.
    """

    path: str


@dataclass(frozen=True)
class Distilled:
    """The attack on an independent encoder in place of the target.

    Attributes:
        path: of the independent encoder's file, with its card beside it.
    """

    path: str


@dataclass(frozen=True)
class LoadedControl:
    """An independent encoder that a run names.

    Attributes:
        control: what is done with it.
        encoder: in eval mode.
        size: height and width of the images that it takes, in pixels.
    """

    control: Independent | Distilled
    encoder: Encoder
    size: int


def load_controls(config: DictConfig, target: str | None = None) -> dict[str, LoadedControl]:
    """Return the independent encoders that a run names under `controls`, by name.

    Args:
        config: of the run.
        target: fingerprint of the target, if it is known.

    Raises:
        ConfigError: one of them is the target itself, or has a name that is not one of `BESIDE`.
        CheckpointError, DamageError: as `load_encoder` does.
    """
    controls = dict[str, LoadedControl]()
    for name, node in config.controls.items():
        if name not in BESIDE:
            raise ConfigError(f"controls.{name} is not known: choose from {', '.join(BESIDE)}.")
        control: Independent | Distilled = instantiate_node(node)
        encoder, card = load_encoder(Path(control.path), config.trust)
        if encoder.fingerprint == target:
            raise ConfigError(
                f"controls.{name}.path is the target itself: name an encoder that was trained "
                "without it."
            )
        controls[str(name)] = LoadedControl(control, encoder, int(card["size"]))
    return controls


def check_controls(config: DictConfig) -> None:
    """Refuse independent encoders that cannot be loaded, or take images of another size.

    Raises:
        ConfigError, CheckpointError, DamageError: the message says what to change.
    """
    for name, loaded in load_controls(config).items():
        if loaded.size != config.data.size:
            raise ConfigError(
                f"controls.{name}.path takes images of {loaded.size} pixels, and data.size is "
                f"{config.data.size}: name an encoder of that size."
            )


PIXEL_SIDE = 32
"""Largest height and width of images whose pixels are features as they are."""

PIXEL_BLOCK = 100
"""Larger images that are reduced at once; this bounds the memory for their floats."""


def untrained(arch: dict[str, Any], seed: int) -> Encoder:
    """Return the surrogate with random weights, with BatchNorm's default statistics."""
    return build_encoder(random_start(arch), seed).eval()


def both_untrained(
    arch: dict[str, Any],
    seed: int,
    images: Images,
    batch_size: int,
    device: str,
) -> dict[str, Encoder]:
    """Return the untrained surrogate, with default and with measured BatchNorm statistics.

    Args:
        arch: of the surrogate.
        seed: of its initial weights.
        images: the query images.
        batch_size: images a batch; see `calibrated`.
        device: where the statistics are measured.
    """
    # Two networks: `calibrated` changes the one that it is given.
    same = untrained(arch, seed).to(device)
    return {
        "untrained": untrained(arch, seed),
        "untrained_calibrated": calibrated(same, images, batch_size),
    }


def public(arch: dict[str, Any], seed: int) -> Encoder | None:
    """Return the public encoder that the surrogate's training starts from; None without one."""
    return build_encoder(arch, seed).eval() if has_public_start(arch) else None


def calibrated(
    encoder: Encoder,
    images: Images,
    batch_size: int,
) -> Encoder:
    """Measure BatchNorm's statistics on these images; the weights stay as they are.

    Args:
        encoder: changed in place, and returned in eval mode; it computes on its own device.
        images: the query images.
        batch_size: images a batch. The statistics are plain means over whole batches.
    """
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # PyTorch computes a cumulative mean then
    encoder.train()
    with torch.inference_mode():
        # A smaller last batch is left out: it would count as much as a whole one.
        for start in range(0, len(images) - batch_size + 1, batch_size):
            batch = send(images.batch(slice(start, start + batch_size)), encoder.mean.device)
            encoder(batch.float() / 255)
    return encoder.eval()


def pixel_side(size: int) -> int:
    """Return height and width of the images whose pixels are features; see `pixels`."""
    return min(size, PIXEL_SIDE)


def pixels(images: Images) -> Tensor:
    """Return the pixels themselves as features (N, 3 * S * S), in [0, 1].

    S is `pixel_side`. Larger images are averaged over the area of each of the S x S places, which
    is antialiased: a linear probe on all pixels of a photograph would have more weights than any
    encoder's, and take hours.
    """
    side = pixel_side(images.size)
    if side == images.size:
        return images.batch(slice(None)).flatten(1).float() / 255
    features = []
    for start in range(0, len(images), PIXEL_BLOCK):
        block = images.batch(slice(start, start + PIXEL_BLOCK)).float() / 255
        features.append(F.adaptive_avg_pool2d(block, side).flatten(1))
    return torch.cat(features)
