"""The raw wire of our own service: uint8 pixels in one body, float32 features in the other."""

from typing import Any

from torch import Tensor

from stealing.queries.digests import digests
from stealing.targets.wire import InvalidResponse, Message, Reply, check_version, unpack_answers

BINARY = "application/octet-stream"


class Raw:
    """The format of `/v1/raw` of `python -m stealing.service`; each row names its image.

    Args:
        images_a_request: most images in one request.
    """

    codec = ""

    def __init__(self, images_a_request: int) -> None:
        self.images_a_request = images_a_request
        self.identity = dict[str, Any]()

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        shape = ",".join(map(str, images_uint8.shape))
        headers = {"content-type": BINARY, "x-image-shape": shape}
        pixels = images_uint8.contiguous().numpy().tobytes()
        return Message("/v1/raw", pixels, headers)

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`."""
        if headers.get("content-type") != BINARY:
            raise InvalidResponse(f"the answer is not {BINARY}")
        features_BD = unpack_answers(content, digests(images_uint8))
        return Reply(features_BD, check_version(headers.get("x-model-version")))
