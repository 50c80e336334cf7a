"""The codecs of the wire, for both ends: images and feature vectors in, bytes out, and back.

Shape letters: B images, D feature width.

Neither end trusts the other: bytes that do not decode to exactly what was announced raise
`InvalidResponse`.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

from stealing.moved import moved_name
from stealing.targets.strict_json import JsonLimits, strict_json

DIGEST = 16
"""Bytes of the digest of an image, which stands before each row of a raw answer: a row cannot be
taken for the answer to another image."""

STOPPED = "x-account-stopped"
"""Header by which our own service says that its defense has stopped an account for good."""

MAX_VERSION = 200
"""Most letters of a version that a service states."""

ANSWER = JsonLimits(depth=32, containers=2**18, values=2**21)
"""What an answer in JSON may hold; two million numbers take 64 MiB in Python."""

# Formats of users import names of earlier versions from here.
__getattr__ = partial(moved_name, __name__)


class InvalidResponse(Exception):
    """Bytes that are not what they should be; the message says what is wrong with them."""


class Unfit(InvalidResponse):
    """Bytes that arrived as they were sent and are of no use; the same request would fail again."""


@dataclass(frozen=True)
class Message:
    """A request: its path, its body and its headers."""

    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Features (B, D), and the version that the service states, or None."""

    features: Tensor
    version: str | None = None


class Format(Protocol):
    """The format of requests and answers of one kind of service.

    Attributes:
        codec: how pixels change on the way to the service, such as `jpeg`; empty if they do not.
        identity: all settings that decide what comes back, in a form that can be hashed.
        images_a_request: most images in one request.
    """

    codec: str
    identity: dict[str, Any]
    images_a_request: int

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """Return the request about uint8 images (B, 3, H, W) under an idempotency key."""

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """Return the features of uint8 images (B, 3, H, W) from the answer to their request.

        Args:
            images_uint8: what was sent.
            headers: of the answer, names in lower case.
            content: body of the answer.

        Raises:
            InvalidResponse: the answer is not one vector of finite numbers for each image, in the
                order of the images.
        """


def encode_image(image_uint8: Tensor, kind: str) -> bytes:
    """Return one uint8 image (3, H, W) as a file of this kind: `png` or `jpeg`."""
    if kind == "png":
        # uncompressed: the file is larger, and faster to make by far
        file = encode_png(image_uint8, compression_level=0)
    else:
        file = encode_jpeg(image_uint8, quality=95)
    return bytes(file.numpy().tobytes())


def parse_json(content: bytes | bytearray, limits: JsonLimits = ANSWER) -> Any:
    """Return the value of a JSON text; NaN and Infinity, which Python accepts, are not JSON.

    Raises:
        InvalidResponse: it is not JSON, or larger than the limits.
    """
    try:
        return strict_json(content, limits)
    except ValueError as error:
        raise InvalidResponse(str(error)) from None


def check_version(version: Any) -> str | None:
    """Return the version that a service states, if it can be printed and stored.

    Raises:
        InvalidResponse: it is not a short line of text.
    """
    if version is None:
        return None
    if isinstance(version, str) and len(version) <= MAX_VERSION and version.isprintable():
        return version
    raise InvalidResponse(f"the model's version is not a line of at most {MAX_VERSION} letters")


def content_digest(content: bytes) -> str:
    """Return the value of the header `Content-Digest` for a body (RFC 9530)."""
    digest = hashlib.sha256(content).digest()
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def check_digest(header: str, content: bytes) -> None:
    """Compare a body with its header `Content-Digest`, if that is one of SHA-256.

    Raises:
        InvalidResponse: the body is not as it was sent.
    """
    if header.startswith("sha-256=:") and header != content_digest(content):
        raise InvalidResponse("the body is not as it was sent")


