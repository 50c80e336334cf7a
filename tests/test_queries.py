"""The door: counted, capped, kept, and the only way to a target."""

import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import choose
from torch import Tensor

from stealing.config import to_dict
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.defenses.chain import Chain
from stealing.encoders import build_encoder
from stealing.errors import BudgetExceeded, ConfigError, DataError
from stealing.queries.bank import Bank
from stealing.queries.digests import digests, digests_of
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Terms
from stealing.queries.selection import select
from stealing.targets.local import LocalTarget

IMAGES = torch.randint(0, 256, (40, 3, 8, 8), generator=generator("images"), dtype=torch.uint8)


def target(seed: int = 0) -> LocalTarget:
    return LocalTarget(build_encoder(to_dict(choose().arch), seed), Chain({}), "none", 8)


def door(
    folder: Path, images: int = 20, inner: LocalTarget | None = None, **limits: Any
) -> MeteredTarget:
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(
        inner or target(), ledger, folder / "banks", Budget(images, 1000, **limits)
    )


def test_a_refused_batch_is_neither_sent_nor_booked_and_the_budget_is_never_exceeded(
    tmp_path: Path,
) -> None:
    meter = door(tmp_path)
    meter.ask(IMAGES[:15], "attacker/0", "attack")
    with pytest.raises(
        BudgetExceeded, match=r"6 more .* budget.images=20, of which 5 are left: raise"
    ):
        meter.ask(IMAGES[15:21], "attacker/0", "attack")
    assert (meter.spent("attack"), meter.sent) == (15, 15)
    meter.ask(IMAGES[15:20], "attacker/0", "attack")
    assert meter.spent("attack") == 20


def test_a_request_of_which_a_part_is_stored_gets_the_stored_features_and_new_ones(
    tmp_path: Path,
) -> None:
    names = digests(IMAGES)
    plain = target().answer(IMAGES, "x")
    bank = Bank(tmp_path, "none")
    marked = plain[:5] + 1  # so that one sees where a row comes from
    bank.add(names[:5], marked)
    encoder = build_encoder(to_dict(choose().arch), 0)
    answered = LocalTarget(encoder, Chain({}), "none", 8, bank).answer(IMAGES, "x")
    assert torch.equal(answered[:5], marked) and torch.equal(answered[5:], plain[5:])


def test_nothing_is_asked_twice_neither_in_a_batch_nor_in_another_run(tmp_path: Path) -> None:
    meter = door(tmp_path)
    first = meter.ask(torch.cat([IMAGES[:10], IMAGES[:10]]), "attacker/0", "attack")
    assert (meter.spent("attack"), meter.sent) == (10, 10) and torch.equal(first[:10], first[10:])
    again = door(tmp_path)
    assert torch.equal(again.ask(IMAGES[:10].flip(0), "attacker/0", "attack"), first[:10].flip(0))
    assert (again.spent("attack"), again.sent) == (
        10,
        0,
    )  # what it would have cost alone, and what it cost now


def test_answers_are_those_of_the_target_for_exactly_the_pixels_sent(tmp_path: Path) -> None:
    inner = target()
    assert torch.equal(
        door(tmp_path, inner=inner).ask(IMAGES[:7], "attacker/0", "attack"),
        inner.answer(IMAGES, "x")[:7],
    )


def test_accounts_targets_and_purposes_are_kept_apart(tmp_path: Path) -> None:
    meter = door(tmp_path)
    meter.ask(IMAGES[:5], "attacker/0", "attack")
    meter.ask(IMAGES[:5], "honest/x", "evaluation")
    other = door(tmp_path, inner=target(1))
    other.ask(IMAGES[:5], "attacker/0", "attack")
    assert (meter.spent("attack"), meter.spent("evaluation"), meter.sent, other.sent) == (
        5,
        5,
        10,
        5,
    )


@pytest.mark.parametrize("wrong", [IMAGES.float(), IMAGES[:, :1], IMAGES[..., :4], IMAGES[0]])
def test_other_pixels_than_the_target_takes_are_refused_before_they_are_counted(
    wrong: Tensor, tmp_path: Path
) -> None:
    meter = door(tmp_path)
    with pytest.raises(DataError, match="data.size=8"):
        meter.ask(wrong, "attacker/0", "attack")
    assert meter.spent("attack") == 0


def listed(pixels: np.ndarray) -> Images:
    return Images("x", pixels, None, 0, np.arange(len(pixels)), "sum")


def test_selection_is_nested_distinct_and_keeps_away_from_the_tasks() -> None:
    pixels = IMAGES.numpy()[[*range(40), *range(10)]]
    excluded = set(digests(IMAGES[30:35]))
    few, many = (select(listed(pixels), count, 3, excluded) for count in (10, 35))
    chosen = digests_of(many)
    assert digests_of(few) == chosen[:10] and len(set(chosen)) == 35 and not set(chosen) & excluded
    assert digests_of(select(listed(pixels), 10, 4, excluded)) != digests_of(few)
    with pytest.raises(DataError, match="35 distinct ones"):
        select(listed(pixels), 36, 3, excluded)


def test_digests_tell_pixels_and_shapes_apart() -> None:
    changed = IMAGES[:1].clone()
    changed[0, 0, 0, 0] ^= 1
    assert (
        len(set(digests(IMAGES[:1]) + digests(changed) + digests(IMAGES[:1].view(1, 3, 4, 16))))
        == 3
    )


