"""The ledger's books on a file: who owns a request, what is counted for whom, what an auditor reads
out of them."""

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import noise
from torch import Tensor

from stealing.errors import BudgetExceeded, LedgerError
from stealing.queries import ledger as ledgers
from stealing.queries.answers import checksum
from stealing.queries.digests import digests
from stealing.queries.inspection import Spending, find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Purpose, Reservation, Source, Terms

IMAGES = noise(40)
NAMES = digests(IMAGES)
TERMS = Terms("attack", "raw", 0, 0.5)


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


def source(ledger: Ledger, account: str = "a", target: str = "t") -> Source:
    return ledger.source(target, "none", account, "", 8)


def reserve(
    ledger: Ledger, *parts: slice, of: Source | None = None, **changes: Any
) -> list[Reservation]:
    timing = {"lease": changes.pop("lease", 60.0), "pace": changes.pop("pace", Pace())}
    terms = replace(TERMS, **changes)
    batches = [(NAMES[part], IMAGES[part]) for part in parts]
    return ledger.reserve(of or source(ledger), batches, terms, **timing)


def answers(reservation: Reservation, more: float = 0) -> Tensor:
    return reservation.images.flatten(1)[:, :5].float() + more


def store(
    ledger: Ledger, *made: Reservation, of: Source | None = None, more: float = 0
) -> dict[int, Tensor]:
    return ledger.store(of or source(ledger), [(each, answers(each, more)) for each in made], None)


def test_a_ledger_keeps_its_identity_and_refuses_tables_of_another_version(
    place: str, tmp_path: Path
) -> None:
    with closing(Ledger(place)) as first, closing(Ledger(str(tmp_path / "other"))) as other:
        assert first.identity != other.identity and first.database.read(
            "SELECT count(*) FROM about"
        ) == [(1,)]
    with closing(Ledger(place)) as again:
        assert again.identity == first.identity
        with again.database.transaction() as execute:
            execute("UPDATE about SET version = 2")
    with pytest.raises(LedgerError, match="tables of version 2, and this code reads version 1"):
        Ledger(place)


def test_an_answer_that_comes_to_stand_beside_another_image_is_damaged(place: str) -> None:
    with closing(Ledger(place)) as ledger:
        of = source(ledger)
        [made] = reserve(ledger, slice(0, 2))
        store(ledger, made)
        rows = ledger.database.read("SELECT id, answer, checksum FROM queries ORDER BY id")
        with ledger.database.transaction() as execute:
            for (number, _, _), (_, answer, kept) in zip(rows, rows[::-1], strict=True):
                execute(
                    "UPDATE queries SET answer = ?, checksum = ? WHERE id = ?",
                    (answer, kept, number),
                )
        with pytest.raises(LedgerError, match="is damaged"):
            ledger.read(of, NAMES[:1], 0)
        assert len(find_faults(ledger)) == 2


def test_rows_of_earlier_versions_whose_checksum_is_of_the_answer_alone_are_read(
    place: str,
) -> None:
    with closing(Ledger(place)) as ledger:
        of = source(ledger)
        [made] = reserve(ledger, slice(0, 1))
        store(ledger, made)
        before = ledger.read(of, NAMES[:1], 0)
        [(answer,)] = ledger.database.read("SELECT answer FROM queries")
        with ledger.database.transaction() as execute:
            execute("UPDATE queries SET checksum = ?", (checksum(b"", answer),))
        assert torch.equal(ledger.read(of, NAMES[:1], 0), before) and not find_faults(ledger)


def test_a_source_is_the_same_for_the_same_four_names_alone(place: str) -> None:
    ledger = Ledger(place)
    names = [
        ("t", "d", "a", "c"),
        ("u", "d", "a", "c"),
        ("t", "e", "a", "c"),
        ("t", "d", "b", "c"),
        ("t", "d", "a", "x"),
    ]
    made = [ledger.source(*each, 8) for each in names]
    assert len({each.id for each in made}) == 5 and made == [
        ledger.source(*each, 8) for each in names
    ]
    assert [each.target for each in made] == ["t", "u", "t", "t", "t"] and {
        each.size for each in made
    } == {8}


