"""The wire of the Open Inference Protocol, version 2: KServe, Triton and others.

Source: KServe's specification of the protocol, and Triton's binary tensor data extension of it.
"""

import json
import re
from typing import Any

import numpy as np
from torch import Tensor

from stealing.queries.digests import digests
from stealing.targets.tensors import JSON_LENGTH, TYPES, pack_tensors, unpack_tensors
from stealing.targets.wire import InvalidResponse, Message, Reply, as_features, check_version


class OpenInference:
    """The format with one tensor of images (B, 3, H, W) and one of features (B, D).

    Args:
        model: its name at the server.
        images_name: of the tensor of images.
        features_name: of the tensor of features.
        datatype: `UINT8`, or `FP32` for a model that takes pixels divided by 255.
        binary: send tensors as bytes behind the JSON, which every Triton and few others take; else
            as JSON lists.
        images_a_request: most images in one request.
    """

    codec = ""

    def __init__(
        self,
        model: str,
        images_name: str,
        features_name: str,
        datatype: str,
        binary: bool,
        images_a_request: int,
    ) -> None:
        self.model = model
        self.datatype = datatype
        self.binary = binary
        self.input = images_name
        self.output = features_name
        self.images_a_request = images_a_request
        self.identity: dict[str, Any] = {
            "model": model,
            "input": images_name,
            "output": features_name,
            "datatype": datatype,
        }

    def request(self, images_uint8: Tensor, idempotency: str) -> Message:
        """See `Format`."""
        path = f"/v2/models/{self.model}/infer"
        images = images_uint8.contiguous().numpy()
        if self.datatype != "UINT8":
            images = (images / np.float32(255)).astype(TYPES[self.datatype])
        output: dict[str, Any] = {"name": self.output}
        if self.binary:
            output["parameters"] = {"binary_data": True}
            head = {"id": idempotency, "outputs": [output]}
            content, length = pack_tensors(head, "inputs", {self.input: images})
            headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(length)}
            return Message(path, content, headers)
        tensor = {
            "name": self.input,
            "shape": list(images.shape),
            "datatype": self.datatype,
            "data": images.ravel().tolist(),
        }
        body = {"id": idempotency, "inputs": [tensor], "outputs": [output]}
        headers = {"content-type": "application/json"}
        return Message(path, json.dumps(body, allow_nan=False).encode(), headers)

    def answers(self, images_uint8: Tensor, headers: dict[str, str], content: bytes) -> Reply:
        """See `Format`; a tensor `digest`, which our own service sends, must name the images."""
        length = headers.get(JSON_LENGTH)
        if length is not None and not re.fullmatch(r"\d{1,12}", length, re.ASCII):
            raise InvalidResponse("the length of the JSON part is not a number")
        json_bytes = None if length is None else int(length)
        head, tensors = unpack_tensors(content, json_bytes, "outputs")
        features = tensors.get(self.output)
        count = len(images_uint8)
        if features is None or features.dtype.kind != "f" or features.shape[:1] != (count,):
            raise InvalidResponse(f"no tensor {self.output} with a row of numbers for each image")
        digest = tensors.get("digest")
        if digest is not None and digest.tobytes() != b"".join(digests(images_uint8)):
            raise InvalidResponse("the answer is to other images, or in another order")
        if features.size == 0:
            raise InvalidResponse(f"the tensor {self.output} is empty")
        features_BD = as_features(features.reshape(count, -1))
        return Reply(features_BD, check_version(head.get("model_version")))
