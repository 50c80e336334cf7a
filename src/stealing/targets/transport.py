"""One attempt of a request over HTTP: a message in, the answer with a bounded body out."""

import time
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2
from torch import Tensor

from stealing.targets.deadlines import apply_deadlines, deadline
from stealing.targets.wire import Message

MAX_WIDTH = 2**14
"""Numbers that a vector may have while the width is unknown."""

NUMBER_BYTES = 32
"""Most bytes of a number in an answer: as JSON, with its sign, exponent and white space."""

BODY_BYTES = 2**16
"""Bytes of an answer that do not depend on the number of images."""

IMAGE_BYTES = 2**12
"""Bytes of an answer for each image besides its numbers: field names, indices, white space."""

SHORTEST_TIMEOUT = 0.1
"""Seconds that an attempt gets at least, if the deadline of its request is almost over."""


class RetryableError(Exception):
    """An attempt that may be repeated.

    Args:
        why: what went wrong.
        served: whether the service may have answered, and billed.
    """

    def __init__(self, why: str, *, served: bool) -> None:
        super().__init__(why)
        self.served = served


@dataclass
class Request:
    """One request with its attempts.

    Attributes:
        message: what is sent.
        headers: the message's own and all others.
        images: uint8 (B, 3, size, size).
        account: whose key is sent.
        key: idempotency key; every attempt carries it.
        until: moment of the monotonic clock at which the attempts end.
        complaints: why the answers to the last attempts could not be used, in order.
    """

    message: Message
    headers: dict[str, str]
    images: Tensor
    account: str
    key: str
    until: float
    complaints: list[str] = field(default_factory=list)


def open_client(in_flight: int, *, use_proxy: bool) -> httpx2.Client:
    """Return a client that keeps no cookies, follows no redirects and obeys `deadline`.

    Args:
        in_flight: most connections at a time.
        use_proxy: read proxies from the environment; wrong for a service on this machine.
    """
    limits = httpx2.Limits(
        max_connections=in_flight, max_keepalive_connections=in_flight, keepalive_expiry=30
    )
    # a service that sets cookies could make each request longer than the one before
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    client = httpx2.Client(
        limits=limits, cookies=no_cookies, follow_redirects=False, trust_env=use_proxy
    )
    return apply_deadlines(client)


def send(
    client: httpx2.Client, url: str, request: Request, width: int | None
) -> tuple[httpx2.Response, bytes]:
    """Send a request once and read the answer.

    Args:
        client: of `open_client`.
        url: of the service, without the path of the wire.
        request: what to send, and until when.
        width: numbers of a vector, or None if it is unknown.

    Returns:
        The response, and its body as it was sent.

    Raises:
        RetryableError: no connection, a broken one, or an answer that is too large.
    """
    timeout = max(SHORTEST_TIMEOUT, request.until - time.monotonic())
    try:
        with (
            deadline(time.monotonic() + timeout),
            client.stream(
                "POST",
                url + request.message.path,
                content=request.message.content,
                headers=request.headers,
                timeout=timeout,
            ) as response,
        ):
            content = _read(response, request, width)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise RetryableError(f"no connection, {one_line(str(error))}", served=False) from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        # the service may have served the request before the connection broke
        reason = f"the connection broke, {type(error).__name__}"
        raise RetryableError(reason, served=True) from None
    return response, content


def _read(response: httpx2.Response, request: Request, width: int | None) -> bytes:
    """Read the body up to the size that an answer to the images of this request can have."""
    images = len(request.images)
    vector_bytes = NUMBER_BYTES * (width or MAX_WIDTH)
    # some services repeat the request in their answer
    most = BODY_BYTES + len(request.message.content) + images * (IMAGE_BYTES + vector_bytes)
    content = bytearray()
    for part in response.iter_raw():
        content += part
        if len(content) > most:
            advice = "" if width else ": set target.remote.width if its vectors are so wide"
            raise RetryableError(
                f"the answer is larger than {images} images can make it{advice}", served=True
            )
    return bytes(content)


def one_line(text: str) -> str:
    """Return the start of a service's text, without line breaks and control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()
