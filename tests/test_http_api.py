"""docs/http-api.md: it has every route of the service and no other, and each status occurs."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import ROOT
from serving import SIZE, Served, noise, served
from starlette.routing import Route
from starlette.testclient import TestClient
from torch import Tensor

from stealing.defenses.chain import Chain
from stealing.service import parsing
from stealing.service.accounts import Books
from stealing.service.app import application
from stealing.service.batching import Batcher
from stealing.service.faults import Faults
from stealing.service.limits import Limits
from stealing.service.serving import Offer, Service

PAGE = (ROOT / "docs" / "http-api.md").read_text()


def means(images: Tensor) -> Tensor:
    """A cheap encoder."""
    return images.float().mean((2, 3))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Service]:
    """A service in this process, which fails on purpose each time."""
    limits = Limits(250, 2**20, 2**22, 2**15, 500, 250, 30.0, 1)
    books = Books(str(tmp_path / "books.sqlite"))
    batcher = Batcher(means, Chain({}), "v", books, most=64, window=0.0, queue=100, threads=1)
    service = Service(Offer("encoder", "v", SIZE), limits, batcher, books, Faults(1.0, ["500"]))
    yield service
    service.close()


def test_the_page_has_every_route_and_no_other(local: Service) -> None:
    app = application(local, 60.0)
    routes = {f"GET {route.path}" for route in app.routes if isinstance(route, Route)}
    for path, methods in app.openapi()["paths"].items():
        routes |= {f"{method.upper()} {path}" for method in methods}
    table, _, _ = PAGE.partition("\n## ")
    assert set(re.findall(r"`((?:GET|POST) /[^\s`]*)`", table)) == routes
    titles = set(re.findall(r"^## `(.*)`$", PAGE, re.MULTILINE))
    assert titles <= routes and {route for route in routes if route.startswith("POST")} <= titles


def test_the_page_has_every_field_of_a_request_for_embeddings() -> None:
    section, _, _ = PAGE.partition("## `POST /v1/embeddings`")[2].partition("\n## ")
    fields = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert fields == list(parsing.Embeddings.model_fields)


def test_the_page_has_every_metric(local: Service) -> None:
    metrics = {metric.name for metric in local.registry.collect()}
    documented = re.findall(
        r"^\| `(stealing_\w+?)(?:_total)?(?:\{[^`]*\})?` \|", PAGE, re.MULTILINE
    )
    assert set(documented) == metrics


# Each status by a real request.


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    small = ("limits.bytes=200000", "limits.bytes_in_all=150000", "limits.patience=1")
    with served(tmp_path_factory.mktemp("service"), *small) as running:
        yield running


def raw(service: Served, key: str = "", **headers: str) -> int:
    images = noise(1)
    known = {
        "authorization": f"Bearer {key or service.key}",
        "x-image-shape": f"1,3,{SIZE},{SIZE}",
    }
    content = images.numpy().tobytes()
    return httpx2.post(
        f"{service.url}/v1/raw", content=content, headers=known | headers
    ).status_code


def sent(service: Served, length: int) -> int:
    headers = {"authorization": f"Bearer {service.key}", "x-image-shape": "1,3,8,8"}
    return httpx2.post(f"{service.url}/v1/raw", content=bytes(length), headers=headers).status_code


def of_slow_body(service: Served) -> int:
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /v1/raw HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\n"
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(f"{head}content-length: 192\r\n\r\nx".encode())
        slow.settimeout(20)
        return int(slow.recv(1000).split()[1])


def of_poor_account(service: Served) -> int:
    key = service.books.add("poor", 1, None, 0.0)
    raw(service, key)
    return raw(service, key)


def of_slow_account(service: Served) -> int:
    key = service.books.add("slow", None, 0.01, 0.0)
    statuses = [raw(service, key) for _ in range(3)]
    return statuses[-1]


def of_unknown_model(service: Served) -> int:
    body = json.dumps({"model": "gpt", "input": "data:image/png;base64,AA"}).encode()
    headers = {"authorization": f"Bearer {service.key}"}
    return httpx2.post(f"{service.url}/v1/embeddings", content=body, headers=headers).status_code


REQUESTS: dict[int, Callable[[Served], int]] = {
    200: raw,
    400: lambda service: raw(service, **{"idempotency-key": "x" * 201}),
    401: lambda service: raw(service, "x.y"),
    403: of_poor_account,
    404: of_unknown_model,
    405: lambda service: httpx2.get(f"{service.url}/v1/raw").status_code,
    408: of_slow_body,
    413: lambda service: sent(service, 200_001),
    422: lambda service: raw(service, **{"x-image-shape": "1,3,9,9"}),
    429: of_slow_account,
    431: lambda service: raw(service, **{"x-long": "x" * 2**15}),
    503: lambda service: sent(service, 150_001),
}
"""A request that gets each status; 500 has a test of its own."""


def test_the_page_has_the_statuses_that_are_tested_here() -> None:
    statuses = re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)
    assert set(map(int, statuses)) == {*REQUESTS, 500}


@pytest.mark.parametrize("status", REQUESTS)
def test_each_status_of_the_page_occurs(status: int, service: Served) -> None:
    assert REQUESTS[status](service) == status


def test_a_failure_has_the_status_of_the_page(local: Service) -> None:
    key = local.books.add("a", None, None, 0.0)
    headers = {"authorization": f"Bearer {key}", "x-image-shape": "1,3,8,8"}
    with TestClient(application(local, 60.0), raise_server_exceptions=False) as client:
        answers = [client.post("/v1/raw", content=bytes(192), headers=headers) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {500}
    error: dict[str, Any] = answers[0].json()["error"]
    assert error.keys() == {"message", "type", "code"} and error["code"] == 500
