"""From a request to its answer, on any wire: account, limits, batch, bill and metrics.

Shape letters: B images, D feature width.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from stealing.queries.digests import digests
from stealing.service import parsing
from stealing.service.accounts import Account, Books
from stealing.service.batching import Batcher, PendingRequest
from stealing.service.errors import ApiError
from stealing.service.faults import Faults
from stealing.service.limits import Limits, Room
from stealing.targets.wire import content_digest

T = TypeVar("T")

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {} for status in (400, 401, 403, 404, 408, 413, 422, 429, 503)
}
"""Statuses of requests that are refused, for the OpenAPI page."""

BATCH_SIZES = (1, 4, 16, 64, 250, 1000)
"""Buckets of the histogram of images in a forward pass."""

MAX_IDEMPOTENCY_KEY = 200
"""Most letters of an idempotency key."""


def body_schema(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a request's body for the OpenAPI page.

    FastAPI does not read the body: `stealing.service.parsing` does, within the limits.
    """
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


@dataclass(frozen=True)
class Offer:
    """What is served: `model` under this name and `version`, on images (3, size, size)."""

    model: str
    version: str
    size: int


@dataclass(frozen=True)
class Answer:
    """Features (B, D), the digests of their images, and the fault that the response still gets."""

    features: Tensor
    digests: list[bytes]
    fault: str


class Service:
    """Answers requests of all wires.

    Args:
        offer: what is served.
        limits: of requests.
        batcher: computes the features.
        books: accounts.
        faults: failures on purpose; None for none.
    """

    def __init__(
        self, offer: Offer, limits: Limits, batcher: Batcher, books: Books, faults: Faults | None
    ) -> None:
        self.offer = offer
        self.limits = limits
        self.batcher = batcher
        self.books = books
        self.faults = faults
        self.room = Room(limits)
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "stealing_requests", "Requests by status", ["route", "status"], registry=registry
        )
        self.images = Counter("stealing_images", "Images answered", registry=registry)
        self.latency = Histogram(
            "stealing_seconds", "Seconds a request", ["route"], registry=registry
        )
        sizes = Histogram(
            "stealing_batch_images",
            "Images a forward pass",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        batcher.sizes = sizes.observe
        waiting = Gauge("stealing_waiting_images", "Images that wait", registry=registry)
        waiting.set_function(lambda: batcher.waiting)
        self._parsers = ThreadPoolExecutor(limits.parsers, "parser")
        # by account, the moment of the monotonic clock from which it is within its rate
        self._next: dict[str, float] = {}

    def account(self, request: Request) -> Account:
        """Return the account whose key a request carries.

        Raises:
            ApiError: it carries no key, or an unknown one.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.headers.get("api-key", "")
        account = self.books.account(key) if key else None
        if account is None:
            raise ApiError(
                401, "This service does not know the key: send Authorization: Bearer <key>."
            )
        return account

    async def answer(self, request: Request, read: Callable[[bytearray], Tensor]) -> Answer:
        """Return the billed answer to a request.

        Args:
            request: of any wire.
            read: returns the images of the request's body, or refuses it; runs in a thread.

        Raises:
            ApiError: the request is refused.
        """
        account = self.account(request)
        idempotency = request.headers.get("idempotency-key")
        # all of the request that decides the answer besides its body
        head = f"{request.url.path}?{request.url.query}|{request.headers.get('x-image-shape')}|"
        async with parsing.body_of(request, account.name, self.limits, self.room) as body:
            fault = await self._draw_fault(request)
            if idempotency is not None and not 0 < len(idempotency) <= MAX_IDEMPOTENCY_KEY:
                raise ApiError(400, "The Idempotency-Key is not of 1 to 200 letters: send another.")

            def parse() -> tuple[bytes, Tensor, list[bytes]]:
                images = read(body)
                request_hash = hashlib.blake2b(head.encode(), digest_size=16)
                request_hash.update(body)
                return request_hash.digest(), images, digests(images)

            request_digest, images, image_digests = await self.in_thread(parse)
            self._check_rate(account, len(images))
            pending = PendingRequest(
                account.name, idempotency, request_digest, images, image_digests
            )
            features_BD = await self.batcher.answer(pending)
        self.images.inc(len(features_BD))
        return Answer(features_BD, image_digests, fault)

    async def _draw_fault(self, request: Request) -> str:
        """Return the fault of this request, empty for none, or fail at once."""
        if self.faults is None:
            return ""
        fault = self.faults.next()
        await self.faults.before(fault, request.scope)
        return fault

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run slow work on bytes in a thread of the parsers, so that other requests go on."""
        return await asyncio.get_running_loop().run_in_executor(self._parsers, work)

    async def respond(
        self, request: Request, answer: Answer, pack: Callable[[list[int], Tensor], Response]
    ) -> Response:
        """Return the response to a request, with its fault.

        Args:
            request: of any wire.
            answer: to send.
            pack: makes a response of features (B, D) and the order in which their rows are sent.
        """
        order = list(range(len(answer.features)))
        features_BD = answer.features
        if self.faults is not None:
            order, features_BD = self.faults.rows(answer.fault, features_BD)

        def pack_with_digest() -> Response:
            response = pack(order, features_BD)
            response.headers["content-digest"] = content_digest(bytes(response.body))
            return response

        response = await self.in_thread(pack_with_digest)
        if self.faults is None:
            return response
        body = self.faults.after(answer.fault, request.scope, bytes(response.body))
        request.scope["stealing.close"] = answer.fault == "close"
        headers = dict(response.headers)
        headers.pop("content-length")  # a fault may have shortened the body
        return Response(body, headers=headers)

    def close(self) -> None:
        """Wait for the threads, which may still bill answers, then close the books."""
        self._parsers.shutdown()
        self.batcher.close()
        self.books.close()

    def count_refusal(self, status: int) -> None:
        """Count an answer that no route gave."""
        self.requests.labels("none", status).inc()

    def _check_rate(self, account: Account, images: int) -> None:
        """Refuse an account that is above its rate; the images of one second may come at once."""
        if account.rate is None:
            return
        now = time.monotonic()
        start = max(self._next.get(account.name, 0.0), now - 1)
        if start > now:
            raise ApiError(
                429,
                f"This account may send {account.rate:g} images per second: wait.",
                round(start - now, 2),
            )
        self._next[account.name] = start + images / account.rate

    def check_model(self, model: str) -> None:
        """Refuse the name of another model.

        Raises:
            ApiError: it is not the model of this service.
        """
        if model != self.offer.model:
            raise ApiError(404, f"There is no model {model[:40]}: ask for {self.offer.model}.")


class Measured:
    """ASGI application that counts and times each request by its route and status.

    Status 0 is a client that went away before its answer.

    Args:
        app: the service.
        service: holds the metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def observe(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observe)
        except Exception:
            status = status or 500  # the server sends it outside of this application
            raise
        finally:
            # the template of the route: the client chooses the names in a path
            route = getattr(scope.get("route"), "path", "none")
            self.service.requests.labels(route, status).inc()
            self.service.latency.labels(route).observe(time.perf_counter() - start)
