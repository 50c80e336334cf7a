"""Controls: what an attacker has without a query, as encoders or features.

The strongest control, SimCLR on the query images, is trained by `stealing.pretraining`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder
from stealing.encoders.initial import has_public_start, random_start
from stealing.evaluation.features import send

PIXEL_SIDE = 32
"""Largest height and width of images whose pixels are features as they are."""

PIXEL_BLOCK = 100
"""Larger images that are reduced at once; this bounds the memory for their floats."""


def untrained(arch: dict[str, Any], seed: int) -> Encoder:
    """Return the surrogate with random weights, with BatchNorm's default statistics."""
    return build_encoder(random_start(arch), seed).eval()


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
