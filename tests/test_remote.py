"""Remote targets: right answers over every format, whatever the service does; none is wrong."""

import base64
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEBUG, ROOT
from safetensors.torch import save_file
from serving import SIZE, Served, load_trivial, noise, remote, save_trivial, served, wires
from torch import Tensor

from stealing.config import instantiate_node
from stealing.defenses.chain import Chain
from stealing.errors import ConfigError, StealingError, TargetError
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.waiting import NotServed
from stealing.targets.local import LocalTarget
from stealing.targets.sanity_check import check_first_answers
from stealing.targets.tensors import pack_tensors
from stealing.targets.wire import InvalidResponse, check_digest, content_digest, pack_answers

Answered = Callable[[dict[str, str], bytes], tuple[int, dict[str, str], bytes]]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEALING_KEY", "a-secret")


def door(target: Any, folder: Path, **limits: Any) -> MeteredTarget:
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(
        target, ledger, folder / "banks", Budget(**({"images": 10_000, "evaluation": 100} | limits))
    )


def true(folder: Path, images: Tensor) -> Tensor:
    return LocalTarget(
        load_trivial(folder / "encoder.safetensors"), Chain({}), "none", SIZE
    ).answer(images, "x")


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("failing")
    with served(folder, "faults=some", encoder=save_trivial(folder)) as running:
        yield running, folder


