"""Features of an encoder: uint8 images in, float32 features out.

Features do not depend on the batches in which the images come, to the last bit.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.encoders import Encoder

BLOCK = 250
"""Images of each forward pass. Fewer are padded to this number: a convolution over a small batch
differs from one over a large batch in the last bits."""


def encode(encoder: Encoder, images_uint8: Tensor) -> Tensor:
    """Return features (N, D), on the CPU, of uint8 images (N, 3, H, W).

    The encoder computes on its own device, in eval mode. Its weights, buffers and training flag do
    not change.
    """
    return _encode_blocks(encoder, torch.split(images_uint8, BLOCK))


def encode_all(encoder: Encoder, images: Images) -> Tensor:
    """Return features (N, D) of a whole list, as `encode` does; images are read block by block."""
    return _encode_blocks(encoder, _blocks(images))


def _blocks(images: Images) -> Iterator[Tensor]:
    for start in range(0, len(images), BLOCK):
        yield images.batch(slice(start, start + BLOCK))


@torch.inference_mode()
def _encode_blocks(encoder: Encoder, blocks: Iterable[Tensor]) -> Tensor:
    """Return the features of blocks of at most BLOCK images, one after the other."""
    was_training = encoder.training
    device = encoder.mean.device
    encoder.eval()
    features = []
    for block in blocks:
        padding = block.new_zeros(BLOCK - len(block), *block.shape[1:])
        padded = send(torch.cat([block, padding]), device)
        padded_features = encoder(padded.float() / 255)
        features.append(padded_features[: len(block)].float())
    encoder.train(was_training)
    # One copy for all blocks: each copy would let a GPU run dry.
    return torch.cat(features).cpu()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on a device; a GPU goes on computing while it is copied."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