def test_a_target_is_not_changed_by_training_beside_it() -> None:
    inner = target()
    before = inner.answer(IMAGES[:3], "x")
    encoder = inner._encoder
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    for _ in range(3):
        inner.answer(IMAGES, "x")
    assert (
        torch.equal(inner.answer(IMAGES[:3], "x"), before)
        and encoder.fingerprint == inner.fingerprint
    )


class Sizes:
    """A target that answers with the images' own pixels, and remembers what it was asked."""

    fingerprint, defense_fingerprint, codec, version, is_known = "sizes", "none", "", None, True
    size, images_a_request, in_flight, deadline, pace = 8, 50, 2, 60.0, Pace()

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        return images_uint8.flatten(1)[:, :20].float()


MANY = torch.randint(0, 256, (3000, 3, 8, 8), generator=generator("many"), dtype=torch.uint8)


def banked(folder: Path, *parts: slice) -> MeteredTarget:
    ledger = Ledger(str(folder / "ledger.sqlite"))
    meter = MeteredTarget(Sizes(), ledger, folder / "banks", Budget(3000, 0))
    for part in parts:
        assert torch.equal(
            meter.ask(MANY[part], "a", "attack"), MANY[part].flatten(1)[:, :20].float()
        )
    return meter


def test_the_bank_is_a_cache_that_may_be_deleted_damaged_or_of_another_ledger(
    tmp_path: Path,
) -> None:
    meter = banked(tmp_path, slice(0, 1000), slice(500, 2000), slice(1900, 3000), slice(0, 3000))
    assert meter.sent == 3000
    [folder] = (tmp_path / "banks").iterdir()
    shards = sorted(path for path in folder.iterdir() if path.suffix == ".features")
    assert sum(path.stat().st_size for path in shards) == 3000 * 20 * 4, "each answer is there once"
    assert len(shards) <= 2, "small shards became one"
    whole = shards[0].read_bytes()
    for damage in (
        lambda: shards[0].write_bytes(whole[:-3]),
        lambda: (folder / "index.json").write_text("{"),
        lambda: shutil.rmtree(folder),
    ):
        damage()
        assert banked(tmp_path, slice(0, 3000)).sent == 0, (
            "copied from the ledger again, and paid for never"
        )
    (tmp_path / "ledger.sqlite").unlink()
    for path in tmp_path.glob("ledger.sqlite-*"):
        path.unlink()
    assert banked(tmp_path, slice(0, 3000)).sent == 3000, (
        "the bank of a ledger that is gone is no proof of payment"
    )


def test_one_repeat_more_is_one_answer_more_and_charged(tmp_path: Path) -> None:
    meter = banked(tmp_path, slice(0, 5))
    meter.ask(MANY[:5], "a", "attack", repeat=1, view="crop")
    meter.ask(MANY[:5], "a", "attack", repeat=1)
    assert (meter.sent, meter.spent("attack")) == (10, 10)


def test_threads_that_share_a_ledger_ask_for_each_image_once(tmp_path: Path) -> None:
    sent: list[int] = []

    def ask(start: int) -> None:
        sent.append(banked(tmp_path, slice(start, start + 1500)).sent)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 500, 1000, 1500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 4 and sum(sent) == 3000


def test_a_refused_ask_gives_back_the_requests_in_doubt_that_it_met(tmp_path: Path) -> None:
    """They were adopted for an ask that did not fit: nobody may wait for their lease to run out."""
    dying = Ledger(str(tmp_path / "ledger.sqlite"))
    source = dying.source("sizes", "none", "a", "", 8)
    batches = [(digests(MANY[:5]), MANY[:5])]
    dying.reserve(source, batches, Terms("attack", "raw", 0, 0.0), lease=60.0, pace=Pace())
    dying.close()
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    meter = MeteredTarget(Sizes(), ledger, tmp_path / "banks", Budget(3000, 0, images_total=10))
    with pytest.raises(BudgetExceeded):
        meter.ask(MANY[:20], "a", "attack")
    start = time.monotonic()
    meter.ask(MANY[:10], "a", "attack")
    assert time.monotonic() - start < 5 and ledger.spent("sizes", "attack") == 10


@pytest.mark.parametrize("method", ["reserve", "store"])
def test_ctrl_c_amid_the_books_leaves_nothing_in_doubt(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the second request was booked and not sent, or when the first was answered and
    not stored."""
    inner = target()
    monkeypatch.setattr(inner, "images_a_request", 8)
    meter, original, calls = door(tmp_path, inner=inner), getattr(Ledger, method), list[int]()

    def struck(self: Ledger, *args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if method == "store" and len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        done = original(self, *args, **options)
        if method == "reserve" and len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, method, struck)
        with pytest.raises(KeyboardInterrupt):
            meter.ask(IMAGES[:20], "attacker/0", "attack")
    row, _ = spendings(Ledger(str(tmp_path / "ledger.sqlite")))
    assert row.in_doubt == 0 and row.spent == row.stored in (8, 16), (
        "the second was sent or taken back"
    )
    again = door(tmp_path, inner=inner)
    assert torch.equal(
        again.ask(IMAGES[:20], "attacker/0", "attack"), inner.answer(IMAGES[:20], "x")
    )
    assert again.sent == 20 - row.stored


def test_in_doubt_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match="resend, forfeit"):
        Budget(1, 1, in_doubt="hope")
