"""Servers of the Open Inference Protocol, version 2: KServe, Triton and others.

Source: KServe's specification of the protocol, and Triton's binary tensor data extension of it.
"""

import json
from typing import Any

import numpy as np
from torch import Tensor

from stealing.queries.digests import digests
from stealing.targets.wire import TYPES, Garbled, Message, Reply, checked, pack_tensors, unpack_tensors


class OpenInference:
    """Sends one tensor of images (B, 3, H, W), reads one of features (B, D).

    Args:
        model: its name at the server.
        images_name: of the images' tensor.
        features_name: of the features' tensor.
        datatype: `UINT8`, or `FP32` for a model that takes pixels divided by 255.
        binary: tensors as bytes after the JSON, which every Triton and few others take; else as JSON lists.
        images_a_request: most images a request.
    """

    codec = ""

    def __init__(
        self, model: str, images_name: str, features_name: str, datatype: str, binary: bool, images_a_request: int
    ) -> None:
        self.model, self.datatype, self.binary = model, datatype, binary
        self.input, self.output = images_name, features_name
        self.images_a_request = images_a_request
        self.identity: dict[str, Any] = {
            "model": model,
            "input": images_name,
            "output": features_name,
            "datatype": datatype,
        }

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        images, path = images_uint8.contiguous().numpy(), f"/v2/models/{self.model}/infer"
        if self.datatype != "UINT8":
            images = (images / np.float32(255)).astype(TYPES[self.datatype])
        wanted: list[dict[str, Any]] = [{"name": self.output}]
        if self.binary:
            wanted[0]["parameters"] = {"binary_data": True}
            content, length = pack_tensors({"id": idempotency, "outputs": wanted}, "inputs", {self.input: images})
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
            return Message(path, content, headers)
        tensor = {"name": self.input, "shape": list(images.shape), "datatype": self.datatype}
        body = {"id": idempotency, "inputs": [tensor | {"data": images.ravel().tolist()}], "outputs": wanted}
        return Message(path, json.dumps(body).encode(), {"content-type": "application/json"})

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`; a tensor `digest` beside the features, as our own service gives, is held against the images."""
        length = headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Garbled("the length of the JSON part is no number")
        head, tensors = unpack_tensors(content, None if length is None else int(length), "outputs")
        features, named = tensors.get(self.output), tensors.get("digest")
        if features is None or features.dtype.kind != "f" or len(features) != len(images_uint8):
            raise Garbled(f"no tensor {self.output} with a row of numbers for each image")
        if named is not None and named.tobytes() != b"".join(digests(images_uint8)):
            raise Garbled("the answer is to other images, or in another order")
        version = head.get("model_version")
        if version is not None and not isinstance(version, str):
            raise Garbled("the model's version is no string")
        return Reply(checked(features.reshape(len(features), -1)), version)
