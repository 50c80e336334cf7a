"""The application: routes of every protocol, and what is said when something goes wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from stealing.service import open_inference, openai
from stealing.service.errors import Denied
from stealing.service.serving import Measured, Service
from stealing.targets.wire import STOPPED


def application(service: Service, keep: float) -> FastAPI:
    """The routes.

    Args:
        service: answers.
        keep: seconds for which answers stay under their idempotency key.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def forget() -> None:
            while True:
                await anyio.to_thread.run_sync(service.books.forget, time.time() - keep)
                await asyncio.sleep(min(keep, 3600))

        tasks = [asyncio.create_task(service.batcher.run()), asyncio.create_task(forget())]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        service.batcher.close()

    app = FastAPI(title="stealing: an encoder as a service", version=service.offer.version, lifespan=lifespan)
    app.add_middleware(Measured, service=service)
    app.include_router(openai.router(service))
    app.include_router(open_inference.router(service))

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> Response:
        headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
        headers |= {STOPPED: "1"} if error.stopped else {}
        said: Any = error.message
        if not request.url.path.startswith("/v2"):  # whose clients expect a plain string
            said = {"message": error.message, "type": "invalid_request_error", "code": error.status}
        return JSONResponse({"error": said}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return await denied(request, Denied(error.status_code, f"{error.detail}: see /docs for what there is."))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await denied(request, Denied(422, "A parameter is not of its type: see /docs."))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the service is up."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text; no account is named in it."""
        return Response(generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/usage", responses={401: {}})
    async def usage(request: Request) -> dict[str, Any]:
        """What the asking account was billed."""
        account = service.account(request)
        cost = account.billed * account.price
        return {"account": account.name, "images": account.billed, "quota": account.quota, "cost": cost}

    return app
