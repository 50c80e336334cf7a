"""Messages of the Open Inference Protocol, for both ends: named tensors in, bytes out, and back.

A message is a JSON text that lists its tensors. The numbers of a tensor stand in the JSON, or as
bytes behind it (Triton's binary tensor data extension).
"""

import json
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stealing.targets.strict_json import JsonLimits
from stealing.targets.wire import ANSWER, InvalidResponse, parse_json

JSON_LENGTH = "inference-header-content-length"
"""Header with the bytes of the JSON part of a message with binary tensors."""

TYPES = {"UINT8": "u1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
"""Types of tensors that images and features have, with numpy's names."""

MAX_DIMENSIONS = 8
"""Most dimensions of a tensor; numpy itself takes no more than 64."""

SHOWN = 40
"""Letters of a tensor's name that a message repeats; the other end chose the name."""


def pack_tensors(
    head: dict[str, Any], place: str, tensors: dict[str, NDArray[Any]]
) -> tuple[bytes, int]:
    """Return a message with binary tensors, and the length of its JSON part in bytes.

    Args:
        head: other fields of the JSON.
        place: field that lists the tensors: `inputs` or `outputs`.
        tensors: by their names.
    """
    datatypes = {np.dtype(dtype): name for name, dtype in TYPES.items()}
    descriptions = []
    parts = []
    for name, array in tensors.items():
        description = {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatypes[array.dtype],
            "parameters": {"binary_data_size": array.nbytes},
        }
        descriptions.append(description)
        parts.append(array.tobytes())
    text = json.dumps(head | {place: descriptions}, allow_nan=False).encode()
    return text + b"".join(parts), len(text)


def unpack_tensors(
    content: bytes | bytearray, length: int | None, place: str, limits: JsonLimits = ANSWER
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON part of a message, and its tensors by name.

    Args:
        content: the message.
        length: bytes of its JSON part, or None if there is nothing else.
        place: field that lists the tensors: `inputs` or `outputs`.
        limits: of the JSON part.

    Raises:
        InvalidResponse: shapes, types and bytes do not agree.
    """
    if length is not None and not 0 < length <= len(content):
        raise InvalidResponse("the length of the JSON part is not within the body")
    offset = len(content) if length is None else length
    # no slice if there is nothing else, as a slice of a bytearray is a copy
    head = parse_json(content if length is None else content[:length], limits)
    descriptions = head.get(place) if isinstance(head, dict) else None
    wrong = InvalidResponse(f"{place} is not a list of tensors")
    if not isinstance(descriptions, list):
        raise wrong
    if not all(isinstance(description, dict) for description in descriptions):
        raise wrong
    tensors = dict[str, NDArray[Any]]()
    for description in descriptions:
        name, datatype, shape = _describe(description)
        if name in tensors:
            raise InvalidResponse(f"two tensors are called {name[:SHOWN]}")
        count = prod(shape)
        size = _binary_size(description)
        if size is None:
            array = _from_json(description.get("data"), datatype, count, name)
        else:
            array = _from_bytes(content, offset, size, datatype, count, name)
            offset += size
        try:
            tensors[name] = array.reshape(shape)
        except ValueError:
            # no element, and sides whose product is too large for numpy
            raise InvalidResponse(f"the shape of {name[:SHOWN]} is that of no tensor") from None
    if offset != len(content):
        raise InvalidResponse("the body holds more bytes than its tensors")
    return head, tensors


def _describe(description: dict[str, Any]) -> tuple[str, str, list[int]]:
    """Return name, datatype and shape of a tensor."""
    name = description.get("name")
    datatype = description.get("datatype")
    shape = description.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in TYPES:
        raise InvalidResponse(
            f"a tensor has no name, or a datatype that is not one of {', '.join(TYPES)}"
        )
    if not isinstance(shape, list) or not all(_is_side(side) for side in shape):
        raise InvalidResponse(f"the shape of {name[:SHOWN]} is not a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidResponse(
            f"the shape of {name[:SHOWN]} has {len(shape)} dimensions: "
            f"{MAX_DIMENSIONS} are the most"
        )
    return name, datatype, shape


def _is_side(value: Any) -> bool:
    # an exact type: true is an int for Python
    return type(value) is int and 0 <= value < 2**31


def _binary_size(description: dict[str, Any]) -> Any:
    """Return the bytes that a tensor takes behind the JSON, unchecked, or None if it takes none."""
    parameters = description.get("parameters", {})
    return parameters.get("binary_data_size") if isinstance(parameters, dict) else None


def _from_bytes(
    content: bytes | bytearray, offset: int, size: Any, datatype: str, count: int, name: str
) -> NDArray[Any]:
    """Return the numbers of a binary tensor, flat."""
    expected = count * np.dtype(TYPES[datatype]).itemsize
    if type(size) is not int or size != expected or offset + size > len(content):
        raise InvalidResponse(f"the bytes of {name[:SHOWN]} are not as many as its shape says")
    if count == 0:  # numpy refuses an offset at the end of a buffer
        return np.empty(0, TYPES[datatype])
    return np.frombuffer(content, TYPES[datatype], count, offset)


def _from_json(data: Any, datatype: str, count: int, name: str) -> NDArray[Any]:
    """Return the numbers of a tensor that stands in the JSON, flat; they may be nested there."""
    wrong = InvalidResponse(f"the data of {name[:SHOWN]} are not as many numbers as its shape says")
    if not isinstance(data, list):
        raise wrong
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise wrong
        data = list(chain.from_iterable(data))
    # Checked before numpy reads them: for a string, numpy would take the longest one's room for
    # each element.
    types = {int} if datatype == "UINT8" else {int, float}
    if len(data) != count or not set(map(type, data)) <= types:
        raise wrong
    if datatype == "UINT8" and data and not (min(data) >= 0 and max(data) <= 255):
        raise wrong
    try:
        with np.errstate(over="ignore"):
            return np.array(data, TYPES[datatype])
    except OverflowError:
        raise wrong from None
