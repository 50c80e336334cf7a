"""Ten thousand and more malformed requests: no 5xx, no hang, memory bounded."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving import Served, noise, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("fuzzed"), "limits.bytes=100000", "window=0") as running:
        yield running


def memory(service: Served) -> float:
    """MiB that the service holds now."""
    line = next(row for row in Path(f"/proc/{service.process.pid}/status").read_text().splitlines() if "VmRSS" in row)
    return int(line.split()[1]) / 1024


QUICK = settings(
    max_examples=6000, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def test_the_raw_path_bears_six_thousand_requests_of_any_shape_and_size(service: Served) -> None:
    client = httpx2.Client(base_url=service.url, timeout=10)
    right = noise(3).numpy().tobytes()
    client.post("/v1/raw", content=right)
    before, seen = memory(service), dict[int, int]()
    header = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip)
    shapes = st.one_of(
        header, st.lists(st.integers(-2, 2**40), min_size=3, max_size=5).map(lambda n: ",".join(map(str, n)))
    )
    bodies = st.one_of(st.binary(max_size=600), st.integers(0, 600).map(lambda n: right[:n]), st.just(b"x" * 100_001))

    @QUICK
    @given(shapes, bodies, st.one_of(st.none(), header), st.sampled_from(["x", service.key, service.key + "x"]))
    def asked(shape: str, body: bytes, idempotency: str | None, key: str) -> None:
        headers = {"x-image-shape": shape, "authorization": f"Bearer {key}"}
        headers |= {} if idempotency is None else {"idempotency-key": idempotency}
        said = client.post("/v1/raw", content=body, headers=headers)
        seen[said.status_code] = seen.get(said.status_code, 0) + 1
        assert said.status_code < 500, said.text
        assert said.status_code == 200 or said.json()["error"]["message"]

    asked()
    assert sum(seen.values()) >= 6000 and memory(service) < before + 200, (seen, before, memory(service))


def test_the_json_paths_bear_four_thousand_damaged_bodies(service: Served) -> None:
    client, dice, seen = httpx2.Client(base_url=service.url, timeout=10), random.Random(0), dict[int, int]()
    headers = {"authorization": f"Bearer {service.key}"}
    tensor = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "UINT8", "data": list(range(192))}
    paths: dict[str, Any] = {
        "/v1/embeddings": {
            "model": "encoder",
            "input": ["data:image/png;base64,iVBORw0KGgo="],
            "encoding_format": "float",
        },
        "/v2/models/encoder/infer": {"id": "1", "inputs": [tensor], "outputs": [{"name": "features"}]},
    }
    before = memory(service)
    for _ in range(2000):
        for path, body in paths.items():
            content = bytearray(json.dumps(body).encode())
            for _ in range(dice.randrange(1, 6)):
                place = dice.randrange(len(content))
                content[place : place + dice.randrange(4)] = dice.choice(
                    [b"", b"NaN", b"1e999", b"[" * 50, b"\xff", b"null", b'"', b"{}", b"-1", b"\x00", b"99999999999"]
                )
            extra = {"inference-header-content-length": str(dice.randrange(400))} if dice.random() < 0.3 else {}
            said = client.post(path, content=bytes(content), headers=headers | extra)
            seen[said.status_code] = seen.get(said.status_code, 0) + 1
            assert said.status_code < 500, (path, content, said.text)
    assert memory(service) < before + 200, seen


def test_whatever_the_openapi_page_describes_is_borne(service: Served) -> None:
    schema = schemathesis.openapi.from_url(service.url + "/openapi.json")
    asked = [0]
    for operation in schema.get_all_operations():
        few = settings(QUICK, max_examples=60)

        @few
        @given(operation.ok().as_strategy())
        def call(case: Any) -> None:
            asked[0] += 1
            said = case.call(base_url=service.url, headers={"authorization": f"Bearer {service.key}"}, timeout=10)
            assert said.status_code < 500, said.text

        call()
    assert asked[0] > 300