def test_budgets_are_kept_by_target_and_purpose(place: str) -> None:
    ledger = Ledger(place)
    assert ledger.spent("t", "attack") == 0 and ledger.left("t", "attack") == float("inf")
    ledger.allow("t", "attack", 10)
    ledger.allow("t", "evaluation", 3)
    reserve(ledger, slice(0, 4))
    reserve(ledger, slice(4, 6), purpose="evaluation")
    reserve(ledger, slice(0, 20), of=source(ledger, target="u"))
    pairs: list[tuple[str, Purpose]] = [
        ("t", "attack"),
        ("t", "evaluation"),
        ("u", "attack"),
        ("u", "evaluation"),
    ]
    assert [ledger.spent(*pair) for pair in pairs] == [4, 2, 20, 0]
    assert [ledger.left(*pair) for pair in pairs] == [6, 1, float("inf"), float("inf")]
    ledger.allow("t", "attack", 4)
    with pytest.raises(
        BudgetExceeded, match="2 images were sent for evaluation already and 1 are allowed"
    ):
        ledger.allow("t", "evaluation", 1)
    assert [ledger.left(*pair) for pair in pairs[:2]] == [0, 1]
    with pytest.raises(BudgetExceeded, match="1 more images for attack exceed the 0 that are left"):
        reserve(ledger, slice(30, 31))
    ledger.allow("t", "attack", None)
    assert len(reserve(ledger, slice(30, 31))) == 1


def test_only_images_that_nobody_counted_are_reserved_each_in_its_request_and_row(
    place: str,
) -> None:
    ledger = Ledger(place)
    [first] = reserve(ledger, slice(3, 6), view="v", price=0.25)
    made = reserve(ledger, slice(0, 5), slice(3, 6), slice(5, 9))
    assert [each.digests for each in made] == [NAMES[0:3], NAMES[6:9]]
    assert all(
        torch.equal(each.images, IMAGES[[NAMES.index(n) for n in each.digests]]) for each in made
    )
    assert (
        ledger.spent("t", "attack") == 9 and len({each.idempotency for each in (first, *made)}) == 3
    )
    [other] = reserve(ledger, slice(0, 5), repeat=1)
    assert other.digests == NAMES[:5] and ledger.spent("t", "attack") == 14
    [beside] = reserve(ledger, slice(0, 5), of=source(ledger, "b"))
    states = ledger.states(source(ledger), NAMES, 0)
    assert states == {
        name: ("reserved", (first if 3 <= place < 6 else made[place >= 6]).request)
        for place, name in enumerate(NAMES[:9])
    }
    assert set(ledger.states(source(ledger, "b"), NAMES, 0).values()) == {
        ("reserved", beside.request)
    }
    assert ledger.states(source(ledger), NAMES, 2) == {}
    found = ledger.database.read(
        "SELECT view, cost, purpose, charged, repeat FROM queries ORDER BY id"
    )
    assert (
        found[0] == ("v", 0.25, "attack", 1, 0)
        and found[3] == ("raw", 0.5, "attack", 1, 0)
        and len(found) == 19
    )
    leases = ledger.database.read("SELECT lease, owner FROM requests")
    now = ledger.database.now()
    assert all(55 < lease - now <= 60 and owner == ledger.database.owner for lease, owner in leases)


def test_a_request_starts_and_leases_when_its_pace_says(place: str) -> None:
    ledger = Ledger(place)
    made = reserve(ledger, slice(0, 5), slice(5, 8), pace=Pace(images=0.5), lease=20.0)
    assert made[1].due - made[0].due == pytest.approx(10)
    leases = [lease for (lease,) in ledger.database.read("SELECT lease FROM requests ORDER BY id")]
    now, moment = ledger.database.now(), time.monotonic()
    assert [lease - now for lease in leases] == pytest.approx(
        [each.due - moment + 20 for each in made], abs=0.1
    )


def test_answers_are_read_from_any_number_of_pages_by_source_and_repeat(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "PAGE", 7)
    ledger = Ledger(place)
    kept = store(ledger, *reserve(ledger, slice(0, 20), slice(20, 40)))
    store(ledger, *reserve(ledger, slice(0, 40), repeat=1), more=100)
    other = source(ledger, "b")
    store(ledger, *reserve(ledger, slice(0, 40), of=other), of=other, more=200)
    order = [39, *range(0, 39, 2)]
    names, truth = [NAMES[place] for place in order], IMAGES.flatten(1)[:, :5].float()[order]
    assert torch.equal(torch.cat(list(kept.values())), IMAGES.flatten(1)[:, :5].float())
    for of, repeat, more in ((source(ledger), 0, 0), (source(ledger), 1, 100), (other, 0, 200)):
        assert torch.equal(ledger.read(of, names, repeat), truth + more)
        assert len(ledger.states(of, NAMES, repeat)) == 40
    with pytest.raises(LedgerError, match="damaged or absent"):
        ledger.read(other, names, 1)


