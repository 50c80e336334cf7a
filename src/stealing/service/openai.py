"""`/v1`: as OpenAI's clients ask, for images, and the raw fast path beside it."""

import base64
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from torch import Tensor

from stealing.service import intake
from stealing.service.serving import DENIED, Service, body_schema
from stealing.targets.wire import pack_answers


def router(service: Service) -> APIRouter:
    """The routes."""
    router, offer, limits = APIRouter(), service.offer, service.limits

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is offered."""
        return {
            "object": "list",
            "data": [{"id": offer.model, "object": "model", "version": offer.version, "size": offer.size}],
        }

    @router.post(
        "/v1/embeddings",
        responses=DENIED,
        openapi_extra=body_schema("application/json", intake.Embeddings.model_json_schema()),
    )
    async def embeddings(request: Request) -> Response:
        """As OpenAI's, for images: `input` holds data URIs."""
        parsed: list[intake.Embeddings] = []

        def images_of(body: bytes) -> Tensor:
            wanted, uris = intake.embeddings(body, limits.images)
            service.here(wanted.model)
            parsed.append(wanted)
            return intake.pictures(uris, offer.size)

        answer = await service.answer(request, images_of)

        def pack(places: list[int], features_BD: Tensor) -> Response:
            rows = features_BD.float().contiguous().numpy()
            if parsed[0].encoding_format == "base64":
                vectors: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
            else:
                vectors = rows.tolist()
            data = [{"object": "embedding", "index": place, "embedding": vectors[place]} for place in places]
            used = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
            said = {"object": "list", "data": data, "model": offer.model, "model_version": offer.version, "usage": used}
            return Response(json.dumps(said), media_type="application/json")

        return service.sent(request, answer, pack)

    @router.post(
        "/v1/raw",
        responses=DENIED,
        openapi_extra=body_schema("application/octet-stream", {"type": "string", "format": "binary"}),
    )
    async def raw(request: Request) -> Response:
        """The fast path: pixels in, a digest and float32 numbers a row out; `X-Image-Shape` says how many."""
        shape = request.headers.get("x-image-shape", "")
        answer = await service.answer(request, lambda body: intake.pixels(body, shape, offer.size, limits.images))

        def pack(places: list[int], features_BD: Tensor) -> Response:
            content = pack_answers([answer.digests[place] for place in places], features_BD[places].float())
            return Response(content, media_type="application/octet-stream", headers={"x-model-version": offer.version})

        return service.sent(request, answer, pack)

    return router
