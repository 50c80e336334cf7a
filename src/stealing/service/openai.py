"""`/v1`: embeddings of images in the format of OpenAI's API, and the raw wire."""

import base64
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from torch import Tensor

from stealing.service import parsing
from stealing.service.pictures import pictures
from stealing.service.serving import REFUSALS, Offer, Service, body_schema
from stealing.targets.wire import pack_answers

EMBEDDINGS_BODY = body_schema("application/json", parsing.Embeddings.model_json_schema())
RAW_BODY = body_schema("application/octet-stream", {"type": "string", "format": "binary"})


def router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    offer = service.offer

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is offered."""
        model = {
            "id": offer.model,
            "object": "model",
            "version": offer.version,
            "size": offer.size,
        }
        return {"object": "list", "data": [model]}

    @router.post("/v1/embeddings", responses=REFUSALS, openapi_extra=EMBEDDINGS_BODY)
    async def embeddings(request: Request) -> Response:
        """Embeddings of images, as OpenAI's of text: `input` holds data URIs."""
        return await _embeddings(service, request)

    @router.post("/v1/raw", responses=REFUSALS, openapi_extra=RAW_BODY)
    async def raw(request: Request) -> Response:
        """Pixels in, a digest and float32 numbers a row out; `X-Image-Shape` holds the shape."""
        return await _raw(service, request)

    return router


async def _embeddings(service: Service, request: Request) -> Response:
    wanted: list[parsing.Embeddings] = []  # set in a thread of the parsers

    def read(body: bytearray) -> Tensor:
        parsed, uris = parsing.embeddings(body, service.limits)
        service.check_model(parsed.model)
        wanted.append(parsed)
        return pictures(uris, service.offer.size)

    answer = await service.answer(request, read)

    def pack(order: list[int], features_BD: Tensor) -> Response:
        [parsed] = wanted
        content = _embeddings_body(service.offer, parsed.encoding_format, order, features_BD)
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")

    return await service.respond(request, answer, pack)


def _embeddings_body(
    offer: Offer, encoding: str, order: list[int], features_BD: Tensor
) -> dict[str, Any]:
    """Return the body of an answer.

    Args:
        offer: names model and version.
        encoding: of the vectors: `float` or `base64`.
        order: rows of the features in the order in which they are sent.
        features_BD: the vectors.
    """
    rows = features_BD.float().contiguous().numpy()
    data = []
    for place in order:
        # JSON lists of floats take several times as long as base64 of the same vectors
        if encoding == "base64":
            content = rows[place].astype("<f4").tobytes()
            vector: Any = base64.b64encode(content).decode()
        else:
            vector = rows[place].tolist()
        data.append({"object": "embedding", "index": place, "embedding": vector})
    return {
        "object": "list",
        "data": data,
        "model": offer.model,
        "model_version": offer.version,
        "usage": {"prompt_tokens": len(rows), "total_tokens": len(rows)},
    }


async def _raw(service: Service, request: Request) -> Response:
    shape = request.headers.get("x-image-shape", "")
    offer = service.offer

    def read(body: bytearray) -> Tensor:
        return parsing.pixels(body, shape, offer.size, service.limits)

    answer = await service.answer(request, read)

    def pack(order: list[int], features_BD: Tensor) -> Response:
        digests = [answer.digests[place] for place in order]
        return Response(
            pack_answers(digests, features_BD[order].float()),
            media_type="application/octet-stream",
            headers={"x-model-version": offer.version},
        )

    return await service.respond(request, answer, pack)
