"""An answer that holds NaN or infinity is not sold, not billed and not stored."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pair
import pytest
import torch
from serving import SIZE, noise, save_trivial, served, wires
from test_queries import IMAGES
from test_service import raw
from torch import Tensor

from stealing.defenses.chain import Chain, QueryBatch, StatefulDefense
from stealing.encoders import Encoder, load_encoder, save_encoder
from stealing.errors import TargetError
from stealing.queries.bank import Bank
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.service.accounts import Books
from stealing.service.batching import Batcher, PendingRequest
from stealing.service.errors import ApiError
from stealing.targets.local import LocalTarget


class Spoils:
    """A defense that makes a number of each answer NaN."""

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        spoilt = features_BD.clone()
        spoilt[:, -1] = torch.nan
        return spoilt


class SpoilsLater(StatefulDefense):
    """A defense that remembers how much an account asked, and spoils all beyond 8 images."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        self.asked[asked.account] += len(features_BD)
        return Spoils().answer(features_BD, asked) if self.asked[asked.account] > 8 else features_BD

    def load(self, account: str, memory: bytes | None) -> None:
        self.asked[account] = int(memory or 0)

    def dump(self, account: str) -> bytes:
        return str(self.asked[account]).encode()


def overflowing() -> Encoder:
    """An encoder of finite weights whose activations overflow."""
    encoder = pair.encoder(normed=False)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1e30)
    return encoder


@pytest.mark.parametrize(
    ("encoder", "defense", "sold"),
    [
        (pair.encoder(normed=False), Spoils(), 0),
        (pair.encoder(normed=False), SpoilsLater(), 8),
        (overflowing(), SpoilsLater(), 0),
        (overflowing(), None, 0),
    ],
    ids=["stateless defense", "stateful defense", "overflow behind one", "overflow"],
)
def test_the_door_returns_counts_and_stores_no_answer_that_is_not_finite(
    encoder: Encoder, defense: Any, sold: int, tmp_path: Path
) -> None:
    kept = Bank(tmp_path / "undefended", "undefended")
    chain = Chain({"spoils": defense} if defense else {})
    target = LocalTarget(encoder, chain, "a defense", 8, kept)
    target.images_a_request = 8
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    door = MeteredTarget(target, ledger, tmp_path / "banks", Budget(40, 0))
    with pytest.raises(TargetError, match=r"numbers that are not finite for 8 of 8 images"):
        door.ask(IMAGES, "attacker/0", "attack")
    row = spendings(ledger)[0]  # of the attack
    assert (row.spent, row.stored, row.in_doubt, row.failed) == (sold, sold, 0, 0)
    assert find_faults(ledger) == []
    rows, _ = kept.find(digests(IMAGES))
    assert rows.isfinite().all()
    if sold:
        again = MeteredTarget(target, ledger, tmp_path / "banks", Budget(40, 0))
        assert again.ask(IMAGES[:sold], "attacker/0", "attack").isfinite().all()


def encode(images: Tensor) -> Tensor:
    """Features that are infinite for an image whose first pixel is white."""
    features = images.float().mean((2, 3))
    features[images[:, 0, 0, 0] == 255] = torch.inf
    return features


def test_a_service_bills_and_stores_no_answer_that_is_not_finite_and_answers_the_rest_of_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books = Books(str(tmp_path / "books.sqlite"))
    for name in ("good", "bright", "greedy"):
        books.add(name, None, None, 1.0)
    dark = noise(8).clamp(max=254)
    bright = dark.clone()
    bright[3] = 255

    async def asked(**jobs: Tensor) -> list[Any]:
        chain = Chain({"spoils": SpoilsLater()})
        options = {"most": 64, "window": 0.05, "queue": 100, "threads": 1}
        batcher = Batcher(encode, chain, "v", books, **options)
        running = asyncio.create_task(batcher.run())
        made = [
            PendingRequest(name, f"key of {name}", b"body", images, digests(images))
            for name, images in jobs.items()
        ]
        got = await asyncio.gather(*(batcher.answer(job) for job in made), return_exceptions=True)
        running.cancel()
        batcher.close()
        return got

    twice = torch.cat([dark, dark])
    good, overflow, spoilt = asyncio.run(asked(good=dark, bright=bright, greedy=twice))
    assert good.isfinite().all()
    for refused in (overflow, spoilt):
        assert isinstance(refused, ApiError) and refused.status == 500
        assert "not billed" in refused.message
    assert {one.name: one.billed for one in books.all()} == {"good": 8, "bright": 0, "greedy": 0}
    [(account,)] = books.database.read("SELECT account FROM memories")
    assert account == "good"
    said = capsys.readouterr().out
    assert "The encoder gives numbers" in said and "The defense gives numbers" in said
    [later] = asyncio.run(asked(bright=dark))
    assert later.isfinite().all(), "the key was not used up"


def test_a_client_gets_one_counted_failure_in_json_for_an_encoder_that_overflows(
    tmp_path: Path,
) -> None:
    path = save_trivial(tmp_path)
    network, card = load_encoder(path, ["serving"])
    network.state_dict()["backbone.matrix"].mul_(5e37)  # a sum of 48 of them is too large
    save_encoder(network, path, arch=card["arch"], size=card["size"], provenance={})
    white = torch.full((2, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    grey = torch.full((2, 3, SIZE, SIZE), 127, dtype=torch.uint8)
    with served(tmp_path, encoder=path) as service:
        refused = raw(service, white)
        assert refused.status_code == 500
        assert "not finite" in refused.json()["error"]["message"]
        assert service.billed() == 0
        text = httpx2.get(service.url + "/metrics").text
        assert 'route="/v1/raw",status="500"} 1.0' in text
        assert raw(service, grey).status_code == 200 and service.billed() == 2


def test_no_request_of_ours_holds_a_number_that_json_has_not() -> None:
    wire = wires()["openai float"]
    wire.body = {**wire.body, "scale": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.request(noise(1), "key")
