"""The application: all routes of the service, and the answer if something goes wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from stealing.service import open_inference, openai
from stealing.service.errors import ApiError, error_object
from stealing.service.protocol import Reserved
from stealing.service.serving import Measured, Service
from stealing.targets.wire import STOPPED

CLEANING_SECONDS = 3600.0
"""Longest time between two deletions of old answers."""


def application(service: Service, keep: float) -> FastAPI:
    """Return the application.

    Args:
        service: answers the requests.
        keep: seconds for which an answer stays under its idempotency key.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batching = asyncio.create_task(service.batcher.run())
        cleaning = asyncio.create_task(_delete_old_answers(service, keep))
        yield
        for task in (batching, cleaning):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        service.batcher.close()

    app = FastAPI(
        title="stealing: an encoder as a service",
        version=service.offer.version,
        lifespan=lifespan,
    )
    app.add_middleware(Reserved)
    # the last one added is the outermost, so that it measures all answers
    app.add_middleware(Measured, service=service)
    app.include_router(openai.router(service))
    app.include_router(open_inference.router(service))
    app.include_router(_router(service))
    _handle_errors(app)
    return app


async def _delete_old_answers(service: Service, keep: float) -> None:
    """Delete answers that are older than `keep` seconds, again and again, until cancelled."""
    while True:
        await anyio.to_thread.run_sync(service.books.forget, time.time() - keep)
        await asyncio.sleep(min(keep, CLEANING_SECONDS))


def _router(service: Service) -> APIRouter:
    """Return the routes that belong to no wire."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the service is up."""
        return {"status": "ok"}

    @router.get("/metrics")
    async def metrics() -> Response:
        """Metrics as Prometheus reads them; they name no account."""
        text = generate_latest(service.registry)
        return Response(text, media_type="text/plain; version=0.0.4")

    @router.get("/v1/usage", responses={401: {}})
    async def usage(request: Request) -> dict[str, Any]:
        """What the asking account was billed."""
        account = service.account(request)
        return {
            "account": account.name,
            "images": account.billed,
            "quota": account.quota,
            "cost": account.billed * account.price,
        }

    return router


def _handle_errors(app: FastAPI) -> None:
    """Make every error one sentence in JSON."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return _error_response(request, error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: see /docs for what there is."
        return _error_response(request, ApiError(error.status_code, message))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message = "A parameter has a wrong type: see /docs."
        return _error_response(request, ApiError(422, message))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        message = "The service failed: tell its operator, whose log has the cause."
        return _error_response(request, ApiError(500, message))


def _error_response(request: Request, error: ApiError) -> Response:
    """Return the answer to a request that is refused."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after:.2f}"
    if error.stopped:
        headers[STOPPED] = "1"
    content: Any = error_object(error.message, error.status)
    if request.url.path.startswith("/v2"):
        # clients of the Open Inference Protocol expect a plain string
        content = error.message
    return JSONResponse({"error": content}, error.status, headers)
