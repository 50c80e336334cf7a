"""The wire of services that take images in a JSON body and return vectors in another.

A template describes the format, so that a new vendor is a YAML file and no class.
"""

import base64
import json
from typing import Any

from torch import Tensor

from stealing.artefacts import key
from stealing.errors import ConfigError
from stealing.targets.wire import (
    InvalidResponse,
    Message,
    Reply,
    check_version,
    encode_image,
    parse_json,
    parse_vectors,
)

IMAGES = "<images>"
"""Stands in a body for the list of all images."""

BASE64 = "<base64>"
"""Stands for an image: its PNG or JPEG file in base64."""

DATA_URI = "<data_uri>"
"""Stands for an image: a data URI with its PNG or JPEG file."""

ENCODINGS = ("float", "base64")
PICTURES = ("png", "jpeg")

FORMER_FORMATS = frozenset(
    {
        "fa0673d712e63ca0",  # azure
        "0a78fbd5b1efd3df",  # clarifai
        "01c49dd4e832067f",  # cohere
        "9867846eb350ef59",  # jina
        "ec84082cfd8318a4",  # openai
        "10d30c4897b6ad52",  # service_json
        "3d928e569ab2c076",  # vllm
        "950a14adf9614cd6",  # voyage
    }
)
"""Keys of the formats in conf/target from the time when only path, body and vectors identified a
format; see `HttpJson._identity`."""


class HttpJson:
    """A format that fills a template with images and finds the vectors in the answer.

    A service takes several images in a request, or one:

    - Several: the string `<images>` in `body` becomes the list of images, each written as `image`
      says. `vectors` has a `*` where the answer has a list.
    - One: `image` is None, and `<base64>` or `<data_uri>` stands in `body` itself, as in
      `{"image": "<base64>"}`. `vectors` is the place of the one vector, such as `embedding`.

    Args:
        path: of the request, after the service's address.
        body: the request.
        image: one of several images; `<base64>` and `<data_uri>` in it become the image's file.
            None for a service that takes one image a request.
        picture: kind of the file: `png`, which keeps every pixel, or `jpeg`, which does not.
        vectors: place of the vectors in the answer, such as `data.*.embedding`.
        index: place of each vector's number, such as `data.*.index`; None if the vectors come in
            the order of the images.
        version: place of the model's name or version; None if the answer has none.
        encoding: of a vector: `float`, a list of numbers, or `base64` of little-endian float32.
        images_a_request: most images in one request.

    Raises:
        ConfigError: an unknown encoding or kind of file, or a template that holds no image or is
            for another number of images.
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
        if encoding not in ENCODINGS or picture not in PICTURES:
            raise ConfigError(
                "target.remote.wire.encoding has to be float or base64, and "
                "target.remote.wire.picture png or jpeg: correct the one that is not."
            )
        self.path = path
        self.body = body
        self.image = image
        self.picture = picture
        self.vectors = vectors
        self.index = index
        self.version = version
        self.encoding = encoding
        self.images_a_request = images_a_request
        self.codec = "" if picture == "png" else picture
        if image is None:
            self._check_one_image()
        elif not _contains(body, (IMAGES,)):
            raise ConfigError(
                f"target.remote.wire.body has no {IMAGES}: put it in place of the list of images, "
                "or set target.remote.wire.image=null if a request takes one image."
            )
        self.former: dict[str, Any] = {"path": path, "body": body, "vectors": vectors}
        self.identity = self._identity()

    def _check_one_image(self) -> None:
        """Refuse settings that contradict a request of one image."""
        if not _contains(self.body, (BASE64, DATA_URI)):
            raise ConfigError(
                f"target.remote.wire.body has no {BASE64} or {DATA_URI}: put one of them in place "
                "of the image, or describe an image in target.remote.wire.image."
            )
        if self.images_a_request != 1:
            raise ConfigError(
                f"target.remote.wire.images_a_request={self.images_a_request} does not fit a "
                "request of one image (target.remote.wire.image=null): set it to 1."
            )
        if self.index is not None or "*" in self.vectors.split("."):
            raise ConfigError(
                "The answer to a request of one image holds one vector: set "
                "target.remote.wire.index=null, and target.remote.wire.vectors to its place, "
                "without a *."
            )

    def _identity(self) -> dict[str, Any]:
        """Return all settings that decide what comes back.

        Earlier versions of this project left out how an image is written and how vectors are read,
        so that two formats could share their answers. The formats that conf/target had then keep
        their identity, so that answers bought with them are found. Any other format with the same
        path and body has another identity.
        """
        details = {
            "image": self.image,
            "picture": self.picture,
            "index": self.index,
            "encoding": self.encoding,
        }
        body = self.body
        if isinstance(body, dict):  # a user names the model
            body = {name: value for name, value in body.items() if name != "model"}
        path = self.path.split("?")[0]
        format_key = key(path=path, body=body, vectors=self.vectors, **details)
        if format_key in FORMER_FORMATS:
            return self.former
        return self.former | details

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        values = [self._values(image) for image in images_uint8]
        if self.image is None:
            body = _filled(self.body, values[0])
        else:
            images = [_filled(self.image, replacements) for replacements in values]
            body = _filled(self.body, {IMAGES: images})
        headers = {"content-type": "application/json"}
        return Message(self.path, json.dumps(body, allow_nan=False).encode(), headers)

    def _values(self, image_uint8: Tensor) -> dict[str, Any]:
        """Return what the placeholders become for one image (3, H, W)."""
        text = base64.b64encode(encode_image(image_uint8, self.picture)).decode()
        return {BASE64: text, DATA_URI: f"data:image/{self.picture};base64,{text}"}

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`."""
        count = len(images_uint8)
        body = parse_json(content)
        rows = _value_at(body, self.vectors)
        if self.image is None:
            rows = [rows]
        if not isinstance(rows, list) or len(rows) != count:
            number = len(rows) if isinstance(rows, list) else "no"
            raise InvalidResponse(f"{number} vectors came back for {count} images")
        if self.index is not None:
            rows = _sorted_by_index(rows, _value_at(body, self.index))
        version = None if self.version is None else _value_at(body, self.version)
        return Reply(parse_vectors(rows, self.encoding), check_version(version))


