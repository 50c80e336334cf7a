"""Services that take pictures in a JSON body and give vectors in another: a template instead of a class a vendor."""

import base64
import json
from typing import Any

from torch import Tensor

from stealing.errors import ConfigError
from stealing.targets.wire import Garbled, Message, Reply, numbers, parsed, picture

IMAGES = "<images>"
"""Stands in a body for the list of all images."""

ENCODINGS = ("float", "base64")


class HttpJson:
    """Fills a body with the images, and finds the vectors in the answer.

    Args:
        path: after the service's address.
        body: the request; the string `<images>` in it becomes the list of images.
        image: each of them; `<base64>` and `<data_uri>` in it become the picture.
        picture: `png`, which keeps every pixel, or `jpeg`, which does not.
        vectors: where they are in the answer, such as `data.*.embedding`.
        index: where the place of each vector is, such as `data.*.index`, or None where they come in order.
        version: where the model's name or version is, or None where it is not told.
        encoding: of a vector: `float`, a list of numbers, or `base64` of little-endian float32.
        images_a_request: most images a request.
    """

    def __init__(
        self,
        path: str,
        body: Any,
        image: Any,
        picture: str,
        vectors: str,
        index: str | None,
        version: str | None,
        encoding: str,
        images_a_request: int,
    ) -> None:
        if encoding not in ENCODINGS or picture not in ("png", "jpeg"):
            raise ConfigError("A format's encoding is float or base64, and its picture png or jpeg: set one of them.")
        self.path, self.body, self.image, self.picture = path, body, image, picture
        self.vectors, self.index, self.version, self.encoding = vectors, index, version, encoding
        self.codec = "" if picture == "png" else picture
        self.images_a_request = images_a_request
        self.identity: dict[str, Any] = {"path": path, "body": body, "vectors": vectors}

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        kind = self.picture
        pictures = [base64.b64encode(picture(image, kind)).decode() for image in images_uint8]
        uris = [{"<base64>": text, "<data_uri>": f"data:image/{kind};base64,{text}"} for text in pictures]
        filled = _filled(self.body, {IMAGES: [_filled(self.image, words) for words in uris]})
        return Message(self.path, json.dumps(filled).encode(), {"content-type": "application/json"})

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`."""
        body, count = parsed(content), len(images_uint8)
        rows = _found(body, self.vectors.split("."))
        if not isinstance(rows, list) or len(rows) != count:
            raise Garbled(f"{len(rows) if isinstance(rows, list) else 'no'} vectors came back for {count} images")
        if self.index is not None:
            places = _found(body, self.index.split("."))
            if not all(type(place) is int for place in places) or sorted(places) != list(range(count)):
                raise Garbled("the vectors' places are not those of the images")
            rows = [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]
        version = None if self.version is None else _found(body, self.version.split("."))
        if version is not None and not isinstance(version, str):
            raise Garbled("the model's version is no string")
        return Reply(numbers(rows, self.encoding), version)


def _filled(template: Any, words: dict[str, Any]) -> Any:
    """The template with each of these strings replaced by its value."""
    if isinstance(template, dict):
        return {name: _filled(value, words) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, words) for value in template]
    return words.get(template, template) if isinstance(template, str) else template


def _found(value: Any, path: list[str]) -> Any:
    """What lies at a path; `*` stands for each element of a list.

    Raises:
        Garbled: nothing lies there.
    """
    for place, step in enumerate(path):
        if step == "*" and isinstance(value, list):
            return [_found(each, path[place + 1 :]) for each in value]
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            raise Garbled(f"there is nothing at {'.'.join(path)}")
    return value
