"""The service as its clients see it: right vectors and bills, and one sentence for a mistake."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from conftest import choose
from PIL import Image
from serving import SIZE, Served, load_trivial, noise, remote, save_trivial, served, wires
from torch import Tensor

from stealing.config import instantiate_node, to_dict
from stealing.defenses.chain import Chain, QueryBatch, StatefulDefense
from stealing.errors import Refused
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.service.accounts import Books
from stealing.service.batching import Batcher, PendingRequest
from stealing.service.errors import ApiError
from stealing.targets.local import LocalTarget, fingerprint
from stealing.targets.remote import Credential
from stealing.targets.wire import encode_image, unpack_answers

IMAGES = noise(10)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("service"), "limits.bytes=200000", "limits.patience=1"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    path = save_trivial(tmp_path_factory.mktemp("encoder"))
    return LocalTarget(load_trivial(path), Chain({}), "none", SIZE).answer(IMAGES, "x")


def raw(service: Served, images: Tensor = IMAGES, **headers: str) -> httpx2.Response:
    shape = ",".join(map(str, images.shape))
    sent = {"authorization": f"Bearer {service.key}", "x-image-shape": shape} | headers
    return httpx2.post(service.url + "/v1/raw", content=images.numpy().tobytes(), headers=sent)


def embed(service: Served, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {service.key}", "content-type": "application/json"} | headers
    return httpx2.post(service.url + "/v1/embeddings", content=content, headers=sent)


def uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RIGHT = uri(encode_image(IMAGES[0], "png"))
PNG = encode_image(IMAGES[0], "png")


def test_the_official_openai_client_gets_right_vectors(service: Served, answers: Tensor) -> None:
    import openai

    client = openai.OpenAI(base_url=service.url + "/v1", api_key=service.key)
    uris = [uri(encode_image(image, "png")) for image in IMAGES]
    for options in (
        {},
        {"encoding_format": "float"},
    ):  # by itself it asks for base64, and decodes it
        asked: dict[str, Any] = {"model": "encoder", "input": uris, **options}
        got = client.embeddings.create(**asked)
        assert torch.equal(torch.tensor([row.embedding for row in got.data]), answers)
    assert [model.id for model in client.models.list()] == ["encoder"]


def test_the_official_triton_client_gets_right_vectors(service: Served, answers: Tensor) -> None:
    from tritonclient import http

    client = http.InferenceServerClient(service.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("encoder")
    assert client.get_model_metadata("encoder")["inputs"][0]["shape"] == [-1, 3, SIZE, SIZE]
    images = http.InferInput("images", list(IMAGES.shape), "UINT8")
    images.set_data_from_numpy(IMAGES.numpy(), binary_data=True)
    for binary in (True, False):
        wanted = [http.InferRequestedOutput("features", binary_data=binary)]
        headers = {"Authorization": f"Bearer {service.key}"}
        got = client.infer("encoder", [images], outputs=wanted, headers=headers, request_id="7")
        assert (
            np.array_equal(got.as_numpy("features"), answers.numpy())
            and got.get_response()["id"] == "7"
        )
    client.close()


def test_an_idempotency_key_is_billed_once_and_refuses_another_body(service: Served) -> None:
    before = service.billed()
    first, again = (raw(service, **{"idempotency-key": "one"}) for _ in range(2))
    assert first.content == again.content and service.billed() == before + 10
    other = raw(service, IMAGES[:5], **{"idempotency-key": "one"})
    assert other.status_code == 422 and "another request" in other.json()["error"]["message"]
    assert raw(service).content == first.content and service.billed() == before + 20


def test_twenty_copies_of_a_request_at_once_are_billed_once(service: Served) -> None:
    before, bodies = service.billed(), list[bytes]()
    threads = [
        threading.Thread(
            target=lambda: bodies.append(raw(service, **{"idempotency-key": "many"}).content)
        )
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(bodies)) == 1 and len(bodies) == 20 and service.billed() == before + 10


def wrong_bodies() -> dict[str, tuple[Any, int, str]]:
    right = {"model": "encoder", "input": RIGHT}
    big = Image.new("RGB", (3000, 3000))
    return {
        "no JSON": (b"{", 422, "JSON"),
        "deep JSON": (b"[" * 100_000, 422, ""),
        "a field that is unknown": (right | {"dimensions": 3}, 422, "dimensions"),
        "a field that is absent": ({"model": "encoder"}, 422, "input"),
        "another model": (right | {"model": "gpt"}, 404, "ask for encoder"),
        "text": (right | {"input": "a cat"}, 422, "data URI"),
        "no image": (right | {"input": []}, 422, "send 1 to"),
        "too many images": (right | {"input": [RIGHT] * 251}, 422, "send 1 to 250"),
        "no base64": (right | {"input": "data:image/png;base64,%%%%"}, 422, "base64"),
        "half a picture": (right | {"input": uri(PNG[: len(PNG) // 2])}, 422, "whole png"),
        "a JPEG that says PNG": (
            right | {"input": uri(saved(Image.new("RGB", (8, 8)), "JPEG"))},
            422,
            "whole png",
        ),
        "another size": (right | {"input": uri(saved(Image.new("RGB", (9, 8))))}, 422, "9 by 8"),
        "a bomb": (right | {"input": uri(saved(big))}, 422, "3000 by 3000"),
        "a grey picture": (right | {"input": uri(saved(Image.new("L", (8, 8))))}, 422, "mode L"),
        "sixteen bits": (
            right | {"input": uri(saved(Image.new("I;16", (8, 8))))},
            422,
            "mode I;16",
        ),
        "an encoding that is none": (right | {"encoding_format": "hex"}, 422, "encoding_format"),
        "a body that is too large": (right | {"input": "x" * 200_001}, 413, "fewer images"),
    }


@pytest.mark.parametrize("what", list(wrong_bodies()))
def test_what_is_wrong_gets_one_sentence_and_costs_nothing(what: str, service: Served) -> None:
    body, status, words = wrong_bodies()[what]
    before = service.billed()
    said = embed(service, body)
    assert said.status_code == status and words in said.json()["error"]["message"]
    assert service.billed() == before


def test_a_wrong_tensor_gets_one_sentence(service: Served) -> None:
    url, headers = (
        service.url + "/v2/models/encoder/infer",
        {"authorization": f"Bearer {service.key}"},
    )
    tensor = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "UINT8", "data": [0] * 192}
    wrongs: list[dict[str, Any]] = [
        {"data": data} for data in ([0.5] * 192, [256] * 192, [[[0]]], None)
    ]
    wrongs += [{"shape": shape} for shape in ([1, 3, 8], [-1, 3, 8, 8], [2**40] * 9, "x")]
    for wrong in [*wrongs, {"datatype": "FP32"}, {"name": "x"}, {"datatype": []}]:
        said = httpx2.post(
            url, content=json.dumps({"inputs": [tensor | wrong]}).encode(), headers=headers
        )
        assert 400 <= said.status_code < 500 and isinstance(said.json()["error"], str), wrong
    said = httpx2.post(url, content=b'{"inputs": [NaN]}', headers=headers)
    assert said.status_code == 400


def test_nobody_without_a_key_gets_anything_and_no_account_sees_another(service: Served) -> None:
    other = service.books.add("honest/x", 25, None, 0.5)
    for key in (
        " ",
        "x",
        service.key[:-1],
        service.key.split(".")[0] + "." + other.split(".")[1],
        "ä.ö",
    ):
        headers = {b"authorization": f"Bearer {key}x".encode()}
        url = service.url + "/v1/raw"
        said = httpx2.post(url, content=b"", headers=headers)  # type: ignore[arg-type]
        assert said.status_code == 401
    assert raw(service, authorization=f"Bearer {other}").status_code == 200
    assert (
        raw(service, authorization=f"Bearer {other}", **{"idempotency-key": "one"}).status_code
        == 200
    )
    used = httpx2.get(service.url + "/v1/usage", headers={"api-key": other}).json()
    assert used == {"account": "honest/x", "images": 20, "quota": 25, "cost": 10.0}
    said = raw(service, authorization=f"Bearer {other}")
    assert said.status_code == 403 and "the 5 that are left" in said.json()["error"]["message"]
    with open(service.books.database.path, "rb") as file:  # type: ignore[attr-defined]
        assert other.split(".")[1].encode() not in file.read(), "keys are kept as hashes"


def test_an_account_is_kept_to_its_rate(service: Served) -> None:
    key = service.books.add("slow/x", None, 20.0, 0.0)
    said = [raw(service, authorization=f"Bearer {key}") for _ in range(4)]
    assert [each.status_code for each in said][:2] == [200, 200] and said[-1].status_code == 429
    time.sleep(float(said[-1].headers["retry-after"]))
    assert raw(service, authorization=f"Bearer {key}").status_code == 200


def test_a_client_that_sends_its_body_too_slowly_is_told_so(service: Served) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        head = f"POST /v1/raw HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\n"
        head += "content-length: 1920\r\n\r\n"
        slow.sendall(head.encode() + b"x")
        slow.settimeout(10)
        assert b" 408 " in slow.recv(1000)


def test_a_client_that_never_ends_the_head_of_its_request_is_hung_up_on(service: Served) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    for begun in (b"", b"GET /healthz HTTP/1.1\r\n"):
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(begun)
            slow.settimeout(5)
            start = time.monotonic()
            while slow.recv(1000):
                pass
            assert time.monotonic() - start < 3


def test_metrics_count_requests_and_name_no_account(service: Served) -> None:
    raw(service)
    text = httpx2.get(service.url + "/metrics").text
    assert (
        'stealing_requests_total{route="/v1/raw",status="200"}' in text and "attacker" not in text
    )
    assert httpx2.get(service.url + "/openapi.json").status_code == 200
    assert httpx2.get(service.url + "/docs").status_code == 200


class Counting(StatefulDefense):
    """A defense that remembers how often an account asked, and refuses the third time."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        if self.counts[asked.account] == 2:
            raise Refused("Enough.", 60.0)
        self.counts[asked.account] += 1
        return features_BD + self.counts[asked.account]

    def load(self, account: str, memory: bytes | None) -> None:
        self.counts[account] = int(memory or b"0")

    def dump(self, account: str) -> bytes:
        return str(self.counts[account]).encode()


