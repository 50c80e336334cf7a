"""What asking a target in this process costs beside the encoder: hashes, transactions, files and
seconds."""

import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from serving import Trivial, noise
from torch import Tensor

from stealing.defenses.b4b import B4B
from stealing.defenses.chain import Chain, QueryBatch
from stealing.defenses.noise import Noise
from stealing.encoders import Encoder, load_encoder
from stealing.errors import Refused
from stealing.evaluation.features import BLOCK, block_size, encode
from stealing.queries import bank as banks
from stealing.queries.bank import Bank
from stealing.queries.database import SQLite
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Terms
from stealing.targets import local
from stealing.targets.local import LocalTarget

IMAGES = noise(2500)

SHARE = 0.10
"""Most that the door may take of the encoder's own time."""

NOISE = 1.5
"""Factor by which a busy machine may exceed it: its caches serve other processes meanwhile."""


class Thrice:
    """Refuses the fourth request."""

    def __init__(self) -> None:
        self.requests = 0

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        self.requests += 1
        if self.requests == 4:
            raise Refused("Enough.")
        return features_BD


CHAINS = {
    "none": lambda: Chain({}),
    "noise": lambda: Chain({"noise": Noise(0.1, "gaussian", False, None)}),
    "b4b": lambda: Chain({"b4b": B4B(1e-6, 1.0, 0.02, 8, 4, None)}),
}


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Trivial(16), [0.5] * 3, [0.25] * 3)


def door(folder: Path, chain: Chain, name: str = "none", size: int = 8) -> MeteredTarget:
    features = Bank(folder / "undefended", "undefended")
    target = LocalTarget(encoder(), chain, name, size, features)
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(target, ledger, folder / "banks", Budget(9000, 9000))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each image was hashed, by whatever module."""
    counts = Counter[bytes]()

    def counted(images_uint8: Tensor) -> list[bytes]:
        names = digests(images_uint8)
        counts.update(names)
        return names

    for module in list(sys.modules.values()):
        if getattr(module, "digests", None) is digests and module.__name__ != __name__:
            monkeypatch.setattr(module, "digests", counted)
    return counts


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of the banks into which a shard was written, one a shard."""
    folders = list[str]()
    join_shards = banks.join_shards

    def counted(folder: Path, parts: list[Any]) -> Any:
        folders.append(folder.name)
        return join_shards(folder, parts)

    monkeypatch.setattr(banks, "join_shards", counted)
    return folders


@pytest.mark.parametrize("name", CHAINS)
def test_the_pixels_of_an_image_are_hashed_once_on_their_way(
    name: str, hashed: Counter[bytes], tmp_path: Path
) -> None:
    door(tmp_path, CHAINS[name](), name).ask(IMAGES[:600], "attacker/0", "attack")
    assert len(hashed) == 600 and set(hashed.values()) == {1}


def test_they_are_hashed_once_if_the_target_stops_answering(
    hashed: Counter[bytes], tmp_path: Path
) -> None:
    meter = door(tmp_path, Chain({"thrice": Thrice()}), "thrice")
    meter._target.images_a_request = 100
    _, answered = meter.ask_what_is_answered(IMAGES[:600], "attacker/0", "attack")
    assert answered.tolist() == [True] * 300 + [False] * 300
    assert len(hashed) == 600 and set(hashed.values()) == {1}


