"""The identity of an image as it is sent: uint8 pixels in, one content hash an image out."""

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from stealing.data.images import Images

BLOCK = 1000
"""Images in memory at a time."""


def digests(images_uint8: Tensor) -> list[bytes]:
    """Return 16 bytes an image, a hash of shape and pixels; only equal images have equal ones."""
    shape = tuple(images_uint8.shape[1:])
    begun = hashlib.blake2b(str(shape).encode(), digest_size=16)
    # slices of one block of bytes: pixels are hashed where they are, and not copied first
    pixels = images_uint8.cpu().contiguous().numpy().reshape(-1).data
    size = math.prod(shape)
    hashes = list[bytes]()
    for start in range(0, len(pixels), size):
        image_hash = begun.copy()
        image_hash.update(pixels[start : start + size])
        hashes.append(image_hash.digest())
    return hashes


def iterate_digests(images: Images) -> Iterator[bytes]:
    """Yield the digest of each image of a list; a block is read when its first one is wanted."""
    for block in np.array_split(np.arange(len(images)), max(1, len(images) // BLOCK)):
        yield from digests(images.batch(block))


def digests_of(images: Images) -> list[bytes]:
    """Return the digests of a whole list of images, read block by block."""
    return list(iterate_digests(images))
