"""A limit to how long a client may take to send the head of a request; its body has one of its own."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def impatient(seconds: float) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, which hangs up on a head that is not whole after so many seconds."""

    class Impatient(HttpToolsProtocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.late = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            served = self.cycle is not None and not self.cycle.response_complete
            if served and self.late is not None:
                self.late.cancel()
                self.late = None
            elif not served and self.late is None:  # the head of the next one has begun
                self.late = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.late is not None:
                self.late.cancel()
            super().connection_lost(exc)

    return Impatient
