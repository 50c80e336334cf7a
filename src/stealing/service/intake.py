"""What clients send, believed only as far as it was checked: bodies in, uint8 images or the reason why not out.

Nothing is resized or recoloured: a picture has the encoder's own size and eight bits of red, green and blue.
"""

import asyncio
import base64
import binascii
import io
import re
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

from stealing.service.errors import Denied
from stealing.targets.wire import Garbled, unpack_tensors

URI = re.compile(r"data:image/(png|jpeg);base64,", re.ASCII)


class Embeddings(BaseModel):
    """Body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=200)]
    input: str | list[str] = Field(description="data URIs of PNG or JPEG pictures")
    encoding_format: Literal["float", "base64"] = "float"
    modality: Literal["image"] = "image"
    user: Annotated[str, Field(max_length=200)] | None = None


async def body_of(request: Request, most: int, patience: float) -> bytes:
    """The whole body.

    Raises:
        Denied: larger than `most` bytes, or not here within `patience` seconds.
    """
    too_large = Denied(413, f"The body is larger than {most} bytes: send fewer images a request.")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for part in request.stream():
                content += part
                if len(content) > most:
                    raise too_large
    except TimeoutError:
        raise Denied(408, f"The body did not arrive within {patience:.0f} seconds: send it faster.") from None
    except ClientDisconnect:
        raise Denied(400, "The client went away.") from None
    return bytes(content)


def embeddings(body: bytes, most: int) -> tuple[Embeddings, list[str]]:
    """The parsed body, and its data URIs.

    Raises:
        Denied: a field that is wrong, absent or unknown; no images, or too many.
    """
    try:
        wanted = Embeddings.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(place)[:40] for place in first["loc"]) or "the body"
        raise Denied(422, f"{where}: {first['msg'][:200]}.") from None
    uris = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    _counted(len(uris), most)
    return wanted, uris


def pictures(uris: list[str], size: int) -> Tensor:
    """Images (B, 3, size, size) of data URIs.

    Raises:
        Denied: one is no picture of this kind and size.
    """
    return torch.stack([_picture(uri, place, size) for place, uri in enumerate(uris)])


def pixels(body: bytes, shape: str, size: int, most: int) -> Tensor:
    """Images of a raw body, whose shape its header `X-Image-Shape` says.

    Raises:
        Denied: the two do not agree, or are not what the encoder takes.
    """
    if not re.fullmatch(r"\d{1,6}(,\d{1,6}){3}", shape, re.ASCII):
        raise Denied(422, f"X-Image-Shape is not such as 64,3,{size},{size}: send it.")
    sides = [int(side) for side in shape.split(",")]
    return _images(np.frombuffer(body, np.uint8), sides, size, most)


def tensor(body: bytes, length: str | None, size: int, most: int) -> tuple[dict[str, Any], Tensor]:
    """The head and the images of a request of the Open Inference Protocol.

    Raises:
        Denied: it is none, or holds something else than one tensor `images`.
    """
    if length is not None and not re.fullmatch(r"\d{1,9}", length, re.ASCII):
        raise Denied(400, "Inference-Header-Content-Length is not a number of bytes: send the length of the JSON part.")
    try:
        head, tensors = unpack_tensors(body, None if length is None else int(length), "inputs")
    except Garbled as garbled:
        raise Denied(400, f"The request cannot be read: {garbled}.") from None
    if list(tensors) != ["images"] or tensors["images"].dtype != np.uint8:
        raise Denied(400, "The request holds something else than one tensor images of UINT8: send that alone.")
    unknown = sorted(set(head) - {"id", "inputs", "outputs", "parameters"})
    if unknown:
        raise Denied(400, f"{unknown[0][:40]} is no field of a request: leave it out.")
    if "id" in head and not (isinstance(head["id"], str) and len(head["id"]) <= 200):
        raise Denied(400, "id is not a string of at most 200 letters: send one, or none.")
    array = tensors["images"]
    return head, _images(array, list(array.shape), size, most)


def _images(array: Any, sides: list[int], size: int, most: int) -> Tensor:
    if len(sides) != 4 or sides[1:] != [3, size, size]:
        raise Denied(422, f"The images are of shape {sides}: send (images, 3, {size}, {size}).")
    _counted(sides[0], most)
    if array.size != sides[0] * 3 * size * size:
        raise Denied(422, f"{array.size} bytes are not {sides[0]} images of shape (3, {size}, {size}).")
    return torch.from_numpy(np.array(array).reshape(sides))


def _counted(count: int, most: int) -> None:
    if not 0 < count <= most:
        raise Denied(422, f"{count} images in one request: send 1 to {most}.")


def _picture(uri: str, place: int, size: int) -> Tensor:
    start = URI.match(uri)
    if start is None:
        raise Denied(422, f"input {place} is no data URI of an image: send data:image/png;base64,... or jpeg.")
    try:
        content = base64.b64decode(uri[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Denied(422, f"input {place} is not base64 after its comma: encode the file's bytes.") from None
    try:
        with Image.open(io.BytesIO(content), formats=[start[1].upper()]) as image:
            if image.size != (size, size):
                raise Denied(
                    422,
                    f"input {place} is {image.width} by {image.height} pixels: send {size} by {size}, as it is read.",
                )
            if image.mode != "RGB":
                raise Denied(422, f"input {place} is of mode {image.mode}: send eight bits of red, green and blue.")
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except Denied:
        raise
    except Exception:  # Pillow has no common error for what a file of a stranger can hold
        raise Denied(422, f"input {place} is not a whole {start[1]} file: send one.") from None
