"""Controls: what an attacker has without a query, as encoders or features.

The strongest control, SimCLR on the query images, is trained by `stealing.pretraining`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder
from stealing.evaluation.features import send


def untrained(arch: dict[str, Any], seed: int) -> Encoder:
    """Return the surrogate before its first step, with BatchNorm's default statistics."""
    return build_encoder(arch, seed).eval()


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


def pixels(images: Images) -> Tensor:
    """Return the pixels themselves as features (N, 3 * H * W), in [0, 1]."""
    return images.batch(slice(None)).flatten(1).float() / 255