def test_features_without_a_defense_are_written_twice_whatever_the_number_of_requests(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written into the ledger and, once a purchase, into the bank of answers."""
    meter = door(tmp_path, Chain({}))
    transaction = SQLite.transaction
    calls = list[int]()

    def counted(self: SQLite) -> AbstractContextManager[Any]:
        calls.append(1)
        return transaction(self)

    monkeypatch.setattr(SQLite, "transaction", counted)
    given = meter.ask(IMAGES, "attacker/0", "attack")
    assert torch.equal(given, encode(encoder(), IMAGES))
    requests = 3  # of a thousand images
    assert len(calls) == 2 * requests + 1, "counted and stored, and one for the account"
    assert len(shards) == 1 and not (tmp_path / "undefended").exists()


def test_undefended_features_are_one_shard_a_purchase_and_serve_every_other_defense(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = door(tmp_path, CHAINS["b4b"](), "b4b")
    first.ask(IMAGES[:900], "attacker/0", "attack")
    assert shards.count("undefended") == 1 and len(shards) == 2, "not one a request"
    first.ask(IMAGES[900:1000], "attacker/0", "attack")
    assert len(shards) == 2, "so few wait for the next ones"
    first.ask(IMAGES[900:1400], "attacker/1", "attack")
    assert shards.count("undefended") == 2

    def computed(*_: Any) -> Tensor:
        pytest.fail("the features are there")

    monkeypatch.setattr(local, "encode", computed)
    for name in ("noise", "none"):
        meter = door(tmp_path, CHAINS[name](), name)
        given = meter.ask(IMAGES[:1400], "attacker/0", "attack")
        assert torch.equal(given, encode(encoder(), IMAGES[:1400])) == (name == "none")


def test_a_request_is_larger_than_a_block_if_its_pixels_are_few_and_no_defense_remembers() -> None:
    def images(size: int, name: str = "none") -> int:
        return LocalTarget(encoder(), CHAINS[name](), name, size).images_a_request

    assert (images(8), images(32), images(48), images(96)) == (1000, 1000, 500, 250)
    assert images(224) == block_size(224, 224) < BLOCK, "large images come in smaller blocks"
    assert images(8, "noise") == 1000 and images(8, "b4b") == BLOCK, "a guard judges requests"


@pytest.mark.parametrize("in_doubt", ["resend", "forfeit"])
def test_a_request_that_ended_with_its_process_is_taken_back_and_asked_anew(
    in_doubt: str, tmp_path: Path
) -> None:
    """Nobody answered and billed it, so it counts once; and its pixels need not be stored."""
    dead = Ledger(str(tmp_path / "ledger.sqlite"))
    target = LocalTarget(encoder(), Chain({}), "none", 8)
    source = dead.source(target.fingerprint, "none", "a", "", 8)
    batches = [(digests(IMAGES[:50]), IMAGES[:50])]
    terms = Terms("evaluation", "raw", 0, 0.5)
    dead.reserve(source, batches, terms, lease=60.0, pace=Pace(), can_resend=False)
    assert dead.database.read("SELECT length(images) FROM requests") == [(0,)]
    dead.close()
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    assert ledger.in_doubt(target.fingerprint, "evaluation") == 50
    budget = Budget(100, 0, images_total=60, price=0.5, in_doubt=in_doubt)
    meter = MeteredTarget(target, ledger, tmp_path / "banks", budget)
    # of fewer images than the request had, for another purpose, and with others
    given = meter.ask(IMAGES[20:80], "a", "attack")
    assert torch.equal(given, target.answer(IMAGES[20:80], "a"))
    rows = {row.purpose: row for row in spendings(ledger)}
    assert (rows["attack"].spent, rows["attack"].stored, rows["attack"].cost) == (60, 60, 30.0)
    assert rows["evaluation"].spent == 0 and find_faults(ledger) == []
    assert sum(row.in_doubt + row.failed for row in rows.values()) == 0


def test_the_door_takes_a_tenth_of_the_encoders_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor seconds of one thread, of which those of the encoder are taken out."""
    network, _ = load_encoder(ROOT / "assets/cifar10_narrow/encoder.safetensors", [])
    images = noise(5000, 1, 32)
    spent = list[float]()

    def timed(*arguments: Any) -> Tensor:
        start = time.thread_time()
        features = encode(*arguments)
        spent.append(time.thread_time() - start)
        return features

    monkeypatch.setattr(local, "encode", timed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shares = list[float]()
    try:
        for number in range(3):
            spent.clear()
            folder = tmp_path / str(number)
            features = Bank(folder / "undefended", "undefended")
            target = LocalTarget(network, Chain({}), "none", 32, features)
            ledger = Ledger(str(folder / "ledger.sqlite"))
            meter = MeteredTarget(target, ledger, folder / "banks", Budget(5000, 0))
            start = time.process_time()
            meter.ask(images, "attacker/0", "attack")
            seconds = time.process_time() - start
            shares.append((seconds - sum(spent)) / sum(spent))
            ledger.close()
    finally:
        torch.set_num_threads(threads)
    print(f"the door takes {min(shares):.3f} of the encoder's time")
    assert min(shares) < NOISE * SHARE
