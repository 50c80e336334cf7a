"""Failures on purpose: a service fails as services do, so that tests can show that clients cope."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from stealing.errors import ConfigError
from stealing.service.errors import ApiError

KINDS = ("drop", "delay", "429", "500", "truncate", "close", "width", "duplicate", "reorder")

FLUSH_SECONDS = 0.01
"""Time that the first half of a body has to leave before the connection is cut."""


@dataclass
class Faults:
    """Chooses which requests fail, and how.

    Kinds:

    - `drop` closes the connection without an answer; half of the time after billing.
    - `500` answers with this status; half of the time after billing.
    - `429` asks the client to wait.
    - `delay` takes one second longer.
    - `truncate` sends part of the body as if it were all.
    - `close` sends half of the body and closes the connection.
    - `width` sends vectors of another width.
    - `duplicate` sends one vector twice.
    - `reorder` sends the vectors in another order.

    Args:
        rate: share of requests that fail, 0 to 1.
        kinds: some of the above.
        seed: of the random choices.
    """

    rate: float
    kinds: Sequence[str] = KINDS
    seed: int = 0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or not set(self.kinds) <= set(KINDS):
            raise ConfigError(
                f"faults.rate has to be 0 to 1, and faults.kinds a list of {', '.join(KINDS)}: "
                "correct the one that is not."
            )
        self.rng = random.Random(self.seed)

    def next(self) -> str:
        """Return the fault of the next request; empty for none."""
        if self.rng.random() < self.rate:
            return self.rng.choice(list(self.kinds))
        return ""

    async def before(self, fault: str, scope: Scope) -> None:
        """Fail before the request is served and billed, if the fault does."""
        is_late = self.rng.random() < 0.5
        if fault == "429":
            wait = round(self.rng.random() * 0.1, 3)
            raise ApiError(429, "A fault on purpose: ask again.", wait)
        if fault == "delay":
            await asyncio.sleep(1)
        if fault in ("drop", "500") and not is_late:
            self.after(fault, scope, b"")

    def rows(self, fault: str, features_BD: Tensor) -> tuple[list[int], Tensor]:
        """Return the order in which rows are sent, and the features whose rows they are."""
        order = list(range(len(features_BD)))
        if fault == "duplicate":
            order.insert(0, self.rng.choice(order))
        if fault == "reorder":
            self.rng.shuffle(order)
        if fault == "width":
            return order, features_BD[:, :-1]
        return order, features_BD

    def after(self, fault: str, scope: Scope, body: bytes) -> bytes:
        """Return the body that is sent, or fail after the request was billed."""
        if fault == "500":
            raise ApiError(500, "A fault on purpose.")
        if fault == "drop":
            scope["stealing.transport"].abort()
        if fault == "truncate" and body:
            return body[: self.rng.randrange(len(body))]
        return body


class Abrupt:
    """ASGI middleware for faults: gives routes the connection to close, and closes it in mid-body.

    Args:
        app: the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # `send` is a method of uvicorn's; only its object knows the connection
        owner: Any = getattr(send, "__self__", None)
        scope["stealing.transport"] = getattr(owner, "transport", None)

        async def cut(message: Any) -> None:
            is_body = message["type"] == "http.response.body" and message["body"]
            if not scope.get("stealing.close") or not is_body:
                await send(message)
                return
            half = message["body"][: len(message["body"]) // 2]
            await send({**message, "body": half, "more_body": True})
            await asyncio.sleep(FLUSH_SECONDS)
            scope["stealing.transport"].abort()

        await self.app(scope, receive, cut)
