"""Requests of clients, checked: bodies in, uint8 images out, or the reason why they are refused."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

from stealing.service.errors import ApiError
from stealing.service.limits import Limits, Room
from stealing.targets.strict_json import check_size
from stealing.targets.tensors import unpack_tensors
from stealing.targets.wire import InvalidResponse

SHOWN = 40
"""Letters of a name that a message repeats; the client chose the name."""

MAX_NAME = 200
"""Most letters of a model's name, a user's name or an id."""


class Embeddings(BaseModel):
    """Body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=MAX_NAME)]
    input: str | list[str] = Field(description="data URIs of PNG or JPEG images")
    encoding_format: Literal["float", "base64"] = "float"
    modality: Literal["image"] = "image"
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None


@asynccontextmanager
async def body_of(
    request: Request, account: str, limits: Limits, room: Room
) -> AsyncIterator[bytearray]:
    """Give the whole body, whose bytes take room of the account until the end of the block.

    Raises:
        ApiError: the body is too large, too late, or there is no room for it.
    """
    content = bytearray()
    try:
        await _receive(request, account, limits, room, content)
        yield content
    finally:
        room.give(account, len(content))


async def _receive(
    request: Request, account: str, limits: Limits, room: Room, content: bytearray
) -> None:
    """Append the body to `content`, and take room for each part of it."""
    too_large = ApiError(
        413, f"The body is larger than {limits.bytes} bytes: send fewer images a request."
    )
    announced = request.headers.get("content-length", "")
    is_number = announced.isascii() and announced.isdigit()
    # cut, because int() takes long for a long text; 20 digits are above any limit
    if is_number and int(announced[:20]) > limits.bytes:
        raise too_large
    try:
        # one timeout for the whole body: a client that sends byte after byte holds no room for long
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                if len(content) + len(part) > limits.bytes:
                    raise too_large
                room.take(account, len(part))
                content += part
    except TimeoutError:
        raise ApiError(
            408, f"The body did not arrive within {limits.patience:g} seconds: send it faster."
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "The client went away.") from None


def embeddings(body: bytearray, limits: Limits) -> tuple[Embeddings, list[str]]:
    """Return the parsed body of `/v1/embeddings`, and its data URIs.

    Raises:
        ApiError: a field is wrong, absent or unknown; there are no images, or too many.
    """
    try:
        check_size(body, limits.embeddings_json())
        parsed = Embeddings.model_validate_json(body)
    except ValidationError as error:
        # without the input, which may be large and is the client's
        first, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        field = ".".join(str(step)[:SHOWN] for step in first["loc"]) or "the body"
        raise ApiError(422, f"{field}: {first['msg'][:200]}.") from None
    except ValueError as error:
        raise ApiError(422, f"The request cannot be read: {error}.") from None
    uris = [parsed.input] if isinstance(parsed.input, str) else parsed.input
    _check_count(len(uris), limits.images)
    return parsed, uris


def pixels(body: bytearray, shape: str, size: int, limits: Limits) -> Tensor:
    """Return the images (B, 3, size, size) of a raw body.

    Args:
        body: their pixels.
        shape: value of the header `X-Image-Shape`.
        size: height and width that the encoder takes.
        limits: of the service.

    Raises:
        ApiError: the two do not agree, or the encoder does not take such images.
    """
    if not re.fullmatch(r"\d{1,6}(,\d{1,6}){3}", shape, re.ASCII):
        raise ApiError(422, f"X-Image-Shape is not such as 64,3,{size},{size}: send it.")
    sides = [int(side) for side in shape.split(",")]
    return _images(np.frombuffer(body, np.uint8), sides, size, limits.images)


def tensor(
    body: bytearray, length: str | None, size: int, limits: Limits
) -> tuple[dict[str, Any], Tensor]:
    """Return the head and the images of a request of the Open Inference Protocol.

    Args:
        body: of the request.
        length: value of the header with the length of the JSON part, or None if it is absent.
        size: height and width that the encoder takes.
        limits: of the service.

    Raises:
        ApiError: it is not such a request, or holds anything but one tensor `images`.
    """
    if length is not None and not re.fullmatch(r"\d{1,9}", length, re.ASCII):
        raise ApiError(
            400,
            "Inference-Header-Content-Length is not a number of bytes: send the length of the "
            "JSON part.",
        )
    json_bytes = None if length is None else int(length)
    try:
        head, tensors = unpack_tensors(body, json_bytes, "inputs", limits.tensor_json(size))
    except InvalidResponse as error:
        raise ApiError(400, f"The request cannot be read: {error}.") from None
    if list(tensors) != ["images"] or tensors["images"].dtype != np.uint8:
        raise ApiError(
            400,
            "The request holds something else than one tensor images of UINT8: send only that.",
        )
    _check_head(head)
    array = tensors["images"]
    return head, _images(array, list(array.shape), size, limits.images)


def _check_head(head: dict[str, Any]) -> None:
    """Refuse unknown fields of a request, and an id that is not a short text."""
    unknown = sorted(set(head) - {"id", "inputs", "outputs", "parameters"})
    if unknown:
        raise ApiError(400, f"{unknown[0][:SHOWN]} is not a field of a request: leave it out.")
    identity = head.get("id", "")
    if not isinstance(identity, str) or len(identity) > MAX_NAME:
        raise ApiError(400, f"id is not a string of at most {MAX_NAME} letters: send one, or none.")


def _images(array: NDArray[np.uint8], sides: list[int], size: int, most: int) -> Tensor:
    """Return an array as images (B, 3, size, size)."""
    if len(sides) != 4 or sides[1:] != [3, size, size]:
        raise ApiError(422, f"The images are of shape {sides}: send (images, 3, {size}, {size}).")
    _check_count(sides[0], most)
    count = sides[0]
    if array.size != count * 3 * size * size:
        raise ApiError(
            422, f"{array.size} bytes are not {count} images of shape (3, {size}, {size})."
        )
    return torch.from_numpy(array.reshape(sides))


def _check_count(count: int, most: int) -> None:
    if not 0 < count <= most:
        raise ApiError(422, f"{count} images in one request: send 1 to {most}.")
