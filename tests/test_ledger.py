"""The ledger's laws, over both of its back ends: counted before it is sent, kept when it is
answered, never twice."""

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import postgres
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import FORKS, ROOT
from serving import noise
from torch import Tensor

from stealing.errors import BudgetExceeded, DataError, LedgerError, Refused, TargetError
from stealing.queries.digests import digests
from stealing.queries.import_answers import record
from stealing.queries.inspection import export, find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Purpose, Reservation, Source, Terms
from stealing.targets.recording import Recording

IMAGES = noise(60)
NAMES = digests(IMAGES)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    return postgres.database(request.getfixturevalue("server"))


def source(ledger: Ledger, account: str = "attacker/0") -> Source:
    return ledger.source("target", "none", account, "", 8)


def reserve(
    ledger: Ledger,
    *parts: slice,
    pace: Pace | None = None,
    lease: float = 60.0,
    purpose: Purpose = "attack",
) -> list[Reservation]:
    batches = [(NAMES[part], IMAGES[part]) for part in parts]
    terms = Terms(purpose, "raw", 0, 0.5)
    return ledger.reserve(source(ledger), batches, terms, lease=lease, pace=pace or Pace())


def features(reservation: Reservation, width: int = 5) -> Tensor:
    return reservation.images.float().mean((1, 2, 3))[:, None] * torch.arange(1, width + 1)


def store(ledger: Ledger, *reservations: Reservation) -> None:
    ledger.store(source(ledger), [(each, features(each)) for each in reservations], None)


def test_what_is_reserved_is_counted_at_once_and_what_is_stored_comes_back_bit_for_bit(
    place: str,
) -> None:
    ledger = Ledger(place)
    first, second = reserve(ledger, slice(0, 10), slice(10, 25))
    assert ledger.spent("target", "attack") == 25 and first.idempotency != second.idempotency
    store(ledger, first, second)
    order = [*range(24, -1, -1)]
    back = ledger.read(source(ledger), [NAMES[place] for place in order], 0)
    assert torch.equal(back, torch.cat([features(first), features(second)])[order])
    half = reserve(ledger, slice(30, 33))[0]
    ledger.store(source(ledger), [(half, features(half).half())], None)
    assert ledger.read(source(ledger), half.digests, 0).dtype == torch.float16
    assert find_faults(ledger) == []


def test_the_total_is_never_exceeded_and_a_refused_request_leaves_no_trace(place: str) -> None:
    ledger = Ledger(place)
    ledger.allow("target", "attack", 20)
    reserve(ledger, slice(0, 15))
    with pytest.raises(BudgetExceeded, match="6 more images .* 5 that are left"):
        reserve(ledger, slice(15, 18), slice(18, 21))
    assert (
        ledger.spent("target", "attack") == 15
        and len(ledger.states(source(ledger), NAMES, 0)) == 15
    )
    reserve(ledger, slice(15, 20))
    with pytest.raises(BudgetExceeded, match="20 images were sent"):
        ledger.allow("target", "attack", 19)
    with (
        pytest.raises(LedgerError, match="cannot be used"),
        ledger.database.transaction() as execute,
    ):
        execute("UPDATE budgets SET spent = 21")  # the database itself refuses


def test_an_image_is_reserved_by_one_process_only(place: str) -> None:
    ours, theirs = Ledger(place), Ledger(place)
    reserve(ours, slice(0, 10))
    [rest] = reserve(theirs, slice(5, 15))
    assert rest.digests == NAMES[10:15] and ours.spent("target", "attack") == 15


def test_a_request_in_doubt_is_adopted_whole_with_its_key_and_a_live_one_is_not(place: str) -> None:
    dying, living = Ledger(place), Ledger(place)
    [sent] = reserve(dying, slice(0, 10))
    assert (
        living.adopt(source(living), {sent.request}, 60) == []
        and living.in_doubt("target", "attack") == 0
    )
    dying.close()
    assert living.in_doubt("target", "attack") == 10
    [found] = living.adopt(source(living), {sent.request}, 60)
    assert (found.idempotency, found.digests) == (sent.idempotency, sent.digests)
    assert torch.equal(found.images, sent.images) and living.spent("target", "attack") == 10
    store(living, found)
    assert living.in_doubt("target", "attack") == 0 and find_faults(living) == []


