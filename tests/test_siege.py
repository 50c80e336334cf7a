"""A service under attack stays up and small: limits come before work; every answer is counted."""

import asyncio
import base64
import json
import math
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from measuring import within_mebibytes
from serving import SIZE, Served, load_trivial, noise, save_trivial, served

from stealing.errors import ConfigError
from stealing.service.accounts import Books
from stealing.service.errors import ApiError
from stealing.service.limits import Limits, Room
from stealing.targets.wire import encode_image

INFER = "/v2/models/encoder/infer"
SOON = 10.0
"""Seconds within which a refusal comes, also on a machine that does much else."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("besieged"), "window=0", "limits.patience=20") as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose limits are soon reached."""
    limits = {
        "patience": 1,
        "connections": 12,
        "connections_per_address": 8,
        "bytes": 300000,
        "bytes_in_all": 400000,
    }
    changes = [f"limits.{name}={value}" for name, value in limits.items()]
    folder = tmp_path_factory.mktemp("small")
    with served(folder, "window=0", *changes, encoder=save_trivial(folder, width=512)) as running:
        yield running


def connect(service: Served, source: str = "127.0.0.1", holds: int = 2**16) -> socket.socket:
    """A connection from this address, whose end of it holds so many bytes that are not read."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
    connection.settimeout(SOON)
    connection.bind((source, 0))
    connection.connect((host, int(port)))
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other end hangs up."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def asked(service: Served, path: str, content: bytes, **headers: str) -> httpx2.Response:
    sent = {"authorization": f"Bearer {service.key}", "content-type": "application/json"} | headers
    return httpx2.post(service.url + path, content=content, headers=sent, timeout=60)


def counted(service: Served, route: str, status: int) -> float:
    text = httpx2.get(service.url + "/metrics").text
    line = re.search(rf'stealing_requests_total{{route="{route}",status="{status}"}} (\S+)', text)
    return float(line[1]) if line else 0.0


@contextmanager
def nobody_waits(service: Served) -> Iterator[None]:
    """Another client is answered all the while."""
    waits: list[float] = []
    over = threading.Event()

    def look() -> None:
        with httpx2.Client(base_url=service.url, timeout=60) as client:
            while not over.is_set():
                start = time.monotonic()
                answered = client.get("/healthz").status_code == 200
                waits.append(time.monotonic() - start if answered else math.inf)
                time.sleep(0.01)
        waits.append(0.0)  # the last one: it came here without an error

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
    assert waits and waits[-1] == 0.0 and max(waits) < 4.0, waits[-5:]


def test_heads_of_hundreds_of_mebibytes_are_refused_before_they_are_held(service: Served) -> None:
    def attack() -> None:
        with connect(service) as attacker:
            attacker.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                attacker.sendall(b"a" * 60 * 2**20)

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    with within_mebibytes(50, service.process.pid), nobody_waits(service):
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 33_000,
        b"GET /" + b"a" * 33_000,
        b"GET /healthz HTTP/1.1\r\n" + b"a:\r\n" * 1_100,
        b"POST /v1/raw HTTP/1.1\r\n" + b"a: b\r\n" * 2_000 + b"\r\n",
    ],
    ids=["one field", "the address", "many fields", "a whole head"],
)
def test_a_head_beyond_its_limit_gets_431_and_is_counted(head: bytes, service: Served) -> None:
    before = counted(service, "none", 431)
    with connect(service) as attacker:
        attacker.sendall(head[:30])
        time.sleep(0.1)
        attacker.sendall(head[30:])
        said = all_of(attacker)
    assert (
        said.startswith(b"HTTP/1.1 431 ")
        and json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]
    )
    assert counted(service, "none", 431) == before + 1


def test_what_is_no_http_gets_400_and_is_counted(service: Served) -> None:
    before = counted(service, "none", 400)
    with connect(service) as attacker:
        attacker.sendall(b"\x00\x01 what is this\r\n\r\n")
        assert all_of(attacker).startswith(b"HTTP/1.1 400 ")
    assert counted(service, "none", 400) == before + 1


def test_fields_after_a_body_have_the_heads_limit(service: Served) -> None:
    head = f"POST /v1/raw HTTP/1.1\r\nauthorization: Bearer {service.key}\r\n"
    head += "transfer-encoding: chunked\r\n\r\n"
    with within_mebibytes(30, service.process.pid), connect(service) as attacker:
        attacker.sendall(head.encode() + b"1\r\nx\r\n0\r\nx: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            attacker.sendall(b"a" * 60 * 2**20)


def test_a_full_service_answers_health_checks_and_refuses_the_rest(small: Served) -> None:
    models = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    before = counted(small, "none", 503)
    time.sleep(0.2)
    with ExitStack() as held:
        for source, count in (("127.0.0.1", 8), ("127.0.0.2", 4)):
            for _ in range(count):
                held.enter_context(connect(small, source)).sendall(b"GET ")
        for source in ("127.0.0.1", "127.0.0.3"):
            with connect(small, source) as late:
                late.sendall(models)
                said = all_of(late).lower()
                assert (
                    said.startswith(b"http/1.1 503 ")
                    and b"retry-after: 1" in said
                    and b"connection: close" in said
                )
            for path in (b"/healthz", b"/metrics", b"/v2/health/ready"):
                with connect(small, source) as check:
                    check.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert all_of(check).startswith(b"HTTP/1.1 200 ")
        silent = [held.enter_context(connect(small)) for _ in range(40)]
        with connect(small) as check:
            check.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert all_of(check).startswith(b"HTTP/1.1 200 "), "those who say nothing make room"
        assert all_of(silent[0]) == b""
    deadline = time.monotonic() + SOON
    while httpx2.get(small.url + "/v1/models").status_code != 200:
        assert time.monotonic() < deadline
    assert counted(small, "none", 503) >= before + 2


def test_one_address_leaves_room_for_another(small: Served) -> None:
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(connect(small)).sendall(b"GET ")
        for source, status in (("127.0.0.1", b"503"), ("127.0.0.2", b"200")):
            with connect(small, source) as other:
                other.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert all_of(other).startswith(b"HTTP/1.1 " + status)


def test_bodies_that_are_too_many_bytes_together_are_asked_to_come_again(small: Served) -> None:
    # two accounts: bodies arrive in parts, and one account would reach its own share first
    other = small.books.add("crowd/0", None, None, 0.01)
    heads = []
    for key in (small.key, other):
        head = f"POST /v1/raw HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        heads.append(f"{head}content-length: 290000\r\n\r\n".encode())
    with connect(small) as first, connect(small) as second:
        first.sendall(heads[0] + b"x" * 280_000)
        time.sleep(0.3)
        second.sendall(heads[1] + b"x" * 280_000)
        said = second.recv(65536).lower()
        assert said.startswith(b"http/1.1 503 ") and b"retry-after: 1" in said
        first.sendall(b"x" * 10_000)
        assert first.recv(65536).startswith(b"HTTP/1.1 422 ")
    images = noise(250)
    shape = {"x-image-shape": f"250,3,{SIZE},{SIZE}"}
    for _ in range(20):  # what was taken is given back
        assert asked(small, "/v1/raw", images.numpy().tobytes(), **shape).status_code == 200


def test_an_account_with_bodies_that_it_never_ends_leaves_room_for_the_others(
    tmp_path: Path,
) -> None:
    limits = ("limits.bytes=100000", "limits.bytes_in_all=400000", "limits.patience=20")
    with served(tmp_path, "window=0", *limits) as service, ExitStack() as held:
        other = service.books.add("honest/1", None, None, 0.0)
        head = f"POST /v1/raw HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\n"
        head += "content-length: 60000\r\n\r\n"
        refused = 0
        for _ in range(8):  # 472,000 bytes: more than there is room for in all
            attacker = held.enter_context(connect(service))
            attacker.sendall(head.encode() + b"x" * 59_000)
            attacker.settimeout(1)
            with suppress(TimeoutError):
                said = attacker.recv(65536).lower()
                assert said.startswith(b"http/1.1 429 ") and b"retry-after: 1" in said
                refused += 1
        assert refused == 7, "a quarter of all is its share, which one of them has"
        body = noise(250).numpy().tobytes()
        shape = {"x-image-shape": f"250,3,{SIZE},{SIZE}"}
        for _ in range(5):
            said = asked(service, "/v1/raw", body, authorization=f"Bearer {other}", **shape)
            assert said.status_code == 200, said.text


def test_a_share_is_a_quarter_of_the_room_and_one_body_at_least() -> None:
    rest = (2**15, 10, 10, 5.0, 1)
    assert Limits(250, 2**20, 2**24, *rest).bytes_per_account == 2**22
    assert Limits(250, 2**23, 2**24, *rest).bytes_per_account == 2**23
    room = Room(Limits(250, 2**20, 2**23, *rest))
    for account in ("a", "b", "c", "d"):
        room.take(account, 2**21)
    for account, status in (("a", 503), ("e", 503)):
        with pytest.raises(ApiError) as refused:
            room.take(account, 1)
        assert refused.value.status == status
    room.give("a", 2**21)
    room.take("b", 0)
    with pytest.raises(ApiError) as refused:
        room.take("b", 1)
    assert refused.value.status == 429 and refused.value.retry_after == 1.0
    room.take("a", 2**21)


def test_three_thousand_requests_at_once_on_a_connection_are_too_many(small: Served) -> None:
    open_before = open_files(small)
    with connect(small, holds=4096) as attacker:
        attacker.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 3000)
        wait_until_closed(small, open_before)


def test_a_client_that_reads_no_answer_is_hung_up_on(small: Served) -> None:
    open_before = open_files(small)
    head = f"POST /v1/raw HTTP/1.1\r\nauthorization: Bearer {small.key}\r\n"
    head += f"x-image-shape: 250,3,{SIZE},{SIZE}\r\n"
    body = noise(250).numpy().tobytes()
    request = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    with connect(small, holds=4096) as attacker:
        attacker.sendall(request * 12)  # whose answers are more than the sockets hold
        wait_until_closed(small, open_before)


def wait_until_closed(service: Served, before: int) -> None:
    deadline = time.monotonic() + SOON
    while open_files(service) > before:
        assert time.monotonic() < deadline, "it is open still"
        time.sleep(0.05)


def open_files(service: Served) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def test_answers_to_requests_one_after_the_other_come_in_order(small: Served) -> None:
    paths = [b"/healthz", b"/v1/models", b"/none", b"/v2"] * 3
    with connect(small) as client:
        client.sendall(b"".join(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n" for path in paths))
        said = b""
        while said.count(b"HTTP/1.1 ") < len(paths):
            said += client.recv(65536)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", said)
    assert statuses == [b"200", b"200", b"404", b"200"] * 3


def tensor(data: bytes) -> bytes:
    return (
        b'{"inputs": [{"name": "images", "shape": [1, 3, 8, 8], "datatype": "UINT8", "data": '
        + data
        + b"}]}"
    )


def embedding(value: bytes) -> bytes:
    return b'{"model": "encoder", "input": ' + value + b"}"


def many(element: bytes) -> bytes:
    """A list of 22 MiB."""
    return b"[" + (element + b",") * (22 * 2**20 // (len(element) + 1)) + element + b"]"


LONG = 60 * 2**20
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "one long and 2,000 empty strings": (
        INFER,
        lambda: tensor(json.dumps(["x" * 200_000] + [""] * 2000).encode()),
    ),
    "seven million lists in a tensor": (INFER, lambda: tensor(many(b"[]"))),
    "seven million lists as pictures": ("/v1/embeddings", lambda: embedding(many(b"[]"))),
    "seven million strings": ("/v1/embeddings", lambda: embedding(many(b'""'))),
    "eleven million numbers": (INFER, lambda: tensor(many(b"0"))),
    "a million fields": (
        INFER,
        lambda: b"{" + b",".join(b'"%d":0' % place for place in range(1_000_000)) + b"}",
    ),
    "three million objects": (INFER, lambda: b'{"inputs": ' + many(b'{"":0}') + b"}"),
    "nested without end": (INFER, lambda: tensor(b"[" * 5_000_000)),
    "a long identity": (INFER, lambda: b'{"id": "' + b"x" * LONG + b'", "inputs": []}'),
    "one letter of four bytes": (
        INFER,
        lambda: tensor(b"[" + b" " * LONG + '"\U0001f600"]'.encode()),
    ),
    "its escape": ("/v1/embeddings", lambda: embedding(b'"' + b"x" * LONG + b'\\ud83d\\ude00"')),
    "sixty mebibytes of backslashes": (
        INFER,
        lambda: tensor(b'["' + b"\\\\" * (LONG // 2) + b'"]'),
    ),
    "a number of a million digits": (INFER, lambda: tensor(b"[" + b"1" * 1_000_000 + b"]")),
    "another alphabet": (INFER, lambda: json.dumps({"inputs": [[]] * 1000}).encode("utf-16")),
}


@pytest.mark.parametrize("what", list(BOMBS))
def test_a_body_that_would_grow_is_refused_at_once_and_holds_nobody(
    what: str, service: Served
) -> None:
    path, make = BOMBS[what]
    content = make()
    billed = service.billed()
    asked(service, path, b"{}")
    with within_mebibytes(200, service.process.pid), nobody_waits(service):
        start = time.monotonic()
        said = asked(service, path, content)
        assert time.monotonic() - start < SOON
    assert 400 <= said.status_code < 500 and said.json()["error"], said.text
    assert service.billed() == billed


def test_the_largest_honest_requests_are_answered(service: Served) -> None:
    images = noise(250)
    listed: list[Any] = [images.ravel().tolist(), images.tolist()]
    for data in listed:
        tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": data}
        said = asked(
            service,
            INFER,
            json.dumps({"id": "\u65e5\u672c", "inputs": [tensor]}, indent=1).encode(),
        )
        assert said.status_code == 200 and said.json()["id"] == "\u65e5\u672c"
    uris = [
        "data:image/png;base64," + base64.b64encode(encode_image(image, "png")).decode()
        for image in images
    ]
    content = (
        json.dumps({"model": "encoder", "input": uris}).replace("/", "\\/").replace("+", "\\u002B")
    )
    assert asked(service, "/v1/embeddings", content.encode()).status_code == 200


def test_shapes_of_many_dimensions_and_half_letters_are_the_clients_fault(service: Served) -> None:
    pixels: dict[str, Any] = {
        "name": "images",
        "shape": [1, 3, 8, 8],
        "datatype": "UINT8",
        "data": [0] * 192,
    }
    wrongs: list[Any] = [pixels | {"shape": [1] * count + [192]} for count in (8, 63, 64, 65, 1000)]
    wrongs += [pixels | {"shape": [0] + [2**31 - 1] * count, "data": []} for count in (2, 3, 7)]
    wrongs += [
        pixels | {"name": "\ud800"},
        pixels | {"shape": [True, 3, 8, 8]},
        pixels | {"data": [10**400] * 192},
    ]
    bodies: list[Any] = [{"inputs": [wrong]} for wrong in wrongs]
    bodies += [
        {"id": "\ud800", "inputs": [pixels]},
        {"\udfff": 1, "inputs": [pixels]},
        {"inputs": [pixels, pixels]},
    ]
    bodies += [{"inputs": [pixels], "outputs": [{"name": "\ud800"}]}]
    for body in bodies:
        said = asked(service, INFER, json.dumps(body).encode())
        assert 400 <= said.status_code < 500 and said.json()["error"], (str(body)[:100], said.text)
    for name in ("model", "user", "\ud800", "encoding_format"):
        body = {"model": "encoder", "input": "x"} | {name: "\ud800"}
        said = asked(service, "/v1/embeddings", json.dumps(body).encode())
        assert 400 <= said.status_code < 500 and said.json()["error"]["message"]
    raw_half = b'{"id": "\xed\xa0\x80", "inputs": [' + json.dumps(pixels).encode() + b"]}"
    assert 400 <= asked(service, INFER, raw_half).status_code < 500
    assert 400 <= asked(service, "/v2/models/%ed%a0%80/infer", b"{}").status_code < 500


def fuzz(service: Served, count: int, seed: int) -> None:
    """Bodies of odd parts, and damaged ones."""
    dice = random.Random(seed)
    pixels: dict[str, Any] = {
        "name": "images",
        "shape": [1, 3, 8, 8],
        "datatype": "UINT8",
        "data": [0] * 192,
    }
    odd = [
        None,
        True,
        -1,
        0.5,
        2**31,
        10**30,
        "",
        "\ud800",
        "\x00",
        "x" * 300,
        [],
        {},
        [[]],
        [0] * 65,
        {"a": {}},
        1e308,
    ]
    right = {
        "id": "1",
        "inputs": [pixels],
        "outputs": [{"name": "features"}],
        "parameters": {"binary_data": True},
    }
    uri = "data:image/png;base64," + base64.b64encode(encode_image(noise(1)[0], "png")).decode()
    pictures_body = {
        "model": "encoder",
        "input": [uri],
        "encoding_format": "base64",
        "user": "u",
        "modality": "image",
    }
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        for _ in range(count):
            path, start = dice.choice([(INFER, right), ("/v1/embeddings", pictures_body)])
            body = json.loads(json.dumps(start))
            place: Any = body
            while isinstance(place, dict | list) and place and dice.random() < 0.6:
                names = list(place) if isinstance(place, dict) else list(range(len(place)))
                name = dice.choice(names)
                if dice.random() < 0.5 or not isinstance(place[name], dict | list):
                    place[name] = dice.choice(odd)
                    break
                place = place[name]
            content = bytearray(json.dumps(body).encode())
            for _ in range(dice.randrange(3)):
                at = dice.randrange(len(content))
                content[at : at + dice.randrange(4)] = dice.choice(
                    [b"", b"\\", b'"', b"[", b"NaN", b"\xff", b"\\ud800"]
                )
            headers = {"authorization": f"Bearer {service.key}"}
            if dice.random() < 0.2:
                headers["inference-header-content-length"] = str(dice.randrange(len(content) + 5))
            said = client.post(path, content=bytes(content), headers=headers)
            assert said.status_code < 500, (path, bytes(content), said.text)
            assert said.status_code == 200 or said.json()["error"]


def test_odd_and_damaged_bodies_never_make_the_service_fail(service: Served) -> None:
    with within_mebibytes(200, service.process.pid):
        fuzz(service, 300, 0)


@pytest.mark.slow
def test_five_thousand_odd_and_damaged_bodies_never_make_the_service_fail(service: Served) -> None:
    with within_mebibytes(200, service.process.pid):
        fuzz(service, 5000, 1)


def test_errors_of_the_service_itself_are_counted_and_unknown_paths_are_one_route(
    tmp_path: Path,
) -> None:
    from stealing.defenses.chain import Chain
    from stealing.service.app import application
    from stealing.service.batching import Batcher
    from stealing.service.serving import Offer, Service

    books = Books(str(tmp_path / "books.sqlite"))
    key = books.add("a", None, None, 0.0)
    encode = load_trivial(save_trivial(tmp_path))
    batcher = Batcher(encode, Chain({}), "v", books, most=64, window=0, queue=100, threads=1)
    limits = Limits(250, 2**20, 2**22, 2**15, 10, 10, 5.0, 1)
    service = Service(Offer("encoder", "v", SIZE), limits, batcher, books, None)
    app = application(service, 60)

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            statuses = [(await client.get(f"/wrong/{place}")).status_code for place in range(5)]
            service.account = broken  # type: ignore[method-assign]
            statuses.append(
                (
                    await client.post("/v1/raw", headers={"authorization": f"Bearer {key}"})
                ).status_code
            )
            return statuses

    def broken(request: Any) -> Any:
        raise RuntimeError("a fault of ours")

    assert asyncio.run(ask()) == [404] * 5 + [500]
    samples = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for metric in service.registry.collect()
        for sample in metric.samples
        if sample.name == "stealing_requests_total"
    }
    assert samples == {("none", "404"): 5, ("/v1/raw", "500"): 1}
    service.close()


def test_limits_are_numbers_above_zero() -> None:
    right: dict[str, Any] = {
        "images": 1,
        "bytes": 1,
        "bytes_in_all": 1,
        "head": 1,
        "connections": 1,
        "connections_per_address": 1,
        "patience": 1.0,
        "parsers": 1,
    }
    Limits(**right)
    for name in right:
        for wrong in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=f"limits.{name}=.* is not above 0"):
                Limits(**right | {name: wrong})


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_and_a_second_one_answer_what_was_begun_and_close_the_books(
    first: signal.Signals, tmp_path: Path
) -> None:
    images = noise(10)
    with served(tmp_path, "window=3", "limits.patience=5") as service:
        answered: list[httpx2.Response] = []
        shape = {"x-image-shape": f"10,3,{SIZE},{SIZE}"}
        asking = threading.Thread(
            target=lambda: answered.append(
                asked(service, "/v1/raw", images.numpy().tobytes(), **shape)
            )
        )
        with (
            connect(service) as idle,
            connect(service) as slow,
        ):  # which are not waited for beyond the patience
            idle.sendall(b"GET /heal")
            slow.sendall(b"POST /v1/raw HTTP/1.1\r\ncontent-length: 100\r\nauthorization: Bearer ")
            slow.sendall(service.key.encode() + b"\r\n\r\n")
            asking.start()
            while "stealing_waiting_images 10.0" not in httpx2.get(service.url + "/metrics").text:
                time.sleep(0.05)
            service.books.close()
            service.process.send_signal(first)
            time.sleep(0.1)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
        asking.join()
        assert answered[0].status_code == 200
        left = {path.name for path in tmp_path.glob("books.sqlite*")}
        assert left == {"books.sqlite", "books.sqlite.owners"}, (
            "no log is left that is not in the books"
        )
        assert {path.name for path in (tmp_path / "books.sqlite.owners").iterdir()} <= {"opening"}
    books = Books(str(tmp_path / "books.sqlite"))
    assert [account.billed for account in books.all()] == [10]
    books.close()
