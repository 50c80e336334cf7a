"""Caps, prices, quotas and rates are numbers, the strictest cap stands, and no clock makes a run
wait for days."""

import copy
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import choose
from fakes import IMAGES, Fake, door, truth
from serving import noise, remote, wires

from stealing import numbers
from stealing.config import check_choices
from stealing.errors import BudgetExceeded, ConfigError, LedgerError
from stealing.queries import __main__ as queries
from stealing.queries.database import SQLite
from stealing.queries.digests import digests
from stealing.queries.door import Budget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Terms
from stealing.service import accounts
from stealing.service.accounts import Books

NO_NUMBERS: list[Any] = [
    float("nan"),
    float("inf"),
    -float("inf"),
    1e23,
    -1,
    True,
    "abc",
    "50%",
    "5",
    [5],
]
NO_COUNTS: list[Any] = [*NO_NUMBERS, 128.5, 128.0, 2**63, 2**31]


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
@pytest.mark.parametrize("name", ["images", "evaluation", "images_total", "evaluation_total"])
def test_a_budget_of_images_is_a_count(name: str, value: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^budget\.{name}=.* is not a whole number from [01] to 2147483647: set one",
    ):
        Budget(**{"images": 10, "evaluation": 10, name: value})


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_a_price_a_pace_and_a_clients_numbers_are_finite_and_in_range(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^budget\.price=.* is not a number from 0 to 1e\+09: set one\.$"
    ):
        Budget(10, 10, price=value)
    for name in ("images", "requests"):
        with pytest.raises(ConfigError, match=rf"^target\.remote\.pace\.{name}="):
            Pace(**{name: value})
    for name in ("deadline", "patience", "attempts", "in_flight", "width", "size"):
        with pytest.raises(ConfigError, match=rf"^target\.remote\.{name}="):
            remote("http://127.0.0.1:9", wires()["raw"], credential=None, **{name: value})


def test_nought_is_refused_where_it_makes_no_sense() -> None:
    for wrong in (
        lambda: Budget(0, 10),
        lambda: Pace(images=0),
        lambda: Pace(requests=0.0),
        lambda: remote("http://127.0.0.1:9", wires(0)["raw"]),
        lambda: remote("http://127.0.0.1:9", wires()["raw"], in_flight=0),
    ):
        with pytest.raises(ConfigError):
            wrong()
    assert Budget(1, 0, images_total=0, evaluation_total=0, price=0).price == 0