def test_answers_are_kept_as_float32_or_float16_whatever_their_layout(place: str) -> None:
    ledger = Ledger(place)
    for number, given in enumerate(
        (torch.arange(8.0).double().view(4, 2).T, torch.arange(8).half().view(4, 2).T)
    ):
        of = source(ledger, f"x{number}")
        [made] = reserve(ledger, slice(0, 2), of=of)
        before = ledger.database.now()
        ledger.store(of, [(made, given)], "v1")
        read = ledger.read(of, NAMES[:2], 0)
        assert read.dtype == (torch.float32, torch.float16)[number] and torch.equal(
            read, given.to(read.dtype)
        )
        assert ledger.database.read(
            "SELECT width, version FROM sources WHERE id = ?", (of.id,)
        ) == [(4, "v1")]
        moments = ledger.database.read("SELECT stored FROM queries WHERE source = ?", (of.id,))
        assert all(before <= moment <= ledger.database.now() for (moment,) in moments)
        [(answer, kept)] = ledger.database.read(
            "SELECT answer, checksum FROM queries WHERE source = ? AND digest = ?",
            (of.id, NAMES[1]),
        )
        assert checksum(NAMES[1], answer) == kept and len(kept) == 8


def test_a_request_belongs_to_its_owner_until_its_lease_ends_or_the_owner_is_gone(
    place: str,
) -> None:
    ours, theirs = Ledger(place), Ledger(place)
    first, second, third = reserve(ours, slice(0, 3), slice(3, 6), slice(6, 9))
    requests = {first.request, second.request, third.request}
    assert theirs.adopt(source(theirs), requests, 60) == []
    ours.mark_in_doubt(second)
    assert (
        ours.in_doubt("t", "attack"),
        ours.in_doubt("t", "evaluation"),
        ours.in_doubt("u", "attack"),
    ) == (3, 0, 0)
    [adopted] = theirs.adopt(source(theirs), requests, 30)
    assert (adopted.request, adopted.idempotency, adopted.digests) == (
        second.request,
        second.idempotency,
        NAMES[3:6],
    )
    assert torch.equal(adopted.images, IMAGES[3:6]) and adopted.due == pytest.approx(
        time.monotonic(), abs=5
    )
    [(owner, lease)] = ours.database.read(
        "SELECT owner, lease FROM requests WHERE id = ?", (second.request,)
    )
    assert owner == theirs.database.owner and 25 < lease - ours.database.now() <= 30
    assert ours.in_doubt("t", "attack") == 0 and ours.adopt(source(ours), requests, 60) == []
    for deed in (
        lambda: ours.mark_in_doubt(second),
        lambda: ours.forfeit(second),
        lambda: store(ours, second),
        lambda: ours.release(source(ours), second),
    ):
        deed()
        assert ours.in_doubt("t", "attack") == 0 and ours.spent("t", "attack") == 9
        assert ours.states(source(ours), NAMES[3:4], 0)[NAMES[3]] == ("reserved", second.request)
    assert store(ours, second) == {} and set(store(theirs, adopted)) == {second.request}
    store(ours, first)
    ours.close()
    assert [each.request for each in theirs.adopt(source(theirs), requests, 60)] == [third.request]
    assert find_faults(theirs) == []


def test_what_is_given_up_is_charged_again_and_what_was_not_served_is_taken_back_at_its_price(
    place: str,
) -> None:
    ledger = Ledger(place)
    [lost] = reserve(ledger, slice(0, 4))
    ledger.forfeit(lost)
    assert {state for state, _ in ledger.states(source(ledger), NAMES, 0).values()} == {"failed"}
    [again] = reserve(ledger, slice(0, 6), price=0.5)
    assert set(ledger.states(source(ledger), NAMES, 0).values()) == {("reserved", again.request)}
    found = ledger.database.read("SELECT charged, cost FROM queries ORDER BY id")
    assert found == [(2, 1.0)] * 4 + [(1, 0.5)] * 2
    ledger.release(source(ledger), again)
    found = ledger.database.read("SELECT charged, cost, state FROM queries ORDER BY id")
    assert found == [(1, 0.5, "failed")] * 4 and ledger.spent("t", "attack") == 4
    reserve(ledger, slice(0, 2), purpose="evaluation", repeat=3)
    assert find_faults(ledger) == []


