"""Limits of connections, on top of uvicorn's protocol: bytes in, requests or refusals out.

There are limits for the size and the time of a request's head, for the number of connections, and
for the time in which a client reads its answer. Connections beyond the number serve only health
checks, so that a full service does not look like a dead one.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from stealing.service.errors import error_object
from stealing.service.limits import Limits

HEALTH = ("/healthz", "/metrics", "/v2/health/live", "/v2/health/ready")
"""Paths that a connection beyond the limit may ask for."""

SPARE = 16
"""Connections beyond the limit; the next one takes the place of the oldest."""

SPARE_SECONDS = 2.0
"""Time that a connection beyond the limit has for its only request."""

QUEUE = 16
"""Requests that a client may send before the answer to its first."""

FIELD = 32
"""Bytes that a header field takes beside its name and value (RFC 9113, section 6.5.2)."""

OVERLOADED = "The service has as many connections as it takes: ask again later."


class Connections:
    """Counts the open connections of a server.

    Args:
        limits: of their number.
        refused: is called with the status of each answer that no route gave.
    """

    def __init__(self, limits: Limits, refused: Callable[[int], None]) -> None:
        self.limits = limits
        self.refused = refused
        self._by_network = Counter[str]()
        self._spare: deque[Guarded] = deque()
        # clients that do not read, as an ordered set: the first stopped reading first
        self._unread: dict[Guarded, None] = {}

    def admit(self, connection: "Guarded") -> bool:
        """Count a new connection, and return True if there is room for it."""
        network = connection.network
        has_room = self._by_network.total() < self.limits.connections
        if has_room and self._by_network[network] < self.limits.connections_per_address:
            self._by_network[network] += 1
            return True
        self._spare.append(connection)
        if len(self._spare) > SPARE:
            self._spare.popleft().transport.abort()
        return False

    def release(self, connection: "Guarded") -> None:
        """Remove a connection that is closed."""
        self.read(connection)
        if not connection.admitted:
            if connection in self._spare:
                self._spare.remove(connection)
            return
        self._by_network[connection.network] -= 1
        if not self._by_network[connection.network]:
            del self._by_network[connection.network]

    def unread(self, connection: "Guarded") -> None:
        """Note a client that does not read; cut the first one if all hold too many bytes."""
        self._unread[connection] = None
        held = sum(waiting.transport.get_write_buffer_size() for waiting in self._unread)
        if held > self.limits.bytes_in_all:
            first = next(iter(self._unread))
            first.transport.abort()

    def read(self, connection: "Guarded") -> None:
        """Note a client that has read all."""
        self._unread.pop(connection, None)


def guarded(connections: Connections) -> Callable[..., asyncio.Protocol]:
    """Return a factory of protocols whose connections are counted here."""
    return partial(Guarded, connections)


class Guarded(HttpToolsProtocol):
    """Uvicorn's HTTP protocol with limits, one object for each connection.

    Args:
        connections: of the server.
        options: from uvicorn.
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.connections_open = connections
        self.limits = connections.limits
        self.network = ""
        self.admitted = False
        self._active: RequestResponseCycle | None = None  # the request that is being answered
        self._head = 0  # parsed bytes of the current head
        self._unparsed = 0  # bytes since the parser last called one of our methods
        self._unwanted = 0  # bytes of a body that came after its answer
        self._status = HTTPStatus.BAD_REQUEST
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count the connection, and start the time of its first head."""
        super().connection_made(transport)
        # 0: pause_writing is called for any bytes that the client does not read at once
        transport.set_write_buffer_limits(high=0)
        self.network = _network(self.client[0]) if self.client else ""
        self.admitted = self.connections_open.admit(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection, and stop the answers that wait for it."""
        self.connections_open.release(self)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in [*waiting, self._active]:
            if cycle is not None:
                cycle.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, within the limits."""
        if self.transport.is_closing():
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed > self.limits.head:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        is_served = self.cycle is not None and not self.cycle.response_complete
        if is_served and self._late is not None:
            self._late.cancel()
            self._late = None
        elif not is_served and self._late is None:  # the head of the next request has begun
            self._wait()

    def on_message_begin(self) -> None:
        """Start to count a head."""
        super().on_message_begin()
        self._head = 0
        self._unparsed = 0
        self._unwanted = 0
        if not self.admitted:
            self.scope["stealing.spare"] = True  # type: ignore[typeddict-unknown-key]

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a field of the head, or of the trailer after the body."""
        self._grow(len(name) + len(value) + FIELD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the requests before it."""
        self._unparsed = 0
        if len(self.pipeline) >= QUEUE:
            raise ValueError("too many requests wait for their answers")
        waiting = len(self.pipeline)
        super().on_headers_complete()
        if len(self.pipeline) == waiting:
            self._active = self.cycle
        if not self.admitted:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass on a part of a body, and count the parts that come after the answer.

        Those are read up to a limit: otherwise the client would not see the answer.
        """
        self._unparsed = 0
        if self.cycle.response_complete:
            self._unwanted += len(body)
            if self._unwanted > self.limits.bytes:
                self.transport.abort()
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Go on with the next request in the queue."""
        if self.pipeline:
            self._active = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the time in which the client has to read what was written."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.patience, self.transport.abort)
            self.connections_open.unread(self)

    def resume_writing(self) -> None:
        """Stop that time: the client has read all."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
            self.connections_open.read(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what uvicorn's parser refuses; our own limits come here too, as ValueError."""
        self._refuse(self._status)

    def _grow(self, count: int) -> None:
        """Add bytes to the head, up to its limit."""
        self._unparsed = 0
        self._head += count
        if self._head > self.limits.head:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("the head is too large")

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer outside of every route, and close the connection."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.connections_open.refused(status.value)
        elif self.pipeline or cycle.response_started or not cycle.more_body:
            # the client would take a refusal for the answer to an earlier request
            self.transport.abort()
            return
        content = error_body(
            f"{status.phrase}: send a request that HTTP/1.1 allows, with a short head.",
            status.value,
        )
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + content)
        self.transport.close()

    def _wait(self) -> None:
        """Start the time in which a head has to arrive."""
        seconds = self.limits.patience
        if not self.admitted:
            seconds = min(SPARE_SECONDS, seconds)
        self._late = self.loop.call_later(seconds, self.transport.close)


class Reserved:
    """ASGI application that serves only health checks to connections beyond the limit.

    Args:
        app: the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not scope.get("stealing.spare") or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        content = error_body(OVERLOADED, 503)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def error_body(message: str, status: int) -> bytes:
    """Return the body of a refusal."""
    return json.dumps({"error": error_object(message, status)}).encode()


def _network(address: str) -> str:
    """Return an IPv4 address as it is, and the network of 64 bits of an IPv6 address.

    One client may own a whole network of 64 bits.
    """
    without_zone = address.partition("%")[0]
    parsed = ip_address(without_zone)
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:8].hex()
