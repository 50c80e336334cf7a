"""What the door buys, for whom, at what price and under which key; who waits for whom when requests
fail."""

import threading
import time
from pathlib import Path

import pytest
import torch
from fakes import IMAGES, SIZE, Bar, Fake, Remembering, door, left_open, truth
from torch import Tensor

from stealing.errors import BudgetExceeded, Refused, TargetError
from stealing.queries import door as doors
from stealing.queries import purchase
from stealing.queries.database import SQLite
from stealing.queries.digests import digests
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.waiting import NotServed


def test_a_repeat_returns_its_own_answer_however_many_images_there_are(tmp_path: Path) -> None:
    meter = door(tmp_path, Fake(images_a_request=700))
    for count in (40, 600):
        for repeat in (0, 1, 2, 1, 0):
            given = meter.ask(IMAGES[:count], "a", "attack", repeat=repeat)
            assert torch.equal(given, truth(IMAGES[:count], repeat + 1))
    assert meter.sent == meter.spent("attack") == 3 * 600


@pytest.mark.parametrize("change", ["fingerprint", "defense_fingerprint", "codec", "account"])
def test_answers_of_another_target_defense_codec_or_account_are_never_mixed(
    change: str, tmp_path: Path
) -> None:
    target = Fake(images_a_request=700)
    meter = door(tmp_path, target)
    assert torch.equal(meter.ask(IMAGES[:500], "a", "attack"), truth(IMAGES[:500]))
    account = "b" if change == "account" else "a"
    if change != "account":
        setattr(target, change, "another")
        meter = door(tmp_path, target)
    assert torch.equal(meter.ask(IMAGES[:500], account, "attack"), truth(IMAGES[:500], 2))


def test_the_identity_of_answers_names_target_defense_and_a_codec_if_there_is_one(
    tmp_path: Path,
) -> None:
    assert door(tmp_path, Fake()).identity == "fake/none"
    assert door(tmp_path, Fake(codec="jpeg")).identity == "fake/none/jpeg"
    assert door(tmp_path, Fake(fingerprint="f", defense_fingerprint="d")).identity == "f/d"


def test_answers_are_copied_into_a_bank_from_500_images_on_and_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "PAGE", 150)
    few, many = (door(tmp_path / str(count), Fake(images_a_request=90)) for count in (499, 500))
    assert torch.equal(few.ask(IMAGES[:499], "a", "attack"), truth(IMAGES[:499]))
    assert not list((tmp_path / "499" / "banks").glob("*/*.features"))
    assert torch.equal(many.ask(IMAGES[:500], "a", "attack"), truth(IMAGES[:500]))
    both = torch.cat([IMAGES[:500], IMAGES[:20]])
    files = list((tmp_path / "500" / "banks").glob("*/*.features"))
    assert sum(path.stat().st_size for path in files) == 500 * 3 * SIZE * SIZE * 4
    again = door(tmp_path / "500", Fake())
    assert torch.equal(again.ask(both.flip(0), "a", "attack"), truth(both.flip(0)))
    assert (again.sent, again.spent("attack")) == (0, 500)
    assert torch.equal(again.ask(IMAGES[400:600], "a", "attack"), truth(IMAGES[400:600])), (
        "some of it is new"
    )


def test_answers_of_half_precision_come_back_as_float32(tmp_path: Path) -> None:
    meter = door(tmp_path, Fake(half=True))
    for _ in range(2):
        given = meter.ask(IMAGES[:5], "a", "attack")
        assert given.dtype == torch.float32 and torch.equal(given, truth(IMAGES[:5]).half().float())


