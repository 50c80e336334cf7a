"""The client survives a hostile service: one sentence, little memory, never past the deadline."""

import gzip
import json
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from measuring import within_mebibytes
from serving import noise, remote, wires

from stealing.errors import TargetError
from stealing.queries.digests import digests
from stealing.queries.waiting import NotServed
from stealing.targets.deadlines import apply_deadlines, deadline
from stealing.targets.strict_json import BLOCK, JsonLimits, check_size, strict_json
from stealing.targets.tensors import unpack_tensors
from stealing.targets.wire import InvalidResponse, pack_answers, parse_json

SOON = 10.0
"""Seconds within which an answer is refused, also on a machine that does much else."""

Said = Callable[[socket.socket], None]


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Said], str]]:
    """A server that reads a request and then does as it is told with the connection."""
    monkeypatch.setenv("STEALING_KEY", "a-secret")
    listeners: list[socket.socket] = []

    def listen(said: Said) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection:
                try:
                    read_request(connection)
                    said(connection)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    """Read a whole request and return its head.

    A socket that is closed over unread bytes resets, and its answer is lost.
    """
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(2**16) or b"\r\n\r\n"
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0 and (part := connection.recv(2**16)):
        missing -= len(part)
    return head


def answer_of(content: bytes, *fields: bytes) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(content), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + content


def tensors_of(**changes: Any) -> bytes:
    tensor = {"name": "features", "shape": [2, 3], "datatype": "FP32", "data": [1.0] * 6}
    return json.dumps({"outputs": [tensor | changes]}).encode()


