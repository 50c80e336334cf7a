"""The fault switch: a service that fails on purpose, as services do, so that clients can be shown to bear it."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from stealing.errors import ConfigError
from stealing.service.errors import Denied

KINDS = ("drop", "delay", "429", "500", "truncate", "close", "width", "duplicate", "reorder")


@dataclass
class Faults:
    """Which requests fail, and how.

    `drop` closes the connection without a word, and `500` answers so, half of the time after the answer was billed;
    `delay` takes a second longer; `429` asks to come again; `truncate` sends part of a body as if it were all, `close`
    part of it and no more; `width` sends vectors of another width, `duplicate` one vector twice, `reorder` the rows in
    another order.

    Args:
        rate: share of requests, 0 to 1.
        kinds: some of the above.
        seed: of the dice.
    """

    rate: float
    kinds: Sequence[str] = KINDS
    seed: int = 0
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"A fault's rate is 0 to 1, and its kinds are among {', '.join(KINDS)}: set them so.")
        self.dice = random.Random(self.seed)

    def next(self) -> str:
        """What befalls the next request; empty for nothing."""
        return self.dice.choice(list(self.kinds)) if self.dice.random() < self.rate else ""

    async def before(self, fault: str, scope: Scope) -> str:
        """Fail before anything was done, or hand on a fault for later."""
        late = self.dice.random() < 0.5
        if fault == "429":
            raise Denied(429, "A fault on purpose: ask again.", round(self.dice.random() * 0.1, 3))
        if fault == "delay":
            await asyncio.sleep(1)
        if fault in ("drop", "500") and not late:
            self.after(fault, scope, b"")
        return fault

    def rows(self, fault: str, features_BD: Tensor) -> tuple[list[int], Tensor]:
        """Which rows to send in which order, and the features they are of."""
        places = list(range(len(features_BD)))
        if fault == "duplicate":
            places.insert(0, self.dice.choice(places))
        if fault == "reorder":
            self.dice.shuffle(places)
        return places, features_BD[:, :-1] if fault == "width" else features_BD

    def after(self, fault: str, scope: Scope, body: bytes) -> bytes:
        """Fail after all was done; else the body that is sent."""
        if fault == "500":
            raise Denied(500, "A fault on purpose.")
        if fault == "drop":
            scope["stealing.transport"].abort()
        return body[: self.dice.randrange(len(body))] if fault == "truncate" and body else body


class Abrupt:
    """Outermost part of the application: tells those within how to cut the connection, and cuts it in mid-body.

    Args:
        app: the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        owner: Any = getattr(send, "__self__", None)  # uvicorn's own, which alone knows the connection
        scope["stealing.transport"] = getattr(owner, "transport", None)

        async def cut(message: Any) -> None:
            if scope.get("stealing.close") and message["type"] == "http.response.body" and message["body"]:
                await send({**message, "body": message["body"][: len(message["body"]) // 2], "more_body": True})
                await asyncio.sleep(0.01)  # lets it leave
                scope["stealing.transport"].abort()
                return
            await send(message)

        await self.app(scope, receive, cut)
