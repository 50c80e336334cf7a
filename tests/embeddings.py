"""An embeddings service on a free port that refuses, fails or misanswers as a test tells it."""

import base64
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from stealing.targets.http_json import HttpJson

WIDTH = 16
Refusal = tuple[int, dict[str, str]]
"""Status and headers of an answer without vectors."""


class Embeddings:
    """What the service does, and what it saw.

    Args:
        refuse: number of the request, from 0, in; its refusal out, or None to answer it.
        vectors: turns the true vectors (B, WIDTH) of a request's images into those that are sent.
        listed: send lists of numbers, whatever was asked for.
    """

    def __init__(
        self,
        refuse: Callable[[int], Refusal | None] = lambda number: None,
        vectors: Callable[[Any], Any] = lambda rows: rows,
        listed: bool = False,
    ) -> None:
        self.refuse, self.vectors, self.listed = refuse, vectors, listed
        self.url = ""
        self.keys: list[str] = []
        self.moments: list[float] = []
        self.served = 0
        self.lock = threading.Lock()

    def answer(self, key: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a request."""
        with self.lock:
            number = len(self.keys)
            self.keys.append(key)
            self.moments.append(time.monotonic())
            if refusal := self.refuse(number):
                return *refusal, b'{"error": "slow down"}'
            self.served += len(body["input"])
        rows = self.vectors(np.stack([vector(picture) for picture in body["input"]]))
        packed = body.get("encoding_format") == "base64" and not self.listed
        told = [
            base64.b64encode(row.tobytes()).decode() if packed else row.tolist() for row in rows
        ]
        data = [{"index": place, "embedding": one} for place, one in enumerate(told)]
        return 200, {}, json.dumps({"data": data, "model": "m"}).encode()


class OneImage(Embeddings):
    """A service that takes `{"image": "<base64>"}` and gives `{"embedding": [...]}`.

    Attributes:
        busiest: most requests that it served at the same time.
    """

    def __init__(self, refuse: Callable[[int], Refusal | None] = lambda number: None) -> None:
        super().__init__(refuse)
        self.busiest = 0
        self._active = 0

    def answer(self, key: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a request."""
        assert list(body) == ["image"]
        with self.lock:
            number = len(self.keys)
            self.keys.append(key)
            self._active += 1
            self.busiest = max(self.busiest, self._active)
        time.sleep(0.02)  # so that requests overlap
        with self.lock:
            self._active -= 1
            if refusal := self.refuse(number):
                return *refusal, b'{"error": "slow down"}'
            self.served += 1
        return 200, {}, json.dumps({"embedding": vector(body["image"]).tolist()}).encode()


def vector(picture: str) -> Any:
    """The true vector of a picture as it was sent."""
    seed = int.from_bytes(hashlib.sha256(picture.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=WIDTH).astype("<f4")


@contextmanager
def offered(service: Embeddings) -> Iterator[Embeddings]:
    """The service, listening until the body ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            status, headers, body = service.answer(
                self.headers["idempotency-key"], json.loads(content)
            )
            self.send_response_only(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


def wire(images_a_request: int = 8, encoding: str = "base64") -> HttpJson:
    """How it is spoken to."""
    body = {"model": "m", "input": "<images>", "encoding_format": encoding}
    places = ("data.*.embedding", "data.*.index", "model")
    return HttpJson("/embeddings", body, "<data_uri>", "png", *places, encoding, images_a_request)
