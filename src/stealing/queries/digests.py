"""The identity of an image as it is sent: uint8 pixels in, one content hash an image out."""

import hashlib

import numpy as np
from torch import Tensor

from stealing.data.images import Images


def digests(images_uint8: Tensor) -> list[bytes]:
    """16 bytes an image, of its shape and pixels: equal images, and no others, have equal digests."""
    shape = str(tuple(images_uint8.shape[1:])).encode()
    return [hashlib.blake2b(shape + row.tobytes(), digest_size=16).digest() for row in images_uint8.cpu().numpy()]


def digests_of(images: Images) -> list[bytes]:
    """The digests of a whole list, read block by block."""
    blocks = np.array_split(np.arange(len(images)), max(1, len(images) // 1000))
    return [digest for block in blocks for digest in digests(images.batch(block))]
