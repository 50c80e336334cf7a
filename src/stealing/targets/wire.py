"""The codecs of the wire, for both of its ends: images and feature vectors in, bytes out, and back.

Shape letters: B images, D feature width.

Whatever does not decode to exactly what was announced raises `Garbled`: neither end believes the other.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

DIGEST = 16
"""Bytes before each row of a raw answer, the digest of its image, so that a row cannot be taken for another's."""

STOPPED = "x-account-stopped"
"""Header of a refusal by which our own service says that its defense answers this account no more."""

TYPES = {"UINT8": "u1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
"""Tensor types of the Open Inference Protocol that images and features come in."""


class Garbled(Exception):
    """Bytes that are not what they should be; the message says what is wrong with them."""


@dataclass(frozen=True)
class Message:
    """A request: where to, under which headers, and what."""

    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Features (B, D), and the version that the service gave itself, or None."""

    features: Tensor
    version: str | None = None


class Format(Protocol):
    """How one kind of service is spoken to.

    Attributes:
        codec: how pixels are changed on their way, empty where they are not.
        identity: whatever of it decides what comes back, in a form that can be hashed.
        images_a_request: most images that the service takes at once.
    """

    codec: str
    identity: dict[str, Any]
    images_a_request: int

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """What asks about these images (B, 3, H, W)."""

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """What came back for them; header names are in lower case.

        Raises:
            Garbled: it is not one vector of finite numbers for each image, in their order.
        """


def picture(image_uint8: Tensor, kind: str) -> bytes:
    """One image (3, H, W) as a PNG or JPEG file."""
    if kind == "png":
        return bytes(encode_png(image_uint8, compression_level=0).numpy().tobytes())
    return bytes(encode_jpeg(image_uint8, quality=95).numpy().tobytes())


def parsed(content: bytes) -> Any:
    """JSON, without the NaN and Infinity that Python takes for it.

    Raises:
        Garbled: it is none, or is nested without end.
    """
    try:
        return json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Garbled("the body is not JSON") from None


def _no_constant(name: str) -> float:
    raise ValueError(name)


def content_digest(content: bytes) -> str:
    """What a body's `Content-Digest` header says (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def intact(said: str, content: bytes) -> None:
    """Hold a body against its `Content-Digest`, where the other end sent one of this kind.

    Raises:
        Garbled: the body is not as it was sent.
    """
    if said.startswith("sha-256=:") and said != content_digest(content):
        raise Garbled("the body is not as it was sent")


def numbers(rows: list[Any], encoding: str) -> Tensor:
    """Vectors, as lists of numbers or as base64 of little-endian float32, as one float32 tensor (B, D).

    Raises:
        Garbled: they are not, or not of one width.
    """
    if encoding == "base64":
        vectors = [_unpacked(row) for row in rows]
    else:
        if not all(isinstance(row, list) and set(map(type, row)) <= {int, float} for row in rows):
            raise Garbled("a vector is not a list of numbers")
        try:
            vectors = [np.array(row, np.float32) for row in rows]
        except OverflowError:
            raise Garbled("a vector holds a number that no float holds") from None
    if len({len(vector) for vector in vectors}) > 1:
        raise Garbled("the vectors differ in width")
    return checked(np.stack(vectors) if vectors else np.empty((0, 0), np.float32))


def checked(vectors_BD: NDArray[Any]) -> Tensor:
    """The same as a tensor of its own.

    Raises:
        Garbled: an empty vector, or a number that is not finite.
    """
    if vectors_BD.ndim != 2 or vectors_BD.shape[1] == 0:
        raise Garbled(f"vectors of shape {vectors_BD.shape} came back")
    features = torch.from_numpy(np.array(vectors_BD, vectors_BD.dtype.newbyteorder("=")))
    if not torch.isfinite(features).all():
        raise Garbled("a vector holds a number that is not finite")
    return features


def _unpacked(row: Any) -> NDArray[np.float32]:
    if not isinstance(row, str):
        raise Garbled("a vector is not a base64 string")
    try:
        content = base64.b64decode(row, validate=True)
        return np.frombuffer(content, "<f4")
    except (binascii.Error, ValueError):
        raise Garbled("a vector is not base64 of float32 numbers") from None


def pack_answers(digests: list[bytes], features_BD: Tensor) -> bytes:
    """The body of a raw answer: each row's digest and little-endian float32 numbers."""
    rows = np.empty(len(digests), [("digest", f"V{DIGEST}"), ("features", "<f4", features_BD.shape[1])])
    rows["digest"] = np.frombuffer(b"".join(digests), f"V{DIGEST}")
    rows["features"] = features_BD.numpy()
    return rows.tobytes()


def unpack_answers(content: bytes, digests: list[bytes]) -> Tensor:
    """Features (B, D) of a raw answer to images with these digests.

    Raises:
        Garbled: it answers other images, or in another order, or holds numbers that are not finite.
    """
    row, rest = divmod(len(content), len(digests))
    if rest or row < DIGEST + 4 or (row - DIGEST) % 4:
        raise Garbled(f"{len(content)} bytes are no answer to {len(digests)} images")
    rows = np.frombuffer(content, [("digest", f"V{DIGEST}"), ("features", "<f4", (row - DIGEST) // 4)])
    if rows["digest"].tobytes() != b"".join(digests):
        raise Garbled("the answer is to other images, or in another order")
    return checked(rows["features"])


def pack_tensors(head: dict[str, Any], place: str, tensors: dict[str, NDArray[Any]]) -> tuple[bytes, int]:
    """A message of the Open Inference Protocol with binary tensors under `place`, and its JSON part's length."""
    kinds = {np.dtype(kind): name for name, kind in TYPES.items()}
    listed = [
        {
            "name": name, "shape": list(array.shape), "datatype": kinds[array.dtype],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in tensors.items()
    ]  # fmt: skip
    text = json.dumps(head | {place: listed}).encode()
    return text + b"".join(array.tobytes() for array in tensors.values()), len(text)


def unpack_tensors(content: bytes, length: int | None, place: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Head and tensors of such a message, binary or as JSON lists.

    Args:
        content: the body.
        length: of its JSON part, None where that is all.
        place: `inputs` or `outputs`.

    Raises:
        Garbled: shapes, types and bytes do not agree.
    """
    if length is not None and not 0 < length <= len(content):
        raise Garbled("the length of the JSON part is not within the body")
    head = parsed(content[:length])
    offset, found = len(content) if length is None else length, dict[str, NDArray[Any]]()
    listed = head.get(place) if isinstance(head, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise Garbled(f"{place} is not a list of tensors")
    for each in listed:
        name, shape, kind = each.get("name"), each.get("shape"), each.get("datatype")
        if not (isinstance(name, str) and isinstance(kind, str) and kind in TYPES):
            raise Garbled(f"a tensor has no name, or a datatype that is none of {', '.join(TYPES)}")
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
            raise Garbled(f"the shape of {str(name)[:40]} is not a list of sizes")
        count, parameters = int(np.prod([int(side) for side in shape], dtype=object)), each.get("parameters", {})
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None:
            if type(size) is not int or size != count * np.dtype(TYPES[kind]).itemsize or offset + size > len(content):
                raise Garbled(f"the bytes of {name[:40]} are not as many as its shape says")
            array = np.frombuffer(content, TYPES[kind], count, offset)
            offset += size
        else:
            array = _listed(each.get("data"), kind, count, name)
        found[name] = array.reshape(shape)
    if offset != len(content):
        raise Garbled("the body holds more bytes than its tensors")
    return head, found


def _listed(data: Any, kind: str, count: int, name: str) -> NDArray[Any]:
    """JSON data of a tensor, flat or nested."""
    try:
        array = np.array(data)
        whole = array.dtype.kind in ("iu" if kind == "UINT8" else "iuf") and array.size == count
        if whole and (kind != "UINT8" or (array.size == 0 or (array.min() >= 0 and array.max() <= 255))):
            return array.astype(TYPES[kind]).ravel()
    except (ValueError, OverflowError, RecursionError):
        pass
    raise Garbled(f"the data of {name[:40]} are not as many numbers as its shape says")