def test_every_purpose_has_a_cap_of_its_own_over_all_runs_and_one_for_this_run(
    tmp_path: Path,
) -> None:
    meter = door(tmp_path, Fake(), images=10, evaluation=6, images_total=12, evaluation_total=7)
    meter.ask(IMAGES[:10], "a", "attack")
    meter.ask(IMAGES[:6], "h", "evaluation")
    for purpose, setting, count in (("attack", "images=10", 10), ("evaluation", "evaluation=6", 6)):
        with pytest.raises(
            BudgetExceeded, match=rf"1 more images .*budget\.{setting}, of which 0 are left: raise"
        ):
            meter.ask(IMAGES[20:21], "a", purpose)  # type: ignore[arg-type]
        assert meter.spent(purpose) == count  # type: ignore[arg-type]
    later = door(tmp_path, Fake(), images_total=12, evaluation_total=7)
    for account, purpose, free in (("a", "attack", 2), ("h", "evaluation", 1)):
        with pytest.raises(
            BudgetExceeded,
            match=rf"{free + 1} more .* {purpose} exceed the {free} that are left to all",
        ):
            later.ask(IMAGES[20 : 21 + free], account, purpose)  # type: ignore[arg-type]
        later.ask(IMAGES[40 : 40 + free], account, purpose)  # type: ignore[arg-type]
    assert [(row.purpose, row.total, row.spent) for row in spendings(later._ledger)] == [
        ("attack", 12, 12),
        ("evaluation", 7, 7),
    ]
    target = Fake()
    later._ledger.allow("fake", "attack", 17)
    with pytest.raises(
        BudgetExceeded, match="20 more images .* 5 that are left to all runs together: send fewer"
    ):
        door(tmp_path, target).ask(IMAGES[100:120], "a", "attack")
    assert target.requests == [], "not even the first, which would fit"


def test_each_image_is_booked_at_its_price_with_its_purpose_and_view(tmp_path: Path) -> None:
    meter = door(tmp_path, Fake(), price=0.25)
    meter.ask(IMAGES[:8], "a", "attack", view="crop 1")
    meter.ask(IMAGES[:3], "h", "evaluation", repeat=2)
    costs = {row.purpose: row.cost for row in spendings(meter._ledger)}
    assert costs == {"attack": 2.0, "evaluation": 0.75}
    rows = meter._ledger.database.read(
        "SELECT DISTINCT purpose, view, repeat, cost FROM queries ORDER BY 1"
    )
    assert rows == [("attack", "crop 1", 0, 0.25), ("evaluation", "raw", 2, 0.25)]
    assert (meter.spent("attack"), meter.spent("evaluation"), meter.in_doubt()) == (8, 3, 0)


@pytest.mark.timeout(30)
def test_of_a_target_that_stops_only_stored_answers_count_and_no_reserved_image(
    tmp_path: Path,
) -> None:
    other, _ = left_open(tmp_path, 5, alive=True)
    meter = door(tmp_path, Fake(images_a_request=5, faults={1: Refused("Enough.")}))
    given, there = meter.ask_what_is_answered(IMAGES[:20], "a", "attack", view="v")
    assert there.tolist() == [False] * 5 + [True] * 5 + [False] * 10
    assert torch.equal(given, truth(IMAGES[5:10])) and meter.spent("attack") == 5
    assert meter._ledger.spent("fake", "attack") == 10, (
        "what another process reserved is its own affair"
    )
    other.close()
    nothing = door(tmp_path, Fake(faults={0: Refused("Enough.")}))
    with pytest.raises(Refused):
        nothing.ask_what_is_answered(IMAGES[50:60], "a", "attack")
    assert nothing.spent("attack") == 0
    given, there = nothing.ask_what_is_answered(IMAGES[50:60], "a", "attack", view="v", repeat=1)
    assert there.all() and torch.equal(given, truth(IMAGES[50:60]))
    assert nothing._ledger.database.read(
        "SELECT DISTINCT view FROM queries WHERE state = 'stored'"
    ) == [("v",)]


