"""This project's own fast path: uint8 pixels out in one body, float32 features back in one body."""

from typing import Any

from torch import Tensor

from stealing.queries.digests import digests
from stealing.targets.wire import Garbled, Message, Reply, unpack_answers


class Raw:
    """Talks to `/v1/raw` of `python -m stealing.service`; every row of an answer names its image.

    Args:
        images_a_request: most images a request.
    """

    codec = ""

    def __init__(self, images_a_request: int) -> None:
        self.images_a_request, self.identity = images_a_request, dict[str, Any]()

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        shape = ",".join(map(str, images_uint8.shape))
        headers = {"content-type": "application/octet-stream", "x-image-shape": shape}
        return Message("/v1/raw", images_uint8.contiguous().numpy().tobytes(), headers)

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`."""
        if headers.get("content-type") != "application/octet-stream":
            raise Garbled("the answer is not application/octet-stream")
        return Reply(unpack_answers(content, digests(images_uint8)), headers.get("x-model-version"))
