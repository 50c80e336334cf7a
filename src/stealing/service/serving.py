"""Everything between a request and its answer, whatever the protocol: account, limits, batch, bill, metrics.

Shape letters: B images, D feature width.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from stealing.queries.digests import digests
from stealing.service import intake
from stealing.service.accounts import Account, Books
from stealing.service.batching import Batcher, Job
from stealing.service.errors import Denied
from stealing.service.faults import Faults
from stealing.targets.wire import content_digest

DENIED: dict[int | str, dict[str, Any]] = {status: {} for status in (400, 401, 403, 404, 408, 413, 422, 429, 503)}
"""What a request may be answered with besides an answer."""


def body_schema(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A request's body for the OpenAPI page; it is read by ourselves, so that it is never believed."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


@dataclass(frozen=True)
class Limits:
    """What one request may be.

    Attributes:
        images: most in it.
        bytes: most in its body.
        patience: seconds within which the body has to arrive.
    """

    images: int
    bytes: int
    patience: float


@dataclass(frozen=True)
class Offer:
    """What is served: `model` under this name and `version`, on images (3, size, size)."""

    model: str
    version: str
    size: int


@dataclass(frozen=True)
class Answer:
    """What came of a request: features (B, D), the digests of its images, and the fault that is still to befall it."""

    features: Tensor
    digests: list[bytes]
    fault: str


class Service:
    """Everything between a request and its answer.

    Args:
        offer: what is served.
        limits: of a request.
        batcher: computes.
        books: accounts.
        faults: None for a service that fails only when it must.
    """

    def __init__(self, offer: Offer, limits: Limits, batcher: Batcher, books: Books, faults: Faults | None) -> None:
        self.offer, self.limits, self.batcher, self.books, self.faults = offer, limits, batcher, books, faults
        self._next: dict[str, float] = {}  # the moment from which each account is within its rate
        self.registry = CollectorRegistry()
        self.requests = Counter("stealing_requests", "Requests by status", ["route", "status"], registry=self.registry)
        self.images = Counter("stealing_images", "Images answered", registry=self.registry)
        self.latency = Histogram("stealing_seconds", "Seconds a request", ["route"], registry=self.registry)
        buckets = (1, 4, 16, 64, 250, 1000)
        sizes = Histogram("stealing_batch_images", "Images a forward pass", buckets=buckets, registry=self.registry)
        batcher.sizes = sizes.observe
        waiting = Gauge("stealing_waiting_images", "Images that wait", registry=self.registry)
        waiting.set_function(lambda: batcher.waiting)

    def account(self, request: Request) -> Account:
        """Whose request it is.

        Raises:
            Denied: no key, or none of ours.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.headers.get("api-key", "")
        account = self.books.account(key) if key else None
        if account is None:
            raise Denied(401, "The key is none of this service: send Authorization: Bearer <key>.")
        return account

    async def answer(self, request: Request, images_of: Callable[[bytes], Tensor]) -> Answer:
        """Check, decode, batch.

        Args:
            request: of any protocol.
            images_of: makes images of its body, or denies it.
        """
        account = self.account(request)
        body = await intake.body_of(request, self.limits.bytes, self.limits.patience)
        fault = self.faults.next() if self.faults else ""
        if self.faults:
            fault = await self.faults.before(fault, request.scope)
        idempotency = request.headers.get("idempotency-key")
        if idempotency is not None and not 0 < len(idempotency) <= 200:
            raise Denied(400, "The Idempotency-Key is not of 1 to 200 letters: send another.")
        images = await anyio.to_thread.run_sync(images_of, body)
        self._pace(account, len(images))
        head = f"{request.url.path}?{request.url.query}|{request.headers.get('x-image-shape')}|"
        named = hashlib.blake2b(head.encode() + body, digest_size=16).digest()
        job = Job(account.name, idempotency, named, images, digests(images))
        features = await self.batcher.answer(job)
        self.images.inc(len(images))
        return Answer(features, job.digests, fault)

    def sent(self, request: Request, answer: Answer, pack: Callable[[list[int], Tensor], Response]) -> Response:
        """The answer on its way out, with what the fault switch makes of it."""
        places = list(range(len(answer.features)))
        rows = self.faults.rows(answer.fault, answer.features) if self.faults else (places, answer.features)
        response = pack(*rows)
        response.headers["content-digest"] = content_digest(bytes(response.body))
        if not self.faults:
            return response
        body = self.faults.after(answer.fault, request.scope, bytes(response.body))
        request.scope["stealing.close"] = answer.fault == "close"
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return Response(body, headers=headers)

    def _pace(self, account: Account, images: int) -> None:
        """Keep an account to its rate; a second's worth may come at once."""
        if account.rate is None:
            return
        now = time.monotonic()
        start = max(self._next.get(account.name, 0.0), now - 1)
        if start > now:
            raise Denied(
                429, f"This account may ask about {account.rate:g} images a second: wait.", round(start - now, 2)
            )
        self._next[account.name] = start + images / account.rate

    def here(self, model: str) -> None:
        """Refuse another model's name.

        Raises:
            Denied: it is none of ours.
        """
        if model != self.offer.model:
            raise Denied(404, f"There is no model {model[:40]}: ask for {self.offer.model}.")


class Measured:
    """Counts and times every request by its route and status.

    Args:
        app: the service.
        service: keeps the metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        start, status = time.perf_counter(), [0]

        async def seen(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        await self.app(scope, receive, seen)
        if scope["type"] == "http":
            route = getattr(scope.get("route"), "path", "none")
            self.service.requests.labels(route, status[0]).inc()
            self.service.latency.labels(route).observe(time.perf_counter() - start)
