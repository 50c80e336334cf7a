"""Features of an encoder: uint8 images in, float32 features out.

Features do not depend on the batches in which the images come, to the last bit.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.encoders import Encoder

BLOCK = 250
"""Most images of a forward pass."""

BLOCK_PIXELS = BLOCK * 96 * 96
"""Most pixels of a forward pass, in each channel: networks of usual kinds take some GB for them."""


def block_size(height: int, width: int) -> int:
    """Return how many images of this size each forward pass has.

    Fewer are padded to this number: a convolution over a small batch differs from one over a large
    batch in the last bits.
    """
    return max(1, min(BLOCK, BLOCK_PIXELS // (height * width)))


def encode(encoder: Encoder, images_uint8: Tensor) -> Tensor:
    """Return features (N, D), on the CPU, of uint8 images (N, 3, H, W).

    The encoder computes on its own device, in eval mode. Its weights, buffers and training flag do
    not change.
    """
    count = block_size(*images_uint8.shape[2:])
    return _encode_blocks(encoder, torch.split(images_uint8, count))


def encode_all(encoder: Encoder, images: Images) -> Tensor:
    """Return features (N, D) of a whole list, as `encode` does; images are read block by block."""
    return _encode_blocks(encoder, _blocks(images))


def _blocks(images: Images) -> Iterator[Tensor]:
    count = block_size(images.size, images.size)
    for start in range(0, len(images), count):
        yield images.batch(slice(start, start + count))


@torch.inference_mode()
def _encode_blocks(encoder: Encoder, blocks: Iterable[Tensor]) -> Tensor:
    """Return the features of blocks of at most `block_size` images, one after the other."""
    was_training = encoder.training
    device = encoder.mean.device
    encoder.eval()
    features = []
    for block in blocks:
        count = block_size(*block.shape[2:])
        padding = block.new_zeros(count - len(block), *block.shape[1:])
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