def test_an_adopted_request_names_each_image_rightly_even_one_that_was_given_up_before(
    place: str,
) -> None:
    """Its row is older than those of the images before it in the request."""
    dying, living = Ledger(place), Ledger(place)
    [lost] = reserve(dying, slice(3, 4))
    dying.forfeit(lost)
    [sent] = reserve(dying, slice(0, 6))
    dying.close()
    [found] = living.adopt(source(living), {sent.request}, 60)
    assert found.digests == sent.digests == digests(found.images)


@pytest.mark.parametrize("is_served", [True, False])
def test_an_image_is_counted_for_the_purpose_that_its_row_names_whoever_asks_again(
    is_served: bool, place: str
) -> None:
    ledger = Ledger(place)
    [lost] = reserve(ledger, slice(2, 6), purpose="evaluation")
    ledger.forfeit(lost)
    [again] = reserve(ledger, slice(0, 4))
    if is_served:
        store(ledger, again)
    else:
        ledger.release(source(ledger), again)
    assert ledger.spent("target", "attack") == 2 * is_served
    assert ledger.spent("target", "evaluation") == 4 + 2 * is_served
    assert find_faults(ledger) == []


def test_a_lease_that_ran_out_is_adopted_and_its_late_answer_is_left_to_who_adopted_it(
    place: str,
) -> None:
    slow, quick = Ledger(place), Ledger(place)
    [sent] = reserve(slow, slice(0, 4), lease=-1)
    [found] = quick.adopt(source(quick), {sent.request}, 60)
    slow.store(source(slow), [(sent, features(sent) + 1)], None)
    assert quick.states(source(quick), NAMES[:4], 0)[NAMES[0]][0] == "reserved"
    store(quick, found)
    store(slow, sent)  # later still: nothing happens
    assert (
        torch.equal(quick.read(source(quick), NAMES[:4], 0), features(found))
        and find_faults(quick) == []
    )


def test_a_forfeited_request_stays_counted_and_its_images_are_counted_again(place: str) -> None:
    ledger = Ledger(place)
    [lost] = reserve(ledger, slice(0, 4))
    ledger.forfeit(lost)
    [again] = reserve(ledger, slice(0, 6))
    assert ledger.spent("target", "attack") == 10 and again.idempotency != lost.idempotency
    store(ledger, again)
    [row] = spendings(ledger)
    assert (row.spent, row.stored, row.failed, row.cost) == (10, 6, 4, 5.0) and find_faults(
        ledger
    ) == []


def test_a_request_that_was_surely_not_served_is_not_counted(place: str) -> None:
    ledger = Ledger(place)
    [lost] = reserve(ledger, slice(0, 4))
    ledger.forfeit(lost)
    [refused] = reserve(ledger, slice(0, 6))
    ledger.release(source(ledger), refused)
    ledger.release(source(ledger), refused)  # twice does nothing more
    [row] = spendings(ledger)
    assert (row.spent, row.failed, row.cost) == (4, 4, 2.0) and find_faults(ledger) == []
    store(ledger, *reserve(ledger, slice(0, 6)))
    assert ledger.spent("target", "attack") == 10 and find_faults(ledger) == []


def test_another_width_or_version_stops_and_keeps_what_was_bought(place: str) -> None:
    ledger = Ledger(place)
    first, second = reserve(ledger, slice(0, 4), slice(4, 8))
    ledger.store(source(ledger), [(first, features(first))], "1")
    with pytest.raises(
        TargetError, match="has 4 numbers and is of version 1, and earlier answers have 5"
    ):
        ledger.store(source(ledger), [(second, features(second, 4))], "1")
    with pytest.raises(TargetError, match=r"version 2, .* of version 1: .*target.remote.version="):
        ledger.store(source(ledger), [(second, features(second))], "2")
    assert torch.equal(ledger.read(source(ledger), NAMES[:4], 0), features(first))
    with pytest.raises(LedgerError, match="data.size=8"):
        ledger.source("target", "none", "attacker/0", "", 16)


