"""What a thief has without asking anything: encoders that were never told about the target.

The strongest control, SimCLR on the query images, is trained like any encoder and so is made in `pretraining`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder


def untrained(arch: dict[str, Any], seed: int) -> Encoder:
    """The surrogate before its first step, with BatchNorm's default statistics."""
    return build_encoder(arch, seed).eval()


def calibrated(encoder: Encoder, images: Images, batch_size: int) -> Encoder:
    """The same weights with BatchNorm's statistics measured, as plain means over batches, on these images."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a cumulative mean
    encoder.train()
    with torch.inference_mode():
        for start in range(0, len(images) - batch_size + 1, batch_size):
            encoder(images.batch(slice(start, start + batch_size)).float() / 255)
    return encoder.eval()


def pixels(images: Images) -> Tensor:
    """The images themselves as features (N, 3 * H * W)."""
    return images.batch(slice(None)).flatten(1).float() / 255