def test_what_a_defense_remembers_is_stored_with_the_answers_or_not_at_all(tmp_path: Path) -> None:
    import asyncio

    books = Books(str(tmp_path / "books.sqlite"))
    books.add("a", None, None, 0.0)
    books.add("poor", 5, None, 0.0)

    def encode(images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3))[:, None]

    async def asked(*jobs: tuple[str, str], version: str = "v") -> list[Any]:
        batcher = Batcher(
            encode,
            Chain({"c": Counting()}),
            version,
            books,
            most=64,
            window=0.01,
            queue=100,
            threads=1,
        )
        running = asyncio.create_task(batcher.run())
        made = [
            PendingRequest(account, key, b"body", IMAGES, digests(IMAGES)) for account, key in jobs
        ]
        got = await asyncio.gather(*(batcher.answer(job) for job in made), return_exceptions=True)
        running.cancel()
        batcher.close()
        return got

    to_dict = encode(IMAGES)
    first, replay, second = asyncio.run(asked(("a", "1"), ("a", "1"), ("a", "2")))
    assert (
        torch.equal(first, to_dict + 1)
        and torch.equal(replay, first)
        and torch.equal(second, to_dict + 2)
    )
    [again] = asyncio.run(asked(("a", "1")))  # another process, as after a crash
    assert torch.equal(again, first), "a replay asks no defense"
    [third, poor] = asyncio.run(asked(("a", "3"), ("poor", "1")))
    assert isinstance(third, ApiError) and third.status == 429 and third.retry_after == 60
    assert isinstance(poor, ApiError) and poor.status == 403
    [(account, memory)] = books.database.read("SELECT account, memory FROM memories")
    assert account == "a" and json.loads(memory) == {"c": base64.b64encode(b"2").decode()}
    assert {account.name: account.billed for account in books.all()} == {"a": 20, "poor": 0}
    [other] = asyncio.run(asked(("a", "4"), version="w"))
    [back] = asyncio.run(asked(("a", "5")))
    assert torch.equal(other, to_dict + 1), (
        "another defense knows nothing of what the first remembers"
    )
    assert isinstance(back, ApiError) and back.status == 429, "and takes none of it away"


