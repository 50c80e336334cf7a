"""Damaged answers to our client: one finite vector for each image, or an error of one sentence."""

import base64
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from deeds import tried
from fakes import door
from fuzzing import FUZZ, LENGTH, Wired, costly, damaged, documents, json_of, with_json
from hypothesis import given
from hypothesis import strategies as st
from serving import noise, remote, wires
from torch import Tensor

from stealing.errors import StealingError
from stealing.queries.digests import digests
from stealing.queries.waiting import NotServed
from stealing.targets.tensors import pack_tensors
from stealing.targets.wire import InvalidResponse, Reply, content_digest, pack_answers

IMAGES = noise(2)
FEATURES = torch.arange(8.0).view(2, 4)
HEADERS = ["", "0", "-1", "1", "4", "1" * 30, "x", "text/html", "application/json", "\u00b2"]


def right_answer(name: str) -> Wired:
    """What our service would say to `IMAGES` in this format."""
    if name == "raw":
        return {"content-type": "application/octet-stream"}, pack_answers(digests(IMAGES), FEATURES)
    if name.startswith("openai"):
        vectors = FEATURES.tolist()
        if name.endswith("base64"):
            vectors = [base64.b64encode(row.tobytes()).decode() for row in FEATURES.numpy()]
        data = [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(vectors)
        ]
        return {"content-type": "application/json"}, json.dumps(
            {"data": data, "model_version": "v"}
        ).encode()
    head = {"model_name": "encoder", "model_version": "v", "id": ""}
    if name.endswith("binary"):
        body, length = pack_tensors(head, "outputs", {"features": FEATURES.numpy()})
        return {LENGTH: str(length)}, body
    tensor = {
        "name": "features",
        "shape": [2, 4],
        "datatype": "FP32",
        "data": FEATURES.flatten().tolist(),
    }
    return {"content-type": "application/json"}, json.dumps(head | {"outputs": [tensor]}).encode()


BODIES: list[dict[str, Any]] = [
    {"data": [[]] * 2**21},
    {"data": [{"index": place, "embedding": [0] * 2**22} for place in range(2)]},
    {"data": [{"index": place, "embedding": ["x" * 100_000, *[""] * 2000]} for place in range(2)]},
    {"model_version": "\ud800"},
]
"""Parts of an answer of an embeddings service that cost more than they look like."""


@st.composite
def answers(draw: st.DrawFn, name: str) -> Wired:
    """A right answer in this format, with a damaged body or header."""
    right = right_answer(name)
    headers, body = right
    way = draw(st.sampled_from(["document", "document", "bytes", "header"]))
    if way == "header":
        return headers | {
            draw(st.sampled_from(list(headers))): draw(st.sampled_from(HEADERS))
        }, body
    if way == "document" and name != "raw":
        return with_json(right, draw(documents(json_of(right))))
    return headers, draw(damaged(body))


def check(features: Tensor) -> None:
    """One vector of finite numbers for each image."""
    assert features.shape[0] == len(IMAGES)
    assert features.ndim == 2
    assert features.shape[1] > 0
    assert features.is_floating_point()
    assert features.isfinite().all()


@pytest.mark.parametrize("name", list(wires()))
def test_a_damaged_answer_is_a_vector_for_each_image_or_garbled(name: str) -> None:
    wire = wires()[name]

    def read(answer: Wired) -> Reply:
        try:
            return wire.answers(IMAGES, *answer)
        except InvalidResponse as garbled:
            raise StealingError(str(garbled)) from None

    def judge(answer: Wired) -> Tensor | None:
        reply = tried(partial(read, answer))
        if reply is None:
            return None
        check(reply.features)
        assert reply.version is None or reply.version.encode(), "a ledger keeps it"
        return reply.features

    @FUZZ
    @given(answers(name))
    def heard(answer: Wired) -> None:
        judge(answer)

    right = right_answer(name)
    features = judge(right)
    assert features is not None
    assert torch.equal(features, FEATURES)
    for answer in costly(right, BODIES) if name != "raw" else []:
        judge(answer)
    heard()


class Speaker:
    """A server that says the same bytes to every request.

    Attributes:
        says: them.
        url: its address.
    """

    def __init__(self) -> None:
        self.says = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                heard = b""
                while (
                    b"\r\n\r\n" not in heard
                    or len(heard.partition(b"\r\n\r\n")[2]) < IMAGES.numel()
                ):
                    heard += connection.recv(65536) or b"\r\n\r\n" + bytes(IMAGES.numel())
                connection.sendall(self.says)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    speaker = Speaker()
    yield speaker
    speaker.close()


def client(url: str) -> Any:
    """Our client of a server there, which asks once and waits for three seconds."""
    return remote(url, wires()["raw"], credential=None, attempts=1, deadline=3.0)


def asked(url: str) -> Tensor:
    """What our client makes of the answer of the server there."""
    try:
        return client(url).answer(IMAGES, "attacker/0", "key")
    except NotServed as error:
        raise error.__cause__ or AssertionError from None


def said(*headers: str) -> tuple[bytes, bytes]:
    """The head and the body of a right answer."""
    own, body = right_answer("raw")
    lines = [
        "HTTP/1.1 200 OK",
        *(f"{name}: {value}" for name, value in own.items()),
        "connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n", body


def test_a_client_of_a_broken_server_gets_vectors_or_one_sentence(speaker: Speaker) -> None:
    head, body = said(f"content-length: {len(right_answer('raw')[1])}")

    @FUZZ
    @given(damaged(head + body))
    def heard(content: bytes) -> None:
        speaker.says = content
        features = tried(partial(asked, speaker.url))
        if features is not None:
            check(features)

    heard()


def test_an_answer_under_a_digest_is_stored_as_it_was_sent_or_refused(
    speaker: Speaker, tmp_path: Path
) -> None:
    head, body = said(f"content-digest: {content_digest(right_answer('raw')[1])}")
    places = count()

    def bought() -> tuple[Tensor | None, int]:
        """What the door gives for the images, and how many answers its ledger holds then."""
        folder = tmp_path / str(next(places))
        folder.mkdir()
        meter = door(folder, client(speaker.url))
        features = tried(lambda: meter.ask(IMAGES, "attacker/0", "attack"), folder)
        [(stored,)] = (
            sqlite3.connect(folder / "ledger.sqlite")
            .execute("SELECT count(answer) FROM queries")
            .fetchall()
        )
        return features, stored

    @FUZZ
    @given(damaged(body))
    def heard(content: bytes) -> None:
        speaker.says = head + content
        features, stored = bought()
        assert stored == (0 if features is None else len(IMAGES))
        assert features is None or torch.equal(features, FEATURES)

    speaker.says = head + body
    features, _ = bought()
    assert features is not None
    heard()