def test_an_auditor_reads_every_figure_by_target_and_purpose(place: str) -> None:
    ledger = Ledger(place)
    ledger.allow("t", "attack", 50)
    ledger.allow("w", "attack", 9)
    first, second, third, fourth = reserve(
        ledger, slice(0, 10), slice(10, 13), slice(13, 15), slice(15, 16)
    )
    store(ledger, first)
    ledger.mark_in_doubt(second)
    ledger.forfeit(third)
    other = source(ledger, target="u")
    [made] = reserve(ledger, slice(0, 5), of=other, purpose="evaluation", price=2.0)
    store(ledger, made, of=other)
    with ledger.database.transaction() as execute:
        moment = datetime(2026, 3, 4, 23, 59, tzinfo=UTC).timestamp()
        execute("UPDATE queries SET stored = ? WHERE state = 'stored'", (moment,))
        execute("UPDATE queries SET stored = ? WHERE digest = ?", (moment + 120, NAMES[0]))
        execute("UPDATE queries SET stored = ? WHERE digest = ?", (moment - 86400, NAMES[1]))
    days = {"2026-03-03": 1, "2026-03-04": 8, "2026-03-05": 1}
    assert spendings(ledger) == [
        Spending("t", "attack", 50, 16, 10, 3, 2, 8.0, days),
        Spending(
            "u",
            "evaluation",
            None,
            5,
            5,
            0,
            0,
            10.0,
            {"2026-03-03": 1, "2026-03-04": 3, "2026-03-05": 1},
        ),
        Spending("w", "attack", 9, 0, 0, 0, 0, 0.0, {}),
    ]
    assert list(spendings(ledger)[0].days) == sorted(days) and fourth.digests == NAMES[15:16]
    ledger.forfeit(second)
    assert spendings(ledger)[0].in_doubt == 0 and spendings(ledger)[0].failed == 5


@pytest.mark.parametrize(
    ("damage", "count", "sentence"),
    [
        (
            "queries SET answer = x'00' WHERE id = 2",
            1,
            "Row 2 ({second}) holds an answer that is not as it was",
        ),
        (
            "queries SET checksum = NULL WHERE id = 2",
            1,
            "Row 2 ({second}) holds an answer that is not as it was",
        ),
        ("sources SET width = 6", 3, "Row 1 ({first}) holds 5 numbers where its source has 6."),
        (
            "requests SET images = x'00' WHERE id = 1",
            3,
            "Row 1 ({first}) is answered and its request is still open.",
        ),
        (
            "requests SET images = NULL WHERE id = 2",
            3,
            "Row 4 ({fourth}) is reserved and its request is closed.",
        ),
        ("budgets SET spent = 7", 1, "7 images were counted for attack of t and its rows say 6."),
        (
            "queries SET charged = 3 WHERE id = 5",
            1,
            "6 images were counted for attack of t and its rows say 8.",
        ),
    ],
)
def test_every_fault_is_a_sentence_that_names_its_row(
    damage: str, count: int, sentence: str, place: str
) -> None:
    ledger = Ledger(place)
    answered, _ = reserve(ledger, slice(0, 3), slice(3, 6))
    store(ledger, answered)
    assert find_faults(ledger) == []
    with ledger.database.transaction() as execute:
        execute(f"UPDATE {damage}")
    found = find_faults(ledger)
    expected = sentence.format(first=NAMES[0].hex(), second=NAMES[1].hex(), fourth=NAMES[3].hex())
    assert len(found) == count and found[0].startswith(expected)


def test_a_damaged_database_is_a_fault(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(place)
    assert ledger.database.find_damage() is None
    monkeypatch.setattr(ledger.database, "find_damage", lambda: "page 3 is gone")
    assert find_faults(ledger) == ["The database is damaged: page 3 is gone."]