COUNT = 2000  # far more than are answered before anyone looks


def test_what_a_service_remembers_of_two_accounts_at_once_survives_its_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = ["defense=b4b", "defense.b4b.beta=0.02", "defense.b4b.planes=8"]
    images = {"attacker/0": noise(COUNT), "honest/0": noise(COUNT, seed=1)}
    told = dict[str, Tensor]()

    def ask(account: str, door: MeteredTarget) -> None:
        told[account] = door.ask(images[account], account, "attack")

    with served(tmp_path, f"port={port}", *chosen) as first:
        monkeypatch.setenv("STEALING_KEY", first.key)
        monkeypatch.setenv("HONEST_KEY", first.books.add("honest/0", None, None, 0.0))
        credential = Credential("Authorization", "Bearer", "STEALING_KEY", "HONEST_KEY")
        settings = {"credential": credential, "in_flight": 1, "attempts": 60, "deadline": 120.0}
        asking = []
        for number, account in enumerate(images):
            target = remote(first.url, wires(8)["raw"], **settings)
            ledger = Ledger(str(tmp_path / f"ledger{number}.sqlite"))
            door = MeteredTarget(target, ledger, tmp_path / f"banks{number}", Budget(COUNT, COUNT))
            asking.append(threading.Thread(target=ask, args=(account, door), daemon=True))
            asking[-1].start()
        while min(first.billed(account) for account in images) < 64:
            assert all(thread.is_alive() for thread in asking)
        first.process.kill()
        first.process.wait()
        assert max(first.billed(account) for account in images) < COUNT
    with served(
        tmp_path, f"port={port}", *chosen, encoder=tmp_path / "encoder.safetensors"
    ) as second:
        for thread in asking:
            thread.join()
        assert [second.billed(account) for account in images] == [COUNT, COUNT], (
            "a replay is not billed"
        )
    config = choose(*chosen).defense
    chain = Chain(instantiate_node(config))
    encoder = load_trivial(tmp_path / "encoder.safetensors")
    for account in images:
        here = LocalTarget(encoder, chain, fingerprint(chain, to_dict(config)), SIZE)
        whole = MeteredTarget(
            here, Ledger(str(tmp_path / "whole.sqlite")), tmp_path / "whole", Budget(COUNT, COUNT)
        )
        assert torch.equal(whole.ask(images[account], account, "attack"), told[account])