def test_a_pace_holds_over_all_that_share_the_ledger(place: str) -> None:
    one, two = Ledger(place), Ledger(place)
    now, pace = time.monotonic(), Pace(images=10, requests=2)
    starts = [
        reserve(one, slice(0, 10), pace=pace),
        reserve(two, slice(10, 12), slice(12, 14), pace=pace),
    ]
    moments = [each.due - now for part in starts for each in part]
    assert moments == pytest.approx([0, 1, 1.5], abs=0.5) and moments[2] - moments[
        1
    ] == pytest.approx(0.5)


def test_whatever_happens_in_whatever_order_the_counts_add_up(place: str) -> None:
    dice, ledgers = random.Random(0), [Ledger(place), Ledger(place)]
    ledgers[0].allow("target", "attack", 70)
    flying: list[tuple[Ledger, Reservation]] = []
    for _ in range(120):
        ledger, start = dice.choice(ledgers), dice.randrange(55)
        deed = dice.choice(
            ["reserve", "reserve", "store", "mark_in_doubt", "adopt", "forfeit", "release"]
        )
        if deed == "reserve":
            try:
                flying += [
                    (ledger, each)
                    for each in reserve(ledger, slice(start, start + dice.randrange(1, 6)))
                ]
            except BudgetExceeded:
                assert ledger.left("target", "attack") < 5
        elif deed == "adopt":
            flying += [
                (ledger, each) for each in ledger.adopt(source(ledger), set(range(1, 60)), 60)
            ]
        elif flying:
            owner, reservation = dice.choice(flying)
            getattr(owner, deed)(
                *(
                    [source(owner), [(reservation, features(reservation))], None]
                    if deed == "store"
                    else [source(owner), reservation]
                    if deed == "release"
                    else [reservation]
                )
            )
        assert 0 <= ledger.spent("target", "attack") <= 70
    assert find_faults(ledgers[0]) == []


def test_a_ledger_that_was_tampered_with_is_found_out(place: str) -> None:
    ledger = Ledger(place)
    store(ledger, *reserve(ledger, slice(0, 4)))
    with ledger.database.transaction() as execute:
        execute("UPDATE queries SET answer = ? WHERE digest = ?", (b"x" * 20, NAMES[0]))
        execute("UPDATE budgets SET spent = 9")
    assert len(find_faults(ledger)) == 2
    with pytest.raises(LedgerError, match="damaged"):
        ledger.read(source(ledger), NAMES[:4], 0)


def test_an_export_is_a_recording_that_answers_alike_and_costs_nothing(
    place: str, tmp_path: Path
) -> None:
    ledger = Ledger(place)
    store(ledger, *reserve(ledger, slice(0, 10)))
    assert export(ledger, tmp_path / "all.parquet") == 10
    assert record(ledger, tmp_path / "all.parquet", "copy", None) == 10
    assert ledger.spent("target", "attack") == 10 and find_faults(ledger) == []
    assert torch.equal(
        Recording(place, "copy", 8).answer(IMAGES[:10], "anyone"), features(reserve_of(0, 10))
    )
    with pytest.raises(DataError, match="already"):
        record(ledger, tmp_path / "all.parquet", "copy", None)


def reserve_of(start: int, stop: int) -> Reservation:
    return Reservation(0, "", NAMES[start:stop], IMAGES[start:stop], 0.0)


