"""`/v2`: the Open Inference Protocol of KServe and Triton, as JSON or with binary tensors."""

import json
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from torch import Tensor

from stealing.service import intake
from stealing.service.errors import Denied
from stealing.service.serving import DENIED, Service, body_schema
from stealing.targets.wire import pack_tensors


def router(service: Service) -> APIRouter:
    """The routes."""
    router, offer, limits = APIRouter(), service.offer, service.limits

    @router.get("/v2")
    async def server() -> dict[str, Any]:
        """The server, as the Open Inference Protocol describes it."""
        return {"name": "stealing", "version": offer.version, "extensions": ["binary_tensor_data"]}

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the service is up."""
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether it answers."""
        return {"ready": True}

    @router.get("/v2/models/{model}/ready", responses={404: {}})
    async def model_ready(model: str) -> dict[str, Any]:
        """Whether this model answers."""
        service.here(model)
        return {"name": model, "ready": True}

    @router.get("/v2/models/{model}", responses={404: {}})
    async def metadata(model: str) -> dict[str, Any]:
        """Its tensors."""
        service.here(model)
        images = {"name": "images", "datatype": "UINT8", "shape": [-1, 3, offer.size, offer.size]}
        outputs = [{"name": "features", "datatype": "FP32", "shape": [-1, -1]}]
        outputs.append({"name": "digest", "datatype": "UINT8", "shape": [-1, 16]})
        return {"name": model, "versions": [offer.version], "platform": "torch", "inputs": [images], "outputs": outputs}

    @router.post(
        "/v2/models/{model}/infer", responses=DENIED, openapi_extra=body_schema("application/json", {"type": "object"})
    )
    async def infer(model: str, request: Request) -> Response:
        """Features of a tensor `images`, as JSON or with binary tensors."""
        service.here(model)
        heads: list[dict[str, Any]] = []

        def images_of(body: bytes) -> Tensor:
            length = request.headers.get("inference-header-content-length")
            head, images = intake.tensor(body, length, offer.size, limits.images)
            heads.append(head | {"binary": _binary(head)})
            return images

        answer = await service.answer(request, images_of)

        def pack(places: list[int], features_BD: Tensor) -> Response:
            head = {"model_name": model, "model_version": offer.version, "id": heads[0].get("id", "")}
            named = np.frombuffer(b"".join(answer.digests), np.uint8).reshape(-1, 16)[places]
            tensors: dict[str, Any] = {"features": features_BD[places].float().contiguous().numpy(), "digest": named}
            if heads[0]["binary"]:
                content, length = pack_tensors(head, "outputs", tensors)
                lengths = {"inference-header-content-length": str(length)}
                return Response(content, media_type="application/octet-stream", headers=lengths)
            kinds = {"features": "FP32", "digest": "UINT8"}
            listed = [
                {"name": name, "shape": list(rows.shape), "datatype": kinds[name], "data": rows.ravel().tolist()}
                for name, rows in tensors.items()
            ]
            return Response(json.dumps(head | {"outputs": listed}), media_type="application/json")

        return service.sent(request, answer, pack)

    return router


def _binary(head: dict[str, Any]) -> bool:
    """Whether the answer's tensors are wanted as bytes.

    Raises:
        Denied: other outputs are wanted than there are.
    """
    wanted = head.get("outputs", [])
    if not isinstance(wanted, list) or not all(
        isinstance(each, dict) and each.get("name") in ("features", "digest") for each in wanted
    ):
        raise Denied(400, "There are the outputs features and digest: ask for these, or leave outputs out.")
    parameters = [head.get("parameters", {}), *(each.get("parameters", {}) for each in wanted)]
    if not all(isinstance(each, dict) for each in parameters):
        raise Denied(400, "parameters is not an object: send one, or none.")
    return any(each.get("binary_data") is True or each.get("binary_data_output") is True for each in parameters)
