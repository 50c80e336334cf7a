"""Image files in data URIs: URIs in, uint8 images out, or the reason why they are refused.

Nothing is resized, turned or recoloured. A file whose pixels would look different on a screen is
refused.
"""

import base64
import binascii
import io
import re

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stealing.service.errors import ApiError

URI = re.compile(r"data:image/(png|jpeg);base64,", re.ASCII)

METADATA = 2**16
"""Bytes that a file may hold besides twice its pixels."""

MAX_SCANS = 64
"""Most scans of a JPEG file: encoders make about ten, and each is a pass over all pixels."""

MAX_PACKED = 16
"""Most compressed texts and profiles of a PNG file: each unpacks to a thousand times its bytes."""

PACKED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")

ORIENTATION = 0x0112
"""The EXIF tag that turns or mirrors an image when it is shown."""


def pictures(uris: list[str], size: int) -> Tensor:
    """Return the images (B, 3, size, size) of data URIs.

    Raises:
        ApiError: one is not an image file of this kind and size.
    """
    images = [_picture(uri, place, size) for place, uri in enumerate(uris)]
    return torch.stack(images)


def _picture(uri: str, place: int, size: int) -> Tensor:
    """Return the image (3, size, size) of one data URI; `place` names it in a refusal."""
    kind, content = _file(uri, place, 2 * 3 * size * size + METADATA)
    _check_work(kind, content, place)
    try:
        with Image.open(io.BytesIO(content), formats=[kind.upper()]) as image:
            _check_image(image, place, size)
            if kind == "png":
                _check_png(content, place)
            _check_shown(image, place)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except ApiError:
        raise
    except Exception:  # Pillow has no common error for what a stranger's file can hold
        raise ApiError(422, f"input {place} is not a whole {kind} file: send one.") from None


def _file(uri: str, place: int, most: int) -> tuple[str, bytes]:
    """Return the kind and the bytes of a data URI's file."""
    start = URI.match(uri)
    if start is None:
        raise ApiError(
            422,
            f"input {place} is not a data URI of an image: send data:image/png;base64,... or jpeg.",
        )
    if len(uri) > start.end() + most * 4 // 3 + 4:
        raise ApiError(
            422,
            f"input {place} is larger than {most} bytes: send the image without its metadata.",
        )
    try:
        return start[1], base64.b64decode(uri[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            422, f"input {place} is not base64 after its comma: encode the file's bytes."
        ) from None


def _check_work(kind: str, content: bytes, place: int) -> None:
    """Refuse a small file that takes long to read, before it is read."""
    if kind == "jpeg":
        most = MAX_SCANS
        parts = content.count(b"\xff\xda")  # the marker that starts a scan
    else:
        most = MAX_PACKED
        parts = sum(content.count(name) for name in PACKED_CHUNKS)
    if parts > most:
        raise ApiError(
            422, f"input {place} holds {parts} scans, texts or profiles: send at most {most}."
        )


def _check_image(image: Image.Image, place: int, size: int) -> None:
    """Refuse another size, or other channels than red, green and blue."""
    if image.size != (size, size):
        width, height = image.size
        raise ApiError(
            422,
            f"input {place} is {width} by {height} pixels: send {size} by {size}, as it is read.",
        )
    if image.mode != "RGB":
        raise ApiError(
            422, f"input {place} is of mode {image.mode}: send eight bits of red, green and blue."
        )


def _check_shown(image: Image.Image, place: int) -> None:
    """Refuse a file that a screen shows differently from its pixels."""
    if getattr(image, "n_frames", 1) != 1:
        raise ApiError(422, f"input {place} holds several images: send one.")
    if image.getexif().get(ORIENTATION, 1) != 1:
        raise ApiError(
            422, f"input {place} is turned by its EXIF orientation: send the pixels upright."
        )


def _check_png(content: bytes, place: int) -> None:
    """Refuse what Pillow would change or leave out silently."""
    if content[12:16] != b"IHDR":
        raise ApiError(422, f"input {place} is not a whole png file: send one.")
    offset = 8  # behind the signature; each chunk is length, name, content and checksum
    while offset < len(content):
        length = int.from_bytes(content[offset : offset + 4])
        name = content[offset + 4 : offset + 8]
        if name == b"IHDR" and content[offset + 16] != 8:
            raise ApiError(
                422, f"input {place} has {content[offset + 16]} bits a channel: send eight."
            )
        if name == b"tRNS":
            raise ApiError(
                422, f"input {place} has transparent pixels: send only red, green and blue."
            )
        if name == b"acTL":
            raise ApiError(422, f"input {place} is animated: send one image.")
        offset += 12 + length
