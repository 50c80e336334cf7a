"""The identity of an image as it is sent: uint8 pixels in, one content hash an image out."""

import hashlib

import numpy as np
from torch import Tensor

from stealing.data.images import Images

BLOCK = 1000
"""Images in memory at a time."""


def digests(images_uint8: Tensor) -> list[bytes]:
    """Return 16 bytes an image, a hash of shape and pixels: equal for equal images alone."""
    shape = str(tuple(images_uint8.shape[1:])).encode()
    hashes = list[bytes]()
    for pixels in images_uint8.cpu().numpy():
        hashes.append(hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest())
    return hashes


def digests_of(images: Images) -> list[bytes]:
    """Return the digests of a whole list of images, read block by block."""
    blocks = np.array_split(np.arange(len(images)), max(1, len(images) // BLOCK))
    hashes = list[bytes]()
    for block in blocks:
        hashes += digests(images.batch(block))
    return hashes