def test_keys_are_looked_up_while_a_batch_is_computed(tmp_path: Path) -> None:
    import asyncio

    books = Books(str(tmp_path / "books.sqlite"))
    key = books.add("a", None, None, 0.0)

    def slow(images: Tensor) -> Tensor:
        time.sleep(1)
        return images.float().mean((1, 2, 3))[:, None]

    async def asked() -> float:
        batcher = Batcher(slow, Chain({}), "v", books, most=64, window=0, queue=100, threads=1)
        running = asyncio.create_task(batcher.run())
        answer = asyncio.create_task(
            batcher.answer(PendingRequest("a", None, b"", IMAGES, digests(IMAGES)))
        )
        await asyncio.sleep(0.3)
        start = time.monotonic()
        assert books.account(key)
        seconds = time.monotonic() - start
        await answer
        running.cancel()
        batcher.close()
        return seconds

    assert asyncio.run(asked()) < 0.3


def test_requests_of_many_clients_become_one_batch_and_a_full_queue_says_when_to_come_again(
    tmp_path: Path,
) -> None:
    import asyncio

    books, sizes = Books(str(tmp_path / "books.sqlite")), list[int]()
    books.add("a", None, None, 0.0)

    async def asked() -> list[Any]:
        encode = lambda images: images.float().mean((1, 2, 3))[:, None]  # noqa: E731
        batcher = Batcher(encode, Chain({}), "v", books, most=64, window=0.05, queue=40, threads=1)
        batcher.sizes = sizes.append
        running = asyncio.create_task(batcher.run())
        jobs = [PendingRequest("a", None, b"", IMAGES, digests(IMAGES)) for _ in range(5)]
        got = await asyncio.gather(*(batcher.answer(job) for job in jobs), return_exceptions=True)
        running.cancel()
        batcher.close()
        return got

    *served_, last = asyncio.run(asked())
    assert sizes == [40] and all(len(answer) == 10 for answer in served_)
    assert isinstance(last, ApiError) and last.status == 503 and last.retry_after


def test_sigterm_answers_what_is_in_flight_and_leaves_no_process(tmp_path: Path) -> None:
    with served(tmp_path, "window=0.5") as service:
        got: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: got.append(raw(service)))
        asking.start()
        time.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) in (0, -signal.SIGTERM)
        asking.join()
        assert len(unpack_answers(got[0].content, digests(IMAGES))) == 10
        left = subprocess.run(
            ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True
        ).stdout.split()
        assert [pid for pid in left if int(pid) != os.getpid()] == []


def test_a_service_without_a_saved_encoder_or_with_a_wrong_choice_is_one_sentence(
    tmp_path: Path,
) -> None:
    import sys

    from conftest import ROOT

    advices = {
        "target=pretrained": "target=zoo",
        "prot=3": "prot",
        "target.path=none.safetensors": "does not exist",
    }
    for wrong, advice in advices.items():
        line = [sys.executable, "-m", "stealing.service", f"books={tmp_path / 'b.sqlite'}", wrong]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and advice in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