def _contains(template: Any, placeholders: tuple[str, ...]) -> bool:
    """Return True if one of the placeholders stands in a template."""
    if isinstance(template, dict):
        return any(_contains(value, placeholders) for value in template.values())
    if isinstance(template, list):
        return any(_contains(value, placeholders) for value in template)
    return template in placeholders


def _filled(template: Any, values: dict[str, Any]) -> Any:
    """Return a template in which each placeholder is replaced by its value."""
    if isinstance(template, dict):
        return {name: _filled(value, values) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if isinstance(template, str):
        return values.get(template, template)
    return template


def _sorted_by_index(rows: list[Any], indices: Any) -> list[Any]:
    """Return rows in the order of their indices, which must be 0 to B - 1, each once.

    Raises:
        InvalidResponse: they are not.
    """
    wrong = InvalidResponse("the vectors' places are not those of the images")
    # exact types: true is an int for Python
    if not isinstance(indices, list) or not set(map(type, indices)) <= {int}:
        raise wrong
    if sorted(indices) != list(range(len(rows))):
        raise wrong
    ordered: list[Any] = [None] * len(rows)
    for index, row in zip(indices, rows, strict=True):
        ordered[index] = row
    return ordered


def _value_at(body: Any, path: str) -> Any:
    """Return what stands at a dotted path in an answer; `*` collects each element of a list.

    Raises:
        InvalidResponse: nothing stands there.
    """
    return _descend(body, path.split("."), path)


def _descend(value: Any, steps: list[str], path: str) -> Any:
    for number, step in enumerate(steps):
        if step == "*" and isinstance(value, list):
            return [_descend(element, steps[number + 1 :], path) for element in value]
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            raise InvalidResponse(f"there is nothing at {path}")
    return value
