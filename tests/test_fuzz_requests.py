"""Damaged requests to a real service are answered and billed, or refused; the service lives on."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from deeds import MEMORY
from fuzzing import FUZZ, TOKENS, Wired, costly, damaged, documents, json_of, with_json
from hypothesis import given
from hypothesis import strategies as st
from measuring import within_mebibytes
from serving import Served, noise, served, wires

IMAGES = noise(2)

WIDTH = 16
"""Of the vectors of `serving.Trivial`."""

LARGEST = 2**24
"""Bytes of a body that the service takes."""

BODIES: list[dict[str, Any]] = [
    {"model": "\ud800"},
    {"user": "\ud800"},
    {"input": [""] * 2**21},
    {"input": [[]] * 2**21},
    {"input": ["data:image/png;base64,"] * 1000},
]
"""Parts of a request to `/v1/embeddings` that cost more than they look like."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("fuzzed"), f"limits.bytes={LARGEST}", "window=0"
    ) as running:
        yield running


HEADERS = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "0", "-1", "1", "2,3,8,8", "1,3,8,8", "2," * 65 + "2", "9" * 30, "x" * 5000]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip),
)


def right_request(name: str) -> tuple[str, Wired]:
    """Path, headers and body of a request about `IMAGES` in this format."""
    message = wires()[name].request(IMAGES, "")
    return message.path, (dict(message.headers), message.content)


@st.composite
def requests(draw: st.DrawFn, name: str) -> Wired:
    """A right request in this format, with a damaged body or header."""
    _, right = right_request(name)
    headers, body = right
    way = draw(st.sampled_from(["document", "document", "bytes", "header", "whole", "large"]))
    if way == "document" and name != "raw":
        return with_json(right, draw(documents(json_of(right))))
    if way == "header":
        changed = draw(
            st.sampled_from([*headers, "idempotency-key", "x-image-shape", "content-encoding"])
        )
        value = draw(HEADERS)
        left = {each: text for each, text in headers.items() if each != changed}
        return left | ({} if value is None else {changed: value}), body
    if way == "large":
        return headers, draw(st.sampled_from(TOKENS)) * (LARGEST // 10_000) + body
    if way == "whole":
        return right
    return headers, draw(damaged(body))


@pytest.mark.parametrize("name", list(wires()))
def test_a_damaged_request_is_answered_or_refused_and_billed_only_if_answered(
    service: Served, name: str
) -> None:
    path, right = right_request(name)
    key = {"authorization": f"Bearer {service.key}"}
    known = set[str]()  # what was answered under an idempotency key is not billed again

    def check(request: Wired) -> bool:
        """Send it, and hold the bill against the answer; whether there was one."""
        headers, body = request
        idempotency = headers.get("idempotency-key")
        billed = service.billed()
        answer = client.post(path, content=body, headers=headers | key)
        assert answer.status_code < 500, answer.text
        assert client.get("/healthz").json() == {"status": "ok"}
        if answer.status_code != 200:
            assert answer.json()["error"]
            assert service.billed() == billed
            return False
        assert service.billed() - billed == (0 if idempotency in known else images_of(answer, name))
        if idempotency is not None:
            known.add(idempotency)
        return True

    @FUZZ
    @given(requests(name))
    def ask(request: Wired) -> None:
        check(request)

    with httpx2.Client(base_url=service.url, timeout=60) as client:
        assert check(right)
        with within_mebibytes(MEMORY, service.process.pid):
            for request in costly(right, BODIES) if name != "raw" else []:
                check(request)
            ask()


def images_of(answer: httpx2.Response, name: str) -> int:
    """How many images an answer is about."""
    if name == "raw":
        return len(answer.content) // (16 + WIDTH * 4)  # a digest and its vector
    if name.startswith("openai"):
        return len(answer.json()["data"])
    return int(json_of((dict(answer.headers), answer.content))["outputs"][0]["shape"][0])


def test_a_damaged_head_of_a_request_is_no_error_of_the_service(service: Served) -> None:
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    message = wires()["raw"].request(IMAGES, "")
    lines = [
        f"POST {message.path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {service.key}",
        "connection: close",
    ]
    lines += [f"{name}: {value}" for name, value in message.headers.items()]
    lines += [f"content-length: {len(message.content)}"]
    right = "\r\n".join(lines).encode() + b"\r\n\r\n" + message.content

    def status(content: bytes) -> bytes:
        """The status of the first answer; empty if the service waits or hangs up."""
        with socket.create_connection(address, 10) as connection:
            connection.settimeout(0.2)
            try:
                connection.sendall(content)
                return connection.recv(12)[9:12]
            except OSError:
                return b""

    @FUZZ
    @given(damaged(right[:200]))
    def ask(head: bytes) -> None:
        assert not status(head + right[200:]).startswith(b"5")
        assert httpx2.get(service.url + "/healthz").json() == {"status": "ok"}

    assert status(right) == b"200"
    with within_mebibytes(MEMORY, service.process.pid):
        ask()


def test_whatever_the_openapi_page_describes_is_borne(service: Served) -> None:
    schema = schemathesis.openapi.from_url(service.url + "/openapi.json")
    for operation in schema.get_all_operations():

        @FUZZ
        @given(operation.ok().as_strategy())
        def call(case: Any) -> None:
            answer = case.call(
                base_url=service.url, headers={"authorization": f"Bearer {service.key}"}, timeout=10
            )
            assert answer.status_code < 500, answer.text

        call()
