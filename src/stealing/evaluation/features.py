"""Features of an encoder: uint8 images in, float32 features out, the same bits whatever the batches were."""

import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.encoders import Encoder

BLOCK = 250
"""Images a forward pass; fewer are padded to as many: a small batch differs from a large one in the last bits."""


@torch.inference_mode()
def encode(encoder: Encoder, images_uint8: Tensor) -> Tensor:
    """Features (N, D) on the CPU of uint8 images (N, 3, H, W), on the encoder's device, in eval mode.

    Weights, buffers and the training flag are left as they were.
    """
    training, device = encoder.training, encoder.mean.device
    encoder.eval()
    features = []
    for block in torch.split(images_uint8, BLOCK):
        padded = torch.cat([block, block.new_zeros(BLOCK - len(block), *block.shape[1:])])
        features.append(encoder(padded.to(device).float() / 255)[: len(block)].float().cpu())
    encoder.train(training)
    return torch.cat(features)


def encode_all(encoder: Encoder, images: Images) -> Tensor:
    """Features (N, D) of a whole list, fetched block by block."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(images), BLOCK)]
    return torch.cat([encode(encoder, images.batch(block)) for block in blocks])