@pytest.mark.parametrize(("in_doubt", "spent", "cost"), [("resend", 12, 6.0), ("forfeit", 17, 8.5)])
def test_a_request_in_doubt_is_sent_again_under_its_key_or_given_up_and_asked_anew(
    in_doubt: str, spent: int, cost: float, tmp_path: Path
) -> None:
    _, lost = left_open(tmp_path, 5)
    target = Fake()
    meter = door(tmp_path, target, price=0.5, in_doubt=in_doubt)
    assert meter.in_doubt() == 5
    wanted = IMAGES[[14, 3, 2, 13, 4, 1, 0, 12, 11, 10, 15, 16]]
    assert torch.equal(meter.ask(wanted, "a", "attack"), truth(wanted))
    keys = {key for _, key, _ in target.requests}
    assert (lost.idempotency in keys) == (in_doubt == "resend") and set(target.asked.values()) == {
        1
    }
    order = digests(wanted)
    if in_doubt == "resend":
        order = lost.digests + [name for name in order if name not in lost.digests]
    assert list(target.asked) == order, "as a run that was never stopped would ask"
    row = spendings(meter._ledger)[0]
    assert (row.spent, row.stored, row.in_doubt, row.cost) == (spent, 12, 0, cost)
    assert meter.sent == 12 and find_faults(meter._ledger) == []


def test_requests_are_full_and_as_many_side_by_side_as_allowed_on_leases_that_outlast_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Fake(images_a_request=10, in_flight=3, together=3)
    monkeypatch.setattr(SQLite, "now", lambda self: 1000.0)
    bars: list[Bar] = []
    monkeypatch.setattr(
        purchase, "QueryProgress", lambda *terms: bars.append(Bar(*terms)) or bars[-1]
    )
    meter, threads = door(tmp_path, target, price=0.25), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert torch.equal(meter.ask(IMAGES[:75], "a/1", "attack"), truth(IMAGES[:75]))
    finally:
        torch.set_num_threads(threads)
    assert sorted(size for _, _, size in target.requests) == [5] + [10] * 7
    assert len({key for _, key, _ in target.requests}) == 8 and {
        who for who, _, _ in target.requests
    } == {"a/1"}
    assert target.most_beside == 3 and target.threads == {threads + 1}
    leases = meter._ledger.database.read("SELECT DISTINCT lease FROM requests")
    assert leases == [(1060.0,)], "ten seconds more than the deadline"
    [bar] = bars
    assert (bar.purpose, bar.total, bar.price) == ("attack", 75, 0.25)
    assert bar.told[0] == (0, 1) and bar.told[-1] == (75, 0), "images and requests in flight"


def test_a_request_waits_for_its_turn(tmp_path: Path) -> None:
    target = Fake(in_flight=4, images_a_request=2, pace=Pace(requests=10))
    start = time.time()
    door(tmp_path, target).ask(IMAGES[:8], "a", "attack")
    waited = [moment - start for moment in sorted(target.moments)]
    assert all(each > 0.1 * number for number, each in enumerate(waited)) and waited[-1] < 5


def test_what_was_surely_not_served_is_taken_back_and_anything_else_is_in_doubt(
    tmp_path: Path,
) -> None:
    served = NotServed()
    served.__cause__ = TargetError("It said no.")
    target = Fake(faults={1: served})
    meter = door(tmp_path, target, price=0.5)
    with pytest.raises(TargetError, match="It said no"):
        meter.ask(IMAGES[:24], "a", "attack")
    assert (meter._ledger.spent("fake", "attack"), meter.in_doubt()) == (8, 0)
    broken = Fake(faults={0: TargetError("It broke.")}, in_flight=2, together=2)
    other = door(tmp_path, broken)
    with pytest.raises(TargetError, match="It broke"):
        other.ask(IMAGES[100:140], "a", "attack")
    kept = sum(broken.asked.values())
    assert other.in_doubt() == 8 <= kept and other._ledger.spent("fake", "attack") == 8 + 8 + kept
    start = time.monotonic()
    assert torch.equal(other.ask(IMAGES[100:140], "a", "attack"), truth(IMAGES[100:140]))
    assert time.monotonic() - start < 5 and other.in_doubt() == 0
    assert broken.requests[0][1] in [key for _, key, _ in broken.requests[2:]], "under its old key"
    assert other.sent == 40 - kept, "what was beside the broken one was kept"