@pytest.mark.parametrize("name", list(wires()))
def test_with_three_requests_in_ten_failing_every_answer_is_right_and_the_counts_agree(
    name: str, failing: tuple[Served, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, folder = failing
    monkeypatch.setenv("STEALING_KEY", service.key)
    images, before = noise(600, list(wires()).index(name) + 1), service.billed()
    meter = door(remote(service.url, wires()[name], width=16, in_flight=8, attempts=20), tmp_path)
    assert torch.equal(meter.ask(images, "attacker/0", "attack"), true(folder, images))
    [row] = [row for row in spendings(meter._ledger) if row.purpose == "attack"]
    assert (
        row.spent == row.stored == 600 == service.billed() - before
        and find_faults(meter._ledger) == []
    )


@pytest.fixture
def listening() -> Iterator[Callable[[Answered], str]]:
    """A server of our own that answers as it is told."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def listen(answered: Answered) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                status, headers, body = answered(
                    {n.lower(): v for n, v in self.headers.items()}, content
                )
                self.send_response(status)
                for name, value in ({"content-length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield listen
    for server in servers:
        server.shutdown()


def features(images: Tensor) -> Tensor:
    return images.float().mean((2, 3))


def sent_images(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 3, SIZE, SIZE)


def right(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
    images = sent_images(content)
    body = pack_answers(digests(images), features(images))
    return 200, {"content-type": "application/octet-stream"}, body


def test_retry_after_is_waited_for_and_the_key_stays_the_same(
    listening: Any, tmp_path: Path
) -> None:
    keys, moments = list[str](), list[float]()

    def busy(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        keys.append(headers["idempotency-key"])
        moments.append(time.monotonic())
        return right(headers, content) if len(keys) == 3 else (429, {"retry-after": "0.4"}, b"busy")

    meter = door(remote(listening(busy), wires()["raw"]), tmp_path)
    assert torch.equal(meter.ask(noise(5), "attacker/0", "attack"), features(noise(5)))
    assert len(set(keys)) == 1 and moments[2] - moments[0] >= 0.8


def test_a_service_that_wants_us_back_after_the_deadline_is_given_up_at_once(
    listening: Any, tmp_path: Path
) -> None:
    meter = door(
        remote(listening(lambda *_: (429, {"retry-after": "900"}, b"later")), wires()["raw"]),
        tmp_path,
    )
    start = time.monotonic()
    with pytest.raises(TargetError, match="status 429: later"):
        meter.ask(noise(3), "attacker/0", "attack")
    assert time.monotonic() - start < 3 and meter._ledger.spent(meter.fingerprint, "attack") == 0


@pytest.mark.parametrize(("status", "counted"), [(400, 0), (401, 0), (404, 0), (503, 0), (500, 5)])
def test_only_what_may_have_been_served_stays_counted(
    status: int, counted: int, listening: Any, tmp_path: Path
) -> None:
    url = listening(lambda headers, content: (status, {"retry-after": "0"}, b"no\x1b[31m way"))
    meter = door(remote(url, wires()["raw"], attempts=2, patience=0.1), tmp_path)
    with pytest.raises(TargetError, match=r"status .*no \[31m way") as caught:
        meter.ask(noise(5), "attacker/0", "attack")
    assert "a-secret" not in str(caught.value)
    assert meter._ledger.spent(meter.fingerprint, "attack") == counted == meter.in_doubt()
    [row] = [row for row in spendings(meter._ledger) if row.purpose == "attack"]
    assert row.stored == 0 and find_faults(meter._ledger) == []


def test_what_was_in_doubt_is_asked_again_by_the_next_run_under_its_key(
    listening: Any, tmp_path: Path
) -> None:
    keys, broken = list[str](), [True]

    def sometimes(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        keys.append(headers["idempotency-key"])
        return (500, {}, b"") if broken[0] else right(headers, content)

    url = listening(sometimes)
    with pytest.raises(TargetError, match="run the same command again"):
        door(remote(url, wires()["raw"], attempts=2), tmp_path).ask(
            noise(20)[:10], "attacker/0", "attack"
        )
    broken[0] = False
    meter = door(remote(url, wires()["raw"]), tmp_path, images_total=12)
    with pytest.raises(
        StealingError, match="2 that are left"
    ):  # refused, and the request in doubt is left as it was
        meter.ask(noise(20)[5:20], "attacker/0", "attack")
    assert torch.equal(
        meter.ask(noise(20)[5:12], "attacker/0", "attack"), features(noise(20)[5:12])
    )
    assert keys.count(keys[0]) == 3, (
        "the old request went out whole, though only half of it was wanted"
    )
    assert meter._ledger.spent(meter.fingerprint, "attack") == 12 and meter.in_doubt() == 0


def test_forfeit_gives_up_what_is_in_doubt_and_pays_anew(listening: Any, tmp_path: Path) -> None:
    keys, bodies, broken = list[str](), list[bytes](), [True]

    def sometimes(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        keys.append(headers["idempotency-key"])
        bodies.append(content)
        return (500, {}, b"") if broken[0] else right(headers, content)

    url = listening(sometimes)
    with pytest.raises(TargetError):
        door(remote(url, wires(10)["raw"], attempts=1, in_flight=1), tmp_path).ask(
            noise(30), "attacker/0", "attack"
        )
    broken[0] = False
    meter = door(remote(url, wires(10)["raw"], in_flight=1), tmp_path, in_doubt="forfeit")
    assert torch.equal(meter.ask(noise(30), "attacker/0", "attack"), features(noise(30)))
    assert len(set(keys)) == 4 and meter._ledger.spent(meter.fingerprint, "attack") == 40
    assert bodies[1] == bodies[0], (
        "in the order of a run that was never stopped, as a defense may remember it"
    )


def test_an_answer_that_drags_on_and_one_that_never_ends_are_given_up_within_the_deadline(
    listening: Any, tmp_path: Path
) -> None:
    def endless(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        time.sleep(1.5)
        return 200, {"content-length": "10000000"}, b"x"

    meter = door(remote(listening(endless), wires()["raw"], deadline=2.0), tmp_path)
    start = time.monotonic()
    with pytest.raises(TargetError, match="an answer that can be used"):
        meter.ask(noise(3), "attacker/0", "attack")
    assert time.monotonic() - start < 5


def test_another_version_in_mid_run_stops_it_and_keeps_what_was_bought(
    listening: Any, tmp_path: Path
) -> None:
    count = [0]

    def changing(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        count[0] += 1
        status, said, body = right(headers, content)
        return status, said | {"x-model-version": "a" if count[0] < 4 else "b"}, body

    meter = door(remote(listening(changing), wires()["raw"], in_flight=1), tmp_path)
    with pytest.raises(
        TargetError, match=r"version b now and was a before.*target.remote.version=b"
    ):
        meter.ask(noise(100), "attacker/0", "attack")
    [row] = [row for row in spendings(meter._ledger) if row.purpose == "attack"]
    assert (row.stored, row.in_doubt) == (48, 16)


def test_first_contact_finds_a_service_that_does_not_look_at_images(
    listening: Any, tmp_path: Path
) -> None:
    def blind(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        images = sent_images(content)
        body = pack_answers(digests(images), torch.ones(len(images), 4))
        return 200, {"content-type": "application/octet-stream"}, body

    with pytest.raises(TargetError, match="nearly equal vectors"):
        check_first_answers(door(remote(listening(blind), wires()["raw"]), tmp_path), "attacker/0")
    meter = door(remote(listening(right), wires()["raw"]), tmp_path)
    assert check_first_answers(meter, "attacker/0") == 0 and meter.spent("evaluation") == 3
    assert check_first_answers(meter, "attacker/0") == 0 and meter.sent == 3, "asked once, kept"


def test_a_pace_is_kept(listening: Any, tmp_path: Path) -> None:
    meter = door(remote(listening(right), wires(8)["raw"], pace=Pace(images=40)), tmp_path)
    start = time.monotonic()
    meter.ask(noise(32), "attacker/0", "attack")
    assert 0.6 <= time.monotonic() - start < 3  # the fourth request starts after 24 images


def test_an_address_outside_needs_the_users_word_and_https_and_a_key_stays_out_of_it() -> None:
    for url, options, words in (
        (
            "http://encoder.example.org",
            {},
            "only encoders that you own or may test.*target.authorized=true",
        ),
        ("http://encoder.example.org", {"authorized": True}, "use https"),
        ("https://me:secret@encoder.example.org", {"authorized": True}, "keep keys out of it"),
        ("encoder.example.org", {}, "is not an address"),
    ):
        with pytest.raises(ConfigError, match=words):
            remote(url, wires()["raw"], **options)
    remote("https://encoder.example.org", wires()["raw"], authorized=True)


def test_an_absent_key_is_one_sentence_and_costs_nothing(
    listening: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEALING_KEY")
    meter = door(remote(listening(right), wires()["raw"]), tmp_path)
    with pytest.raises(ConfigError, match="set STEALING_KEY"):
        meter.ask(noise(3), "attacker/0", "attack")
    assert meter._ledger.spent(meter.fingerprint, "attack") == 0


PRESETS = {
    "jina": ({"data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "m"}, "input", "image"),
    "azure": ({"data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "m"}, "input", "image"),
    "vllm": ({"data": [{"embedding": "AACAPwAAAEA="}], "model": "m"}, "messages", "data:image/png"),
    "clarifai": (
        {
            "outputs": [
                {
                    "model": {"model_version": {"id": "v"}},
                    "data": {"embeddings": [{"vector": [1.0, 2.0]}]},
                }
            ]
        },
        "inputs",
        "base64",
    ),
    "cohere": ({"embeddings": {"float": [[1.0, 2.0]]}}, "images", "data:image/png"),
    "voyage": (
        {"data": [{"index": 0, "embedding": "AACAPwAAAEA="}], "model": "m"},
        "inputs",
        "image_base64",
    ),
    "openai": (
        {"data": [{"index": 0, "embedding": "AACAPwAAAEA="}], "model": "m"},
        "input",
        "data:image/png",
    ),
}


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_vendors_preset_fills_its_body_and_finds_its_vectors(
    name: str, listening: Any
) -> None:
    from conftest import choose

    answer, field, words = PRESETS[name]
    bodies: list[Any] = []

    def vendor(headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        bodies.append((headers, json.loads(content)))
        return 200, {}, json.dumps(answer).encode()

    changes = ["target.remote.url=" + listening(vendor), f"data.size={SIZE}"]
    if name in ("azure", "openai", "vllm"):
        changes.append("target.remote.wire.body.model=m")
    node = choose(f"target={name}", *changes).target.remote
    if node.credential is not None:
        for variable in {node.credential.variable, node.credential.honest}:
            os.environ[variable] = "k3y"
    assert instantiate_node(node).answer(noise(1), "attacker/0", "i").tolist() == [[1.0, 2.0]]
    [(headers, body)] = bodies
    assert words in json.dumps(body[field]) and headers["idempotency-key"] == "i"
    if node.credential is not None:
        assert headers[node.credential.header.lower()].endswith("k3y")


@pytest.mark.parametrize("signed", [True, False])
def test_ten_thousand_malformed_answers_are_refused_and_none_is_taken_for_right(
    signed: bool,
) -> None:
    """With a digest of the body none passes; without, one that passes is finite vectors."""
    images, dice = noise(4), random.Random(0)
    honest, refused, changed = true_answers(images), 0, 0
    for _ in range(2400):
        for name, wire in wires().items():
            headers, body = honest[name]
            content = damaged(body, dice)
            changed += content != body
            try:
                check_digest(content_digest(body) if signed else "", content)
                found = wire.answers(images, headers, content).features
            except InvalidResponse:
                refused += 1
                continue
            assert torch.isfinite(found).all() and len(found) == 4 and found.ndim == 2
            assert content != body or torch.equal(found.float(), features(images))
            assert content == body or not signed
    assert changed > 10_000 and refused == changed if signed else refused > 9_000


def true_answers(images: Tensor) -> dict[str, tuple[dict[str, str], bytes]]:
    rows, named = features(images).numpy(), digests(images)

    def listed(vectors: list[Any]) -> bytes:
        data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        return json.dumps({"data": data, "model_version": "v"}).encode()

    digest = np.frombuffer(b"".join(named), np.uint8).reshape(4, 16)
    binary, length = pack_tensors(
        {"id": "x", "model_version": "v"}, "outputs", {"features": rows, "digest": digest}
    )
    texts = [
        {"name": "features", "shape": [4, 3], "datatype": "FP32", "data": rows.ravel().tolist()}
    ]
    return {
        "raw": (
            {"content-type": "application/octet-stream"},
            pack_answers(named, features(images)),
        ),
        "openai base64": ({}, listed([base64.b64encode(row.tobytes()).decode() for row in rows])),
        "openai float": ({}, listed(rows.tolist())),
        "open inference binary": ({"inference-header-content-length": str(length)}, binary),
        "open inference json": ({}, json.dumps({"outputs": texts}).encode()),
    }


def damaged(body: bytes, dice: random.Random) -> bytes:
    deed, content = dice.randrange(7), bytearray(body)
    place, other = sorted((dice.randrange(len(body)), dice.randrange(len(body))))
    if deed == 0:
        return bytes(content[:place])
    if deed == 1:
        del content[place:other]
    elif deed == 2:
        content[place:place] = content[place:other]
    elif deed == 3:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(400)))
    elif deed == 4:
        return dice.choice(
            [
                b"",
                b"null",
                b"[]",
                b"{}",
                b"NaN",
                b"[" * 100_000,
                b'{"data": {}}',
                b'{"outputs": [1]}',
            ]
        )
    elif deed == 5:
        return bytes(content).replace(
            b"0", dice.choice([b"NaN", b"1e999", b"true", b'"0"', b"null", b"[0]"]), 1
        )
    else:
        content[place] ^= 1 << dice.randrange(8)
    return bytes(content)


@pytest.mark.slow
def test_the_surrogate_is_the_same_bit_for_bit_whether_the_target_is_here_or_behind_the_service(
    tmp_path: Path,
) -> None:
    """Over every format: the attack sees features alone, so equal answers make equal weights."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    encoder = save_trivial(tmp_path, size=16)
    local = ["target=file", f"target.path={encoder}", "trust=[serving]"]

    def surrogate(work: str, *choices: str) -> bytes:
        line = [
            sys.executable,
            "train.py",
            *DEBUG,
            "until=steal",
            f"paths.work={tmp_path / work}",
            *choices,
        ]
        environment = {**env, "PYTHONPATH": str(ROOT / "tests")}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "a-secret" not in done.stdout + done.stderr
        for path in (tmp_path / work).rglob("*"):
            assert not path.is_file() or env["STEALING_KEY"].encode() not in path.read_bytes(), path
        [path] = (tmp_path / work).glob("surrogates/*/encoder.safetensors")
        return path.read_bytes()

    with served(tmp_path, encoder=encoder) as service:
        env["STEALING_KEY"] = service.key
        expected = surrogate("local", *local)
        for name in ("service", "service_json", "open_inference"):
            assert (
                surrogate(name, f"target={name}", f"target.remote.url={service.url}") == expected
            ), name


def test_who_is_stopped_by_a_services_defense_keeps_what_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {"encoder": load_trivial(save_trivial(tmp_path)).fingerprint}
    kept = {"mean": torch.zeros(16), "whiten": torch.eye(16), "sizes": torch.tensor([1.0, 1000.0])}
    save_file(
        kept | {"centre": torch.zeros(2, 3), "spread": torch.full((2, 3), 1e-6)},
        tmp_path / "honest.safetensors",
        of,
    )
    guard = ["defense=guard", "defense.guard.policy=stop", "defense.guard.patience=48"]
    with served(
        tmp_path, *guard, f"defense.guard.reference={tmp_path / 'honest.safetensors'}"
    ) as service:
        monkeypatch.setenv("STEALING_KEY", service.key)
        asking = door(remote(service.url, wires(16)["raw"], in_flight=1), tmp_path)
        features, answered = asking.ask_what_is_answered(noise(100), "attacker/0", "attack")
        assert answered.tolist() == [True] * 48 + [
            False
        ] * 52 and service.billed() == 48 == asking.spent("attack")
        assert torch.equal(features, true(tmp_path, noise(100))[:48])
        with pytest.raises(ConfigError, match="set STEALING_KEY_1"):
            asking.ask(noise(5, 7), "attacker/1", "attack")
        monkeypatch.setenv("STEALING_KEY_1", service.books.add("attacker/1", None, None, 0.0))
        asking.ask(noise(5, 7), "attacker/1", "attack")
        assert service.billed("attacker/1") == 5, "the attacker's other account is not stopped"


@pytest.mark.slow
@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_is_in_flight_and_the_same_command_goes_on(
    by: signal.Signals, code: int, tmp_path: Path
) -> None:
    with served(tmp_path, "window=0.3", encoder=save_trivial(tmp_path, size=16)) as service:
        line = [
            sys.executable,
            "train.py",
            *DEBUG,
            "until=query",
            f"paths.work={tmp_path / 'work'}",
            "target=service",
            f"target.remote.url={service.url}",
            "target.remote.in_flight=1",
            "target.remote.wire.images_a_request=8",
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "STEALING_KEY": service.key}
        running = subprocess.Popen(line, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        while service.billed() < 30:
            time.sleep(0.02)
        running.send_signal(by)
        said = running.communicate(timeout=20)[1]
        assert running.returncode == code and "Traceback" not in said, said
        [status] = (tmp_path / "work").glob("runs/*/status.json")
        assert json.loads(status.read_text())["state"] == "stopped"
        ledger = Ledger(str(tmp_path / "work" / "ledger.sqlite"))
        stored = sum(row.stored for row in spendings(ledger))
        assert stored == service.billed() and sum(row.in_doubt for row in spendings(ledger)) == 0
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert service.billed() == 128 + 3 == sum(row.stored for row in spendings(ledger))


def test_a_request_that_was_surely_not_served_says_so() -> None:
    with pytest.raises(NotServed):
        remote("http://127.0.0.1:9", wires()["raw"], attempts=1).answer(noise(1), "attacker/0", "x")
