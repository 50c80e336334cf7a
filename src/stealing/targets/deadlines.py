"""A deadline for a whole request of the client, however slowly the service sends.

The client's own timeouts start again with each byte: with them alone, a service that sends one
byte a second could hold a request for a day.
"""

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

PART = 65536
"""Bytes that are written at a time."""

_thread = threading.local()


@contextmanager
def deadline(until: float) -> Iterator[None]:
    """Stop all reads and writes of this thread at a moment of the monotonic clock.

    It holds for clients that went through `apply_deadlines`.
    """
    _thread.until = until
    try:
        yield
    finally:
        del _thread.until


def apply_deadlines(client: httpx2.Client) -> httpx2.Client:
    """Make a client's connections obey `deadline`; beyond it, they raise a timeout."""
    # The client has no public setting for its network backend, only its connection pools do.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = _Backend()
    return client


def _remaining(timeout: float | None, timeout_error: type[Exception]) -> float | None:
    """Return the seconds until the deadline, or the timeout if it is shorter."""
    until: float | None = getattr(_thread, "until", None)
    if until is None:
        return timeout
    remaining = until - time.monotonic()
    if remaining <= 0:
        raise timeout_error("the deadline has passed")
    if timeout is None:
        return remaining
    return min(remaining, timeout)


class _Backend(httpcore2.SyncBackend):
    """Opens connections whose reads and writes obey the deadline."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        remaining = _remaining(timeout, httpcore2.ConnectTimeout)
        stream = super().connect_tcp(host, port, remaining, local_address, socket_options)
        return _Stream(stream)


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes obey the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In parts: the timeout of a large write starts again with each piece that was sent.
        view = memoryview(buffer)
        while view:
            self._stream.write(bytes(view[:PART]), _remaining(timeout, httpcore2.WriteTimeout))
            view = view[PART:]

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        remaining = _remaining(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, remaining))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