def test_a_target_that_remembers_has_the_last_word_and_what_it_refuses_is_taken_back(
    tmp_path: Path,
) -> None:
    assert torch.equal(
        door(tmp_path, Remembering()).ask(IMAGES[:8], "a", "attack"), truth(IMAGES[:8])
    )
    meter = door(tmp_path, Remembering())
    assert meter.remembers and not door(tmp_path, Fake()).remembers
    with pytest.raises(Refused, match="a had enough"):
        meter.ask(IMAGES[8:40], "a", "attack")
    given, there = meter.ask_what_is_answered(IMAGES[:40], "a", "attack")
    assert there.tolist() == [True] * 24 + [False] * 16
    assert torch.equal(
        given, truth(IMAGES[:24]) + 0.25 * torch.arange(3).repeat_interleave(8)[:, None]
    )
    assert (meter.in_doubt(), meter._ledger.spent("fake", "attack"), meter.sent) == (0, 24, 0)
    assert torch.equal(meter.ask(IMAGES[:8], "b", "attack"), truth(IMAGES[:8])), (
        "another account begins anew"
    )


def test_an_answer_that_cannot_be_kept_is_in_doubt(tmp_path: Path) -> None:
    target = Fake()
    door(tmp_path, target).ask(IMAGES[:8], "a", "attack")
    target.version = "8"
    meter = door(tmp_path, target)
    with pytest.raises(TargetError, match="version 8"):
        meter.ask(IMAGES[8:16], "a", "attack")
    assert meter.in_doubt() == 8 and meter._ledger.spent("fake", "attack") == 16


@pytest.mark.timeout(30)
def test_images_that_another_process_is_asking_about_are_waited_for_and_not_asked_again(
    tmp_path: Path,
) -> None:
    other, open_ = left_open(tmp_path, 5, alive=True)
    source = other.source("fake", "none", "a", "", SIZE)
    timer = threading.Timer(0.3, lambda: other.store(source, [(open_, truth(IMAGES[:5], 9))], "7"))
    timer.start()
    target = Fake()
    meter = door(tmp_path, target)
    given = meter.ask(IMAGES[:12], "a", "attack")
    timer.join()
    assert torch.equal(given, torch.cat([truth(IMAGES[:5], 9), truth(IMAGES[5:12])]))
    assert (meter.sent, sum(target.asked.values()), meter.spent("attack")) == (7, 7, 12)


@pytest.mark.timeout(30)
def test_images_that_another_process_gives_up_are_asked_about(tmp_path: Path) -> None:
    other, open_ = left_open(tmp_path, 5, alive=True)
    source = other.source("fake", "none", "a", "", SIZE)
    timer = threading.Timer(0.3, lambda: other.release(source, open_))
    timer.start()
    meter = door(tmp_path, Fake())
    assert torch.equal(meter.ask(IMAGES[:12], "a", "attack"), truth(IMAGES[:12]))
    timer.join()
    assert (meter.sent, meter._ledger.spent("fake", "attack")) == (12, 12)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("deed", ["release", "forfeit"])
def test_images_of_a_request_that_another_process_took_over_and_gave_up_are_asked_about_again(
    deed: str, tmp_path: Path
) -> None:
    """The answer of the process that was given up comes after its lease."""

    class Slow(Fake):
        def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
            if not self.requests:
                other = Ledger(str(tmp_path / "ledger.sqlite"))
                [(request,)] = other.database.read("SELECT id FROM requests")
                with other.database.transaction() as execute:
                    execute("UPDATE requests SET lease = 0")
                source = other.source("fake", "none", "a", "", SIZE)
                [late] = other.adopt(source, {request}, 60.0)
                other.release(source, late) if deed == "release" else other.forfeit(late)
                other.close()
            return super().answer(images_uint8, account, idempotency)

    meter = door(tmp_path, Slow())
    assert torch.equal(meter.ask(IMAGES[:5], "a", "attack"), truth(IMAGES[:5], 2))
    assert meter._ledger.spent("fake", "attack") == (5 if deed == "release" else 10)
    assert find_faults(meter._ledger) == []