def test_a_command_refuses_a_budget_that_is_no_number_before_it_opens_anything() -> None:
    with pytest.raises(ConfigError, match=r"^budget\.images_total=nan does not fit"):
        check_choices(choose("budget.images_total=nan"))
    good = choose()
    check_choices(good)
    for name in ("images", "evaluation", "images_total", "evaluation_total", "price"):
        for value in NO_NUMBERS if name == "price" else NO_COUNTS:
            config = copy.deepcopy(good)
            config.budget[name] = value
            with pytest.raises(ConfigError, match=rf"^budget\.{name}=.* does not fit: set it to "):
                check_choices(config)


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
def test_a_ledger_takes_no_cap_and_no_price_that_is_none(value: Any, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    ledger.allow("fake", "attack", 5)
    for deed in (ledger.allow, ledger.restrict):
        with pytest.raises(ConfigError, match=r"budget\.images_total="):
            deed("fake", "attack", value)
    if value not in (128.5, 128.0, 2**31):
        source = ledger.source("fake", "none", "a", "", 2)
        batches = [(digests(IMAGES[:3]), IMAGES[:3])]
        terms = Terms("attack", "raw", 0, value)
        with pytest.raises(ConfigError, match=r"budget\.price="):
            ledger.reserve(source, batches, terms, lease=60.0, pace=Pace())
    assert ledger.left("fake", "attack") == 5 and find_faults(ledger) == []


def run(monkeypatch: pytest.MonkeyPatch, module: Any, *words: str) -> str:
    """What a command says when it refuses, or nothing."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    try:
        module.main()
    except SystemExit as ended:
        return str(ended.code)
    return ""


@pytest.mark.parametrize(
    "value", ["0", "-5", "abc", "nan", "inf", "1e23", "50%", "true", "9" * 5000, "99999999999"]
)
@pytest.mark.parametrize("option", ["--quota", "--rate", "--price"])
def test_an_account_has_a_quota_a_rate_and_a_price_that_are_numbers(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = str(tmp_path / "books.sqlite")
    refusal = run(monkeypatch, accounts, "--books", books, "add", "attacker/0", option, value)
    if (option, value) == ("--price", "0"):
        assert refusal == ""
        return
    assert re.fullmatch(
        rf"ConfigError: {option}=\S{{1,40}} is not a (whole )?number from \S+ to \S+: set one\.",
        refusal,
    )
    assert Books(books).all() == []


def test_good_numbers_make_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = str(tmp_path / "books.sqlite")
    options = ["--quota", "30000", "--rate", "0.5", "--price", "0.002"]
    assert run(monkeypatch, accounts, "--books", books, "add", "attacker/0", *options) == ""
    [account] = Books(books).all()
    assert (account.quota, account.rate, account.price) == (30000, 0.5, 0.002)


def total(folder: Path, purpose: str = "attack") -> int | None:
    [row] = [
        row for row in spendings(Ledger(str(folder / "ledger.sqlite"))) if row.purpose == purpose
    ]
    return row.total


def test_a_run_that_names_no_total_or_a_higher_one_leaves_the_strictest_in_force(
    tmp_path: Path,
) -> None:
    door(tmp_path, Fake(), images_total=20, evaluation_total=9).ask(IMAGES[:10], "a", "attack")
    for more in ({}, {"images_total": 1000}):
        later = door(tmp_path, Fake(), **more)
        with pytest.raises(
            BudgetExceeded,
            match=r"11 more images .* 10 that are left .*queries allow fake attack TOTAL",
        ):
            later.ask(IMAGES[10:21], "a", "attack")
        assert total(tmp_path) == 20 and total(tmp_path, "evaluation") == 9
    lower = door(tmp_path, Fake(), images_total=12)
    with pytest.raises(BudgetExceeded, match="2 that are left"):
        lower.ask(IMAGES[10:13], "a", "attack")
    assert total(tmp_path) == 12
    with pytest.raises(
        BudgetExceeded, match="10 images were sent .* 9 are allowed in all: allow 10 or more"
    ):
        door(tmp_path, Fake(), images_total=9)
    assert total(tmp_path) == 12, "and the one that it had stands"


def test_only_the_explicit_command_lifts_or_raises_a_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    door(tmp_path, Fake(), images_total=10).ask(IMAGES[:10], "a", "attack")
    door(tmp_path, Fake(fingerprint="fame")).ask(IMAGES[:1], "a", "attack")
    allow = ["--ledger", str(tmp_path / "ledger.sqlite"), "allow"]
    for letters, words, refusal in (
        (
            "fa",
            ("attack", "15"),
            "LedgerError: 2 targets in the ledger have names that begin with fa",
        ),
        ("x", ("attack", "15"), "LedgerError: 0 targets"),
        ("fak", ("attack", "9"), "BudgetExceeded: 10 images were sent"),
        ("fak", ("attack", "many"), "ConfigError: TOTAL=many is not a whole number"),
        ("fak", ("attack", "nan"), "ConfigError: TOTAL=nan is not a whole number"),
    ):
        said = run(monkeypatch, queries, *allow, letters, *words)
        assert (
            said.startswith(refusal)
            and len(said.splitlines()) == 1
            and total_of(tmp_path, "fake") == 10
        )
    assert (
        run(monkeypatch, queries, *allow, "fak", "attack", "15") == ""
        and total_of(tmp_path, "fake") == 15
    )
    assert torch.equal(
        door(tmp_path, Fake()).ask(IMAGES[10:15], "a", "attack"), truth(IMAGES[10:15])
    )
    assert (
        run(monkeypatch, queries, *allow, "fake", "attack", "none") == ""
        and total_of(tmp_path, "fake") is None
    )
    assert "may send any number of images to it for attack" in capsys.readouterr().out


def total_of(folder: Path, target: str) -> int | None:
    [row] = [
        row
        for row in spendings(Ledger(str(folder / "ledger.sqlite")))
        if (row.target, row.purpose) == (target, "attack")
    ]
    return row.total


def test_damaged_or_foreign_tables_are_told_as_the_ledgers_and_not_as_a_budget(
    tmp_path: Path,
) -> None:
    meter = door(tmp_path, Fake(), images_total=100)
    with meter._ledger.database.transaction() as execute:
        execute("CREATE UNIQUE INDEX foreign_rule ON queries (purpose)")
    with pytest.raises(
        LedgerError,
        match=r"cannot be used \(UNIQUE constraint failed: queries.purpose\): repair it or",
    ):
        meter.ask(IMAGES[:5], "a", "attack")
    with meter._ledger.database.transaction() as execute:
        execute(
            "CREATE TRIGGER other BEFORE UPDATE ON budgets "
            "BEGIN SELECT RAISE(ABORT, 'not ours'); END"
        )
    with pytest.raises(LedgerError, match="not ours"):
        meter._ledger.restrict("fake", "attack", 50)
    assert meter._ledger.spent("fake", "attack") == 0


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_jumps_does_not_make_a_paced_run_wait_for_days(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump = [0.0]
    monkeypatch.setattr(SQLite, "now", lambda self: time.time() + jump[0])
    asked = Fake(in_flight=2, images_a_request=2, pace=Pace(requests=20))
    start = time.monotonic()
    door(tmp_path, asked).ask(IMAGES[:8], "a", "attack")
    jump[0] = days * 86400.0
    door(tmp_path, asked).ask(IMAGES[8:16], "a", "attack")
    jump[0] = 0.0
    door(tmp_path, asked).ask(IMAGES[16:24], "a", "attack")
    assert 10 * 0.05 - 0.05 <= time.monotonic() - start < 5, (
        "the pace is kept, but for what a jump forward hides"
    )


def test_a_clock_that_jumps_between_booking_and_sending_changes_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = [0]

    def back(_: SQLite) -> float:
        readings[0] += 1
        return 1e9 if readings[0] == 1 else 1e9 - 3 * 86400

    monkeypatch.setattr(SQLite, "now", back)
    start = time.monotonic()
    meter = door(tmp_path, Fake(in_flight=2, images_a_request=2, pace=Pace(requests=20)))
    assert torch.equal(meter.ask(IMAGES[:8], "a", "attack"), truth(IMAGES[:8]))
    assert time.monotonic() - start < 5


def test_after_a_jump_back_the_next_request_still_waits_for_its_pace(tmp_path: Path) -> None:
    pace = Pace(requests=0.1)
    with Ledger(str(tmp_path / "ledger.sqlite")).database.transaction() as execute:
        assert [pace.book(execute, "t", 1, 1e9) for _ in range(3)] == [1e9, 1e9 + 10, 1e9 + 20]
        assert [pace.book(execute, "t", 1, 5e8) for _ in range(2)] == [5e8 + 30, 5e8 + 40]
        assert pace.book(execute, "t", 1, 5e8 - 5) == 5e8 + 50, (
            "processes that waited for each other are no jump"
        )


def test_a_long_wait_for_the_pace_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Fake(in_flight=4, pace=Pace(requests=0.05), faults={0: LedgerError("Stop here.")})
    with pytest.raises(LedgerError):
        door(tmp_path, asked).ask(IMAGES[:32], "a", "attack")
    said = [line for line in capsys.readouterr().err.splitlines() if "pace" in line]
    assert len(said) == 1 and said[0].endswith("the next request goes out in 20 s.")


def test_a_word_of_a_command_line_is_read_as_a_number_if_it_is_one() -> None:
    assert [numbers.as_number(text) for text in ("5", "0.5", "x")] == [5, 0.5, "x"]
    assert (
        numbers.check_integer("count", 5) == 5
        and numbers.check_number("rate", 5) == 5
        and len(noise(1)) == 1
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (name, value)
        for name in ("queries", "money", "enough")
        for value in (float("nan"), float("inf"), -1, "50%", True)
    ],
)
def test_the_limits_of_an_audit_are_numbers(setting: str, value: Any) -> None:
    config = choose("target=zoo", "budget.price=0.01", name="audit")
    config.audit[setting] = value
    with pytest.raises(
        ConfigError, match=rf"^audit\.{setting}=.* does not fit: set it to a (whole )?number"
    ):
        check_choices(config)
