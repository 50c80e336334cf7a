"""The command that looks after a ledger, in this process: what it shows, verifies, exports and
imports."""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_books import IMAGES, NAMES, reserve, source, store

from stealing.artefacts import WORK
from stealing.queries.__main__ import _parser, main
from stealing.queries.ledger import Ledger

Command = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What it prints."""

    def run(*words: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["python -m stealing.queries", *words])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def place(tmp_path: Path) -> str:
    path = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(path)
    ledger.allow("t", "attack", 40)
    first, second, lost = reserve(ledger, slice(0, 10), slice(10, 13), slice(13, 15))
    store(ledger, first)
    ledger.mark_in_doubt(second)
    ledger.forfeit(lost)
    of = source(ledger, target="a-target-with-a-long-fingerprint")
    [made] = reserve(ledger, slice(0, 4), of=of, purpose="evaluation", price=2.5)
    store(ledger, made, of=of)
    ledger.close()
    return path


def test_it_shows_a_line_for_each_target_and_purpose(place: str, command: Command) -> None:
    shown = command("--ledger", place, "show")
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in shown.splitlines()
        if "│" in line
    ]
    assert [line[:8] for line in lines] == [
        ["a-target-with-a-long-fin", "evaluation", "4", "any", "4", "0", "0", "10.00"],
        ["t", "attack", "15", "40", "10", "3", "2", "7.50"],
    ]
    assert lines[1][8].endswith(": 10") and place.split("/")[-1] in shown
    heads = (
        "target",
        "purpose",
        "spent",
        "allowed in all",
        "stored",
        "in doubt",
        "given up",
        "cost",
        "answers a day",
    )
    assert all(head in shown for head in heads) and max(map(len, shown.splitlines())) <= 124


def test_it_verifies_by_its_exit_code_and_a_sentence_a_fault(
    place: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as fine:
        command("--ledger", place, "verify")
    assert fine.value.code == 0
    assert capsys.readouterr().out == "Every answer is as it was stored, and every count adds up.\n"
    ledger = Ledger(place)
    with ledger.database.transaction() as execute:
        execute("UPDATE budgets SET spent = 9")
    with pytest.raises(SystemExit) as wrong:
        command("--ledger", place, "verify")
    told = capsys.readouterr().out.splitlines()
    assert wrong.value.code == 1 and [line.split()[0] for line in told] == ["9", "9"]


def test_what_it_exports_it_imports_into_a_ledger_that_need_not_be_there(
    place: str, command: Command, tmp_path: Path
) -> None:
    file, other = str(tmp_path / "all.parquet"), str(tmp_path / "other.sqlite")
    assert command("--ledger", place, "export", file) == f"14 answers written to {file}.\n"
    assert len(pq.read_table(file)) == 14
    assert (
        command("--ledger", other, "import", file, "--name", "r", "--target", "t")
        == "10 answers recorded as r.\n"
    )
    of = Ledger(other).source("recording/r", "recorded", "recorded", "", 8)
    assert (
        Ledger(other).read(of, NAMES[:10], 0).tolist()
        == IMAGES[:10].flatten(1)[:, :5].float().tolist()
    )


def test_a_ledger_that_is_absent_and_a_recording_that_is_there_are_one_sentence(
    place: str, command: Command, tmp_path: Path
) -> None:
    absent = str(tmp_path / "none")
    for words in (("show",), ("verify",), ("export", "x")):
        with pytest.raises(
            SystemExit, match=rf"^LedgerError: There is no ledger {absent}: name one by --ledger\.$"
        ):
            command("--ledger", absent, *words)
        assert not Path(absent).exists()
    command("--ledger", place, "export", str(tmp_path / "all.parquet"))
    importing = (
        "--ledger",
        place,
        "import",
        str(tmp_path / "all.parquet"),
        "--name",
        "twice",
        "--target",
        "t",
    )
    command(*importing)
    with pytest.raises(
        SystemExit, match=r"^DataError: There is a recording twice already: choose another name\.$"
    ):
        command(*importing)
    for words in ((), ("import", "x")):
        with pytest.raises(SystemExit) as usage:
            command("--ledger", place, *words)
        assert usage.value.code == 2
    assert _parser().parse_args(["show"]).ledger == str(WORK / "ledger.sqlite")
    assert _parser().parse_args(["import", "f", "--name", "n", "--size", "16"]).size == 16
