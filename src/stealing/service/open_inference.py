"""`/v2`: the Open Inference Protocol of KServe and Triton, as JSON or with binary tensors."""

import json
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from torch import Tensor

from stealing.service import parsing
from stealing.service.errors import ApiError
from stealing.service.serving import REFUSALS, Service, body_schema
from stealing.targets.tensors import JSON_LENGTH, pack_tensors

Tensors = dict[str, NDArray[Any]]

OUTPUTS = {"features": "FP32", "digest": "UINT8"}
"""Tensors of an answer, with their types."""

INFER_BODY = body_schema("application/json", {"type": "object"})


def router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    offer = service.offer

    @router.get("/v2")
    async def server() -> dict[str, Any]:
        """The server, as the Open Inference Protocol describes it."""
        return {
            "name": "stealing",
            "version": offer.version,
            "extensions": ["binary_tensor_data"],
        }

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
        service.check_model(model)
        return {"name": model, "ready": True}

    @router.get("/v2/models/{model}", responses={404: {}})
    async def metadata(model: str) -> dict[str, Any]:
        """Its tensors."""
        service.check_model(model)
        return _metadata(model, offer.version, offer.size)

    @router.post("/v2/models/{model}/infer", responses=REFUSALS, openapi_extra=INFER_BODY)
    async def infer(model: str, request: Request) -> Response:
        """Features of a tensor `images`, as JSON or with binary tensors."""
        service.check_model(model)
        return await _infer(service, model, request)

    return router


def _metadata(model: str, version: str, size: int) -> dict[str, Any]:
    """Return the description of the model's tensors."""
    # -1: any number
    images = {"name": "images", "datatype": "UINT8", "shape": [-1, 3, size, size]}
    features = {"name": "features", "datatype": "FP32", "shape": [-1, -1]}
    digest = {"name": "digest", "datatype": "UINT8", "shape": [-1, 16]}
    return {
        "name": model,
        "versions": [version],
        "platform": "torch",
        "inputs": [images],
        "outputs": [features, digest],
    }


async def _infer(service: Service, model: str, request: Request) -> Response:
    offer = service.offer
    heads: list[tuple[dict[str, Any], bool]] = []  # set in a thread of the parsers

    def read(body: bytearray) -> Tensor:
        length = request.headers.get(JSON_LENGTH)
        head, images = parsing.tensor(body, length, offer.size, service.limits)
        heads.append((head, _wants_binary(head)))
        return images

    answer = await service.answer(request, read)

    def pack(order: list[int], features_BD: Tensor) -> Response:
        [(asked, is_binary)] = heads
        head = {
            "model_name": model,
            "model_version": offer.version,
            "id": asked.get("id", ""),
        }
        rows = features_BD[order].float().contiguous()
        digests = np.frombuffer(b"".join(answer.digests), np.uint8)
        tensors: Tensors = {
            "features": rows.numpy(),
            "digest": digests.reshape(-1, 16)[order],
        }
        if is_binary:
            return _binary_response(head, tensors)
        return _json_response(head, tensors)

    return await service.respond(request, answer, pack)


def _binary_response(head: dict[str, Any], tensors: Tensors) -> Response:
    content, length = pack_tensors(head, "outputs", tensors)
    headers = {JSON_LENGTH: str(length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _json_response(head: dict[str, Any], tensors: Tensors) -> Response:
    outputs = []
    for name, rows in tensors.items():
        output = {
            "name": name,
            "shape": list(rows.shape),
            "datatype": OUTPUTS[name],
            "data": rows.ravel().tolist(),
        }
        outputs.append(output)
    content = json.dumps(head | {"outputs": outputs}, allow_nan=False)
    return Response(content, media_type="application/json")


def _wants_binary(head: dict[str, Any]) -> bool:
    """Return True if a request asks for the answer's tensors as bytes.

    Raises:
        ApiError: it asks for other outputs than there are.
    """
    outputs = head.get("outputs", [])
    if not isinstance(outputs, list) or not all(map(_is_known, outputs)):
        raise ApiError(
            400, "There are the outputs features and digest: ask for these, or leave outputs out."
        )
    parameters = [head.get("parameters", {})]
    parameters += [output.get("parameters", {}) for output in outputs]
    if not all(isinstance(values, dict) for values in parameters):
        raise ApiError(400, "parameters is not an object: send one, or none.")
    for values in parameters:
        # the first name stands beside one output, the second means all outputs of the request
        if values.get("binary_data") is True or values.get("binary_data_output") is True:
            return True
    return False


def _is_known(output: Any) -> bool:
    # tuple(), because the name may be of a type that a dictionary cannot look up
    return isinstance(output, dict) and output.get("name") in tuple(OUTPUTS)