HOSTILE: dict[str, tuple[str, bytes]] = {
    "one long and 1,500 empty strings": (
        "open inference json",
        tensors_of(data=["x" * 150_000] + [""] * 1500),
    ),
    "65 dimensions": ("open inference json", tensors_of(shape=[1] * 64 + [6])),
    "no dimension": ("open inference json", tensors_of(shape=[], data=[1.0])),
    "no number": ("open inference json", tensors_of(shape=[2, 0], data=[])),
    "sides that nobody can count": (
        "open inference json",
        tensors_of(shape=[0] + [2**31 - 1] * 7, data=[]),
    ),
    "half a letter as a name": ("open inference json", tensors_of(name="\ud800")),
    "half a letter as a version": (
        "openai float",
        json.dumps(
            {"data": [{"index": 0, "embedding": [1]}] * 2, "model_version": "\ud800"}
        ).encode(),
    ),
    "a version that moves the cursor": (
        "openai float",
        json.dumps(
            {
                "data": [{"index": place, "embedding": [1]} for place in (0, 1)],
                "model_version": "\x1b[2J",
            }
        ).encode(),
    ),
    "a name that moves the cursor": ("open inference json", tensors_of(name="\x1b[2J", shape=[3])),
    "deep nesting": ("openai float", b'{"data": ' + b"[" * 100_000),
    "deep nesting of objects": ("openai float", b'{"data":' * 50_000),
    "a million lists": ("openai float", b'{"data": [' + b"[]," * 1_000_000 + b"[]]}"),
    "a million fields": (
        "openai float",
        b"{" + b",".join(b'"%d":0' % place for place in range(300_000)) + b"}",
    ),
    "a million strings": ("openai base64", b'{"data": [' + b'"ab",' * 700_000 + b'""]}'),
    "another alphabet": ("openai float", json.dumps({"data": []}).encode("utf-16")),
    "a number of many digits": (
        "openai float",
        b'{"data": [{"index": 0, "embedding": [' + b"1" * 100_000 + b"]}]}",
    ),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_hostile_answer_is_one_sentence_and_takes_little_memory(what: str, hostile: Any) -> None:
    wire, content = HOSTILE[what]
    target = remote(
        hostile(lambda connection: connection.sendall(answer_of(content))),
        wires()[wire],
        attempts=1,
    )
    start = time.monotonic()
    words = "did not give an answer that can be used"
    with within_mebibytes(200), pytest.raises(TargetError, match=words) as caught:
        target.answer(noise(2), "attacker/0", "x")
    assert time.monotonic() - start < SOON
    assert str(caught.value).isprintable()


def test_an_answer_larger_than_the_images_can_make_it_is_not_read_to_its_end(hostile: Any) -> None:
    sent = [0]

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        for _ in range(1000):
            sent[0] += connection.send(b"x" * 2**20)

    for width, most in ((None, 2), (16, 1)):
        sent[0] = 0
        target = remote(hostile(endless), wires()["raw"], attempts=1, width=width)
        words = "larger than 2 images can make it" + (
            ": set target.remote.width" if width is None else ""
        )
        with within_mebibytes(100), pytest.raises(TargetError, match=words):
            target.answer(noise(2), "attacker/0", "x")
        assert sent[0] < (most + 16) * 2**20, "sockets hold some of it"


@cache
def bomb() -> bytes:
    """256 MiB of zeros, in 256 KiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(2**20)
    return b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "x-unknown"])
def test_a_compressed_answer_which_nobody_asked_for_is_refused_and_not_unpacked(
    encoding: str, hostile: Any
) -> None:
    images = noise(2)
    right = pack_answers(digests(images), torch.ones(2, 3))

    def packed(content: bytes) -> Said:
        def said(connection: socket.socket) -> None:
            fields = [b"content-type: application/octet-stream"]
            fields.append(b"content-encoding: " + encoding.encode())
            connection.sendall(answer_of(content, *fields))

        return said

    for content in (bomb(), gzip.compress(right), right):
        target = remote(hostile(packed(content)), wires()["raw"], attempts=1)
        with within_mebibytes(100), pytest.raises(TargetError, match="the answer is compressed"):
            target.answer(images, "attacker/0", "x")


def test_a_request_asks_for_an_answer_that_is_not_compressed(hostile: Any) -> None:
    images = noise(2)
    body = pack_answers(digests(images), torch.ones(2, 3))
    heads: list[bytes] = []

    def said(connection: socket.socket) -> None:
        for _ in range(2):
            fields = [b"content-type: application/octet-stream", b"content-encoding: identity"]
            connection.sendall(answer_of(body, *fields))
            heads.append(read_request(connection))

    target = remote(hostile(said), wires()["raw"], attempts=1)
    for _ in range(2):
        assert target.answer(images, "attacker/0", "x").shape == (2, 3)
    assert b"accept-encoding: identity\r\n" in heads[0].lower()
    assert heads[0].lower().count(b"accept-encoding") == 1


def test_a_known_width_allows_for_wide_vectors(hostile: Any) -> None:
    images, width = noise(2), 200_000
    body = pack_answers(digests(images), torch.ones(2, width))

    def wide(connection: socket.socket) -> None:
        connection.sendall(answer_of(body, b"content-type: application/octet-stream"))

    features = remote(hostile(wide), wires()["raw"], attempts=1, width=width).answer(
        images, "attacker/0", "x"
    )
    assert features.shape == (2, width)


def drip(*parts: bytes) -> Said:
    def said(connection: socket.socket) -> None:
        for part in parts[:-1]:
            connection.sendall(part)
        while True:
            connection.sendall(parts[-1])
            time.sleep(0.2)

    return said


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"a"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a"),
    ],
    ids=["in the head", "before the head", "in the body", "between the parts of the body"],
)
def test_a_drip_without_end_is_given_up_at_the_deadline(
    parts: tuple[bytes, ...], hostile: Any
) -> None:
    target = remote(hostile(drip(*parts)), wires()["raw"], attempts=1, deadline=1.5)
    start = time.monotonic()
    with pytest.raises(TargetError):
        target.answer(noise(2), "attacker/0", "x")
    assert time.monotonic() - start < 1.5 + 2


def test_the_deadline_holds_over_tls_too(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    line = "openssl req -x509 -newkey rsa:2048 -nodes "
    line += "-keyout key.pem -out cert.pem -subj /CN=localhost"
    subprocess.run(
        [*line.split(), "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listener = ours.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(2**16)
            connection.sendall(answer_of(b"right"))
            connection.recv(2**16)
            with suppress(OSError):
                drip(b"HTTP/1.1 200 OK\r\nx: ", b"a")(connection)

    threading.Thread(target=serve, daemon=True).start()
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    url = f"https://localhost:{listener.getsockname()[1]}"
    with apply_deadlines(httpx2.Client(verify=trusted, trust_env=False)) as client:
        with deadline(time.monotonic() + SOON):
            assert client.get(url).content == b"right"
        with deadline(time.monotonic() + 1), pytest.raises(httpx2.ReadTimeout):
            client.get(url)


def test_hundreds_of_fields_in_the_head_of_an_answer_are_harmless_and_no_cookie_is_kept(
    hostile: Any,
) -> None:
    images = noise(2)
    body = pack_answers(digests(images), torch.ones(2, 3))
    heads: list[bytes] = []

    def many(connection: socket.socket) -> None:
        fields = [b"set-cookie: c%d=%s" % (place, b"x" * 100) for place in range(200)]
        connection.sendall(answer_of(body, b"content-type: application/octet-stream", *fields))
        heads.append(read_request(connection))
        connection.sendall(answer_of(body, b"content-type: application/octet-stream"))

    target = remote(hostile(many), wires()["raw"], attempts=1)
    for _ in range(2):
        assert target.answer(images, "attacker/0", "x").shape == (2, 3)
    assert b"cookie" not in heads[0].lower()
    huge = answer_of(body, *(b"x%d: %s" % (place, b"y" * 1000) for place in range(2000)))
    with within_mebibytes(50), pytest.raises((TargetError, NotServed)):
        remote(hostile(lambda c: c.sendall(huge)), wires()["raw"], attempts=1).answer(
            images, "attacker/0", "x"
        )


def test_odd_answers_are_garbled_and_never_another_error() -> None:
    dice, images = random.Random(0), noise(2)
    odd = [
        None,
        True,
        -1,
        0.5,
        2**31,
        10**400,
        "",
        "\ud800",
        [],
        {},
        [[]],
        [1] * 65,
        {"a": {}},
        "AAAA",
        1e308,
    ]
    right: dict[str, Any] = {
        "open inference json": json.loads(tensors_of()) | {"model_version": "v", "id": "1"},
        "openai float": {
            "data": [{"index": i, "embedding": [1.0, 2.0]} for i in (0, 1)],
            "model_version": "v",
        },
        "openai base64": {
            "data": [{"index": i, "embedding": "AACAPw=="} for i in (0, 1)],
            "model_version": "v",
        },
    }
    for _ in range(1500):
        name = dice.choice(list(right))
        body = json.loads(json.dumps(right[name]))
        place: Any = body
        while isinstance(place, dict | list) and place:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            at = dice.choice(names)
            if dice.random() < 0.4 or not isinstance(place[at], dict | list):
                place[at] = dice.choice(odd)
                break
            place = place[at]
        length = {"inference-header-content-length": dice.choice(["9" * 5000, "5", "0", "\u0663"])}
        headers = length if dice.random() < 0.1 else {}
        try:
            reply = wires()[name].answers(images, headers, json.dumps(body).encode())
        except InvalidResponse:
            continue
        assert reply.features.shape[0] == 2 and torch.isfinite(reply.features).all()


def test_what_the_count_refuses_is_what_a_parser_would_build() -> None:
    """Against a count of the parsed value, for random JSON with escapes, also across blocks."""
    dice = random.Random(0)

    def value(depth: int) -> Any:
        kind = dice.randrange(6 if depth else 3)
        if kind == 0:
            return dice.choice([0, 1.5, None, True])
        if kind in (1, 2):
            return "".join(dice.choice('ab"\\[]{},:\n\u00e9') for _ in range(dice.randrange(9)))
        if kind == 3:
            return {str(place): value(depth - 1) for place in range(dice.randrange(4))}
        return [value(depth - 1) for _ in range(dice.randrange(5))]

    def parts_of(built: Any) -> list[Any]:
        return (
            list(built.values())
            if isinstance(built, dict)
            else built
            if isinstance(built, list)
            else []
        )

    def depth_of(built: Any) -> int:
        return isinstance(built, dict | list) + max(map(depth_of, parts_of(built)), default=0)

    def containers_of(built: Any) -> int:
        fields = len(built) if isinstance(built, dict) else 0
        return isinstance(built, dict | list) + fields + sum(map(containers_of, parts_of(built)))

    def values_of(built: Any) -> int:
        """A list of n elements has n - 1 commas."""
        return max(len(parts_of(built)) - 1, 0) + sum(map(values_of, parts_of(built)))

    for _ in range(100):
        built = [value(5)]
        content = (
            b" " * dice.choice([0, BLOCK - 20])
            + json.dumps(built, ensure_ascii=dice.random() < 0.5).encode()
        )
        exact = {
            "depth": depth_of(built),
            "containers": containers_of(built),
            "values": values_of(built),
        }
        assert strict_json(content, JsonLimits(**exact)) == built
        for name in exact:
            if exact[name]:
                with pytest.raises(ValueError, match="the body "):
                    check_size(content, JsonLimits(**exact | {name: exact[name] - 1}))


def test_half_a_letter_and_other_encodings_are_no_json() -> None:
    for content in (
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b"\xff",
        '"\u00e9"'.encode("latin-1"),
        b'{"\\udc00": 1}',
    ):
        with pytest.raises(InvalidResponse, match="not JSON in UTF-8"):
            parse_json(content)
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"
    with pytest.raises(InvalidResponse):
        unpack_tensors(b"[]", None, "inputs")
