"""Image files whose pixels the service would change are refused; others are read exactly."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from measuring import within_mebibytes
from PIL import Image
from serving import SIZE, noise

from stealing.service.errors import ApiError
from stealing.service.pictures import pictures


def uri_of(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def handmade(size: int, depth: int) -> bytes:
    """A PNG of red, green and blue with rows of the small size, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, depth, 2, 0, 0, 0))
    rows = b"".join(b"\x00" + bytes(range(3 * SIZE * depth // 8)) for _ in range(SIZE))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


RGB = Image.fromarray(noise(1)[0].permute(1, 2, 0).numpy())


def altered_pictures() -> dict[str, tuple[bytes, str, str]]:
    other = Image.fromarray(noise(1, 5)[0].permute(1, 2, 0).numpy())
    return {
        "sixteen bits": (handmade(SIZE, 16), "png", "16 bits a channel"),
        "a colour that is transparent": (saved(RGB, transparency=(0, 0, 0)), "png", "transparent"),
        "an alpha channel": (saved(RGB.convert("RGBA")), "png", "mode RGBA"),
        "a palette": (saved(RGB.convert("P")), "png", "mode P"),
        "an animation": (saved(RGB, save_all=True, append_images=[other]), "png", "animated"),
        "grey": (saved(RGB.convert("L")), "png", "mode L"),
        "a turned PNG": (saved(RGB, exif=exif(6)), "png", "orientation"),
        "a turned JPEG": (saved(RGB, "JPEG", exif=exif(3)), "jpeg", "orientation"),
        "four inks": (saved(RGB.convert("CMYK"), "JPEG"), "jpeg", "mode CMYK"),
        "several JPEGs": (
            saved(RGB, "MPO", save_all=True, append_images=[other]),
            "jpeg",
            "several",
        ),
        "a bomb": (handmade(6000, 8), "png", "6000 by 6000"),
        "much metadata": (saved(RGB) + b"x" * 70_000, "png", "larger than"),
        "no picture": (b"GIF89a", "png", "not a whole png"),
    }


@pytest.mark.parametrize("what", list(altered_pictures()))
def test_a_picture_that_would_be_changed_is_refused(what: str) -> None:
    content, kind, words = altered_pictures()[what]
    with within_mebibytes(60), pytest.raises(ApiError, match=words) as caught:
        pictures([uri_of(content, kind)], SIZE)
    assert caught.value.status == 422


def test_pictures_that_lose_nothing_are_taken_as_they_are() -> None:
    for content in (
        saved(RGB),
        saved(RGB, optimize=True),
        saved(RGB, exif=exif(1)),
        saved(RGB, dpi=(300, 300)),
    ):
        assert torch.equal(pictures([uri_of(content)], SIZE)[0], noise(1)[0])
    for options in ({"progressive": True}, {"quality": 100, "subsampling": 0}):
        content = saved(RGB, "JPEG", **options)
        expected = np.array(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        assert np.array_equal(pictures([uri_of(content, "jpeg")], SIZE)[0].numpy(), expected)