def parse_vectors(rows: list[Any], encoding: str) -> Tensor:
    """Return vectors from JSON as one float32 tensor (B, D).

    Lists are read under either encoding, because many servers ignore the encoding that a request
    asks for. A string is read as base64 only if that was asked for: its bytes could be numbers of
    another type.

    Args:
        rows: lists of numbers, or strings in base64 of little-endian float32.
        encoding: that was asked for: `float` or `base64`.

    Raises:
        InvalidResponse: a row is neither, or the rows differ in width.
    """
    all_lists = all(isinstance(row, list) for row in rows)
    if encoding == "base64" and not all_lists:
        vectors = [_from_base64(row) for row in rows]
    else:
        vectors = [_from_list(row) for row in rows]
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidResponse("the vectors differ in width")
    return as_features(np.stack(vectors) if vectors else np.empty((0, 0), np.float32))


def _from_base64(row: Any) -> NDArray[np.float32]:
    if not isinstance(row, str):
        raise Unfit("a vector is not a base64 string")
    try:
        content = base64.b64decode(row, validate=True)
        return np.frombuffer(content, "<f4")
    except (binascii.Error, ValueError):
        raise Unfit("a vector is not base64 of float32 numbers") from None


def _from_list(row: Any) -> NDArray[np.float32]:
    if isinstance(row, str):
        raise Unfit(
            "a vector is a string: set target.remote.wire.encoding=base64 if it is base64 of "
            "float32"
        )
    # exact types: true is an int for Python, and no number for us
    if not isinstance(row, list) or not set(map(type, row)) <= {int, float}:
        raise Unfit("a vector is not a list of numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(row, np.float32)
    except OverflowError:
        raise Unfit("a vector holds a number that no float holds") from None


def as_features(vectors_BD: NDArray[Any]) -> Tensor:
    """Return vectors (B, D) as a tensor with memory of its own, in float32 or a smaller type.

    Raises:
        InvalidResponse: the vectors are empty, or a number is not finite.
    """
    if vectors_BD.ndim != 2 or vectors_BD.shape[1] == 0:
        raise InvalidResponse(f"vectors of shape {vectors_BD.shape} came back")
    # The bank stores float32 at most: a larger number would become infinite after this check.
    dtype = vectors_BD.dtype
    if dtype.itemsize >= 4:
        dtype = np.dtype(np.float32)
    with np.errstate(over="ignore"):
        features = torch.from_numpy(np.array(vectors_BD, dtype.newbyteorder("=")))
    if not torch.isfinite(features).all():
        raise Unfit("a vector holds a number that is not finite")
    return features


def pack_answers(digests: list[bytes], features_BD: Tensor) -> bytes:
    """Return the body of a raw answer: each row's digest and its little-endian float32 numbers."""
    rows = np.empty(len(digests), _row_type(features_BD.shape[1]))
    rows["digest"] = np.frombuffer(b"".join(digests), f"V{DIGEST}")
    rows["features"] = features_BD.numpy()
    return rows.tobytes()


def unpack_answers(content: bytes, digests: list[bytes]) -> Tensor:
    """Return features (B, D) from the body of a raw answer to images with these digests.

    Raises:
        InvalidResponse: it answers other images, or in another order, or holds numbers that are
            not finite.
    """
    row_bytes, rest = divmod(len(content), len(digests))
    vector_bytes = row_bytes - DIGEST
    if rest or vector_bytes < 4 or vector_bytes % 4:
        raise InvalidResponse(f"{len(content)} bytes are not an answer to {len(digests)} images")
    rows = np.frombuffer(content, _row_type(vector_bytes // 4))
    if rows["digest"].tobytes() != b"".join(digests):
        raise InvalidResponse("the answer is to other images, or in another order")
    return as_features(rows["features"])


def _row_type(width: int) -> np.dtype[np.void]:
    """Return numpy's type of a row of a raw answer."""
    return np.dtype([("digest", f"V{DIGEST}"), ("features", "<f4", width)])
