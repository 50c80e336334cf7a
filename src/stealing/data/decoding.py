"""Encoded images in, uint8 pixels of a given size out; an image that does not fit is refused."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stealing.config import usable_cores
from stealing.errors import DataError

BLOCK = 1000
"""Most images decoded between two steps of the progress bar."""

BLOCK_BYTES = 2**26
"""Most bytes of such a block of decoded images, if that is more than one image."""

PORTION = 25
"""Images that a worker decodes in a row: a small one takes less time than giving it to a worker."""


def fitting(size: int) -> int:
    """Return how many decoded images of this height and width a block holds in `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // (3 * size * size))


def decode_each(decode_one: Callable[[int], NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    """Return `decode_one(0)` to `decode_one(count - 1)` in one array, decoded by all cores.

    The workers are threads: Pillow lets go of the interpreter's lock while it decodes a file and
    while it resizes an image.

    Args:
        decode_one: returns the pixels (3, size, size) of the image at a place.
        count: number of images, at least 1.

    Raises:
        DataError: As `decode_one` raises it, for the first image that it refuses.
    """
    starts = range(0, count, PORTION)
    work = partial(_decode_portion, decode_one, count)
    with ThreadPoolExecutor(usable_cores()) as workers:
        # In order, so that the error is the one of the first image whichever worker is faster.
        return np.concatenate(list(workers.map(work, starts)))


def _decode_portion(
    decode_one: Callable[[int], NDArray[np.uint8]], count: int, start: int
) -> NDArray[np.uint8]:
    places = range(start, min(start + PORTION, count))
    return np.stack([decode_one(place) for place in places])


def decode(
    encoded: bytes | None,
    at: str,
    size: int,
    resize: str,
    grey: str,
) -> NDArray[np.uint8]:
    """Return one encoded image as uint8 (3, size, size).

    Args:
        encoded: a file in any format that Pillow reads.
        at: where it is from, for messages.
        size, resize, grey: as for `fit`.

    Raises:
        DataError: It cannot be decoded, or `fit` refuses it.
    """
    try:
        image = Image.open(io.BytesIO(encoded or b""))
        image.load()  # `open` alone reads no more than the header
    except Exception:  # each format has its own kinds of errors in Pillow
        raise DataError(
            f"{at}: the image cannot be decoded; fetch it again or leave it out."
        ) from None
    return fit(image, at, size, resize, grey)


def fit(
    image: Image.Image,
    at: str,
    size: int,
    resize: str,
    grey: str,
) -> NDArray[np.uint8]:
    """Return one decoded image as uint8 (3, size, size), changed only in the ways that are allowed.

    Args:
        image: as it was decoded.
        at: where it is from, for messages.
        size: height and width of the result in pixels.
        resize: `none` (another size is an error), `pad` (centred on black), `bilinear`
            (antialiased; both sides are scaled to `size`, which changes the aspect ratio), or
            `crop` (the centre square, then as bilinear).
        grey: `refuse`, or `repeat` (a grey image becomes three equal channels).

    Raises:
        DataError: Another size or mode than is allowed.
    """
    if image.mode != "RGB":
        is_grey = image.mode in ("L", "1")
        if not is_grey or grey != "repeat":
            raise DataError(
                f"{at}: the image is {image.mode}, not RGB; "
                "convert it (grey images: set grey=repeat)."
            )
        image = image.convert("RGB")
    if image.size != (size, size):
        image = _resize(image, at, size, resize)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def check_labels(
    labels: Sequence[int | None], classes: int, places: Sequence[str]
) -> NDArray[np.int64]:
    """Return labels as int64 (B,), each in [0, classes).

    Args:
        labels: as the source has them.
        classes: number of classes; 0 if it is not known, so that a label need only be >= 0.
        places: where each image is from, for messages.

    Raises:
        DataError: a label is not a class; with the place of the first.
    """
    for label, at in zip(labels, places, strict=True):
        is_class = label is not None and label >= 0 and (classes == 0 or label < classes)
        if not is_class:
            most = f" to {classes - 1}" if classes else ""
            raise DataError(
                f"{at}: the label {label} is not a class number from 0{most}; "
                "correct the label or the class names."
            )
    return np.array(labels, np.int64)


def _pad(image: Image.Image, size: int) -> Image.Image:
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def _bilinear(image: Image.Image, size: int) -> Image.Image:
    # Pillow widens the filter by the factor of a reduction: this is antialiased without an option.
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    # Not `resize(box=...)`: at the edge of a box its filter also reads pixels outside the square.
    return _bilinear(image.crop((left, top, left + side, top + side)), size)


_RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "pad": _pad,
    "crop": _crop,
    "bilinear": _bilinear,
}


def _resize(
    image: Image.Image,
    at: str,
    size: int,
    resize: str,
) -> Image.Image:
    is_too_large = resize == "pad" and max(image.size) > size
    if resize not in _RESIZE or is_too_large:
        raise DataError(
            f"{at}: the image is {image.width}x{image.height}, not {size}x{size}; "
            "set resize to pad (if smaller), crop or bilinear."
        )
    return _RESIZE[resize](image, size)