def test_a_recording_may_hold_pictures(tmp_path: Path) -> None:
    from stealing.targets.wire import encode_image

    vectors = [[float(row), 1.0] for row in range(5)]
    table = pa.table(
        {
            "image": [{"bytes": encode_image(image, "png")} for image in IMAGES[:5]],
            "vector": vectors,
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    place = str(tmp_path / "ledger.sqlite")
    with pytest.raises(DataError, match="--size"):
        record(Ledger(place), tmp_path / "r.parquet", "r", None)
    assert record(Ledger(place), tmp_path / "r.parquet", "r", 8) == 5
    assert Recording(place, "r", 8).answer(IMAGES[:5], "x").tolist() == vectors


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return FORKS.run(["-m", "stealing.queries", *arguments], ROOT, dict(os.environ))


def test_the_command_shows_verifies_and_exports(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(place)
    store(ledger, *reserve(ledger, slice(0, 10)))
    ledger.forfeit(reserve(ledger, slice(10, 12))[0])
    shown = run("--ledger", place, "show").stdout
    assert "attack" in shown and "12" in shown and "6.00" in shown
    assert run("--ledger", place, "verify").returncode == 0
    assert "10 answers" in run("--ledger", place, "export", str(tmp_path / "all.parquet")).stdout
    with ledger.database.transaction() as execute:
        execute("UPDATE budgets SET spent = 9")
    assert run("--ledger", place, "verify").returncode == 1
    absent = run("--ledger", str(tmp_path / "none"), "show")
    assert (
        absent.returncode == 1
        and absent.stderr.startswith("LedgerError")
        and len(absent.stderr.splitlines()) == 1
    )


def test_a_ledger_that_is_none_and_a_password_in_its_place_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no database at all, whatever its name says" * 100)
    with pytest.raises(LedgerError, match="repair it or restore a copy"):
        Ledger(str(tmp_path / "file"))
    with pytest.raises(LedgerError, match="PGPASSWORD"):
        Ledger("postgresql://me:secret@nowhere/x")


def test_a_defense_that_remembers_answers_as_if_nobody_had_been_killed(tmp_path: Path) -> None:
    answers = dict[str, list[Tensor]]()
    for name, kills in (("killed", "16"), ("whole", "0")):
        (tmp_path / name).mkdir()
        line = [sys.executable, "tests/guarded.py", str(tmp_path / name), kills]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and int(done.stdout) >= int(kills), done.stderr
        answers[name] = [torch.load(tmp_path / name / f"attacker-{number}.pt") for number in (0, 1)]
        assert find_faults(Ledger(str(tmp_path / name / "ledger.sqlite"))) == []
    for number in (0, 1):
        assert torch.equal(answers["killed"][number], answers["whole"][number])
    assert not torch.equal(*answers["whole"]), "each account has a memory of its own"


def test_a_memory_is_written_with_its_answers_or_not_at_all(place: str) -> None:
    ledger = Ledger(place)
    first, second = reserve(ledger, slice(0, 5), slice(5, 10))
    seen = list[bytes | None]()

    def settle(answer: Tensor, _: Reservation, memory: bytes | None) -> tuple[Tensor, bytes]:
        seen.append(memory)
        if len(seen) == 2:
            raise Refused("Enough.")
        return answer + 1, b"%d" % len(seen)

    kept = ledger.store(source(ledger), [(first, features(first))], None, settle)
    assert torch.equal(kept[first.request], features(first) + 1)
    with pytest.raises(Refused):
        ledger.store(source(ledger), [(second, features(second))], None, settle)
    ledger.store(source(ledger), [(second, features(second))], None, settle)
    assert seen == [None, b"1", b"1"], "what was refused is not remembered"
    assert torch.equal(ledger.read(source(ledger), NAMES[5:10], 0), features(second) + 1)


def opened_at(place: str, moment: float) -> str:
    """What went wrong, in a process of its own."""
    while time.time() < moment:
        pass
    try:
        Ledger(place).close()
    except LedgerError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_processes_that_open_a_new_ledger_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(opened_at, [str(tmp_path / "first")] * 4, [0.0] * 4))
        for number in range(60):
            place, moment = str(tmp_path / f"ledger{number}"), time.time() + 0.01
            assert set(pool.map(opened_at, [place] * 4, [moment] * 4)) == {""}
