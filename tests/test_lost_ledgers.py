"""A ledger that was lost, in whole or in part, is noticed before anything is paid a second time."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEBUG, Command, stored
from fakes import IMAGES, Fake, left_open, truth

from stealing.artefacts import read_sealed, write_done, write_sealed
from stealing.errors import LedgerError
from stealing.queries import opening
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.opening import check_known, open_known, open_ledger
from stealing.queries.requests import count_settled


def buy(work: Path, images: slice, target: Fake | None = None, **limits: Any) -> int:
    """Buy answers as a run of this work folder does; return how many images were really sent."""
    with closing(open_ledger(str(work / "ledger.sqlite"), work)) as ledger:
        budget = Budget(2000, 1000, **limits)
        door = MeteredTarget(target or Fake(), ledger, work / "banks", budget)
        answers = door.ask(IMAGES[images], "a", "attack")
        assert torch.equal(answers, truth(IMAGES[images]))
        return door.sent


def finished(work: Path, until: str = "query", **more: Any) -> Path:
    """A finished run of this work folder."""
    folder = work / "runs" / "r"
    folder.mkdir(parents=True)
    write_done(folder, until=until, code="c", made={}, **more)
    return folder / "done.json"


def identity_of(work: Path) -> str:
    return str(read_sealed(work / "ledger.json")["identity"])


def lose(work: Path) -> None:
    """Remove the ledger with its record, as `rm -r ledger*` does."""
    for path in work.glob("ledger*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def rows_deleted(work: Path) -> None:
    with closing(sqlite3.connect(work / "ledger.sqlite")) as connection:
        connection.executescript("DELETE FROM queries; DELETE FROM requests; DELETE FROM budgets;")


def one_row_deleted(work: Path) -> None:
    with closing(sqlite3.connect(work / "ledger.sqlite")) as connection:
        connection.executescript("DELETE FROM queries WHERE id = 3;")


def older_copy(work: Path) -> None:
    shutil.copy(work / "older", work / "ledger.sqlite")
    for path in work.glob("ledger.sqlite-*"):
        path.unlink()


def refused(work: Path) -> str:
    """The one sentence of a ledger that is refused; nothing is sent and the record stays."""
    record = work / "ledger.json"
    before = record.read_bytes() if record.exists() else None
    target = Fake()
    with pytest.raises(LedgerError) as refusal:
        buy(work, slice(0, 16), target)
    assert target.requests == [] and (record.read_bytes() if record.exists() else None) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("loss", [rows_deleted, one_row_deleted, older_copy])
def test_a_ledger_that_has_fewer_answers_than_before_is_refused_until_a_person_says_so(
    loss: Callable[[Path], None], tmp_path: Path
) -> None:
    buy(tmp_path, slice(0, 8))
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "older")
    assert buy(tmp_path, slice(0, 16)) == 8
    loss(tmp_path)
    text = refused(tmp_path)
    left = {"rows_deleted": 0, "one_row_deleted": 15, "older_copy": 8}[loss.__name__]
    assert f"has {left} answers and had 16 before" in text and "ledger.json" in text
    with pytest.raises(LedgerError, match="had 16 before"):
        open_known(str(tmp_path / "ledger.sqlite"), tmp_path)
    (tmp_path / "ledger.json").unlink()
    assert buy(tmp_path, slice(0, 16)) == 16 - left


@pytest.mark.parametrize("knows", ["a run", "a judged encoder", "a bank"])
@pytest.mark.parametrize("loss", ["removed", "another", "emptied rows"])
def test_a_ledger_that_is_lost_with_its_record_is_known_to_what_it_paid_for(
    loss: str, knows: str, tmp_path: Path
) -> None:
    buy(tmp_path, slice(0, 600 if knows == "a bank" else 16))
    if knows == "a run":
        finished(tmp_path, ledger=identity_of(tmp_path))
    elif knows == "a judged encoder":
        (tmp_path / "judged").mkdir()
        facts = {"schema": 1, "ledger": identity_of(tmp_path)}
        (tmp_path / "judged" / "j.json").write_text(json.dumps(facts))
    if loss == "emptied rows":
        rows_deleted(tmp_path)
        (tmp_path / "ledger.json").unlink()
        assert "has no answers, and the answers in" in refused(tmp_path)
        return
    lose(tmp_path)
    if loss == "another":
        with closing(Ledger(str(tmp_path / "ledger.sqlite"))):
            pass
        assert "is another one, and the answers in" in refused(tmp_path)
        return
    assert "is absent or empty, and the answers in" in refused(tmp_path)
    with pytest.raises(LedgerError, match="absent or empty"):
        check_known(str(tmp_path / "ledger.sqlite"), tmp_path)
    assert not list(tmp_path.glob("ledger*")), "none is made afresh"


@pytest.mark.parametrize("knows", ["a run", "a surrogate", "a bank"])
@pytest.mark.parametrize("loss", ["removed", "another"])
def test_a_lost_ledger_beside_what_an_earlier_version_bought_is_refused(
    loss: str, knows: str, tmp_path: Path
) -> None:
    buy(tmp_path, slice(0, 16))
    if knows == "a run":
        finished(tmp_path)
    elif knows == "a surrogate":
        folder = tmp_path / "surrogates" / "s"
        folder.mkdir(parents=True)
        write_done(folder, code="c", made={})
    else:
        folder = tmp_path / "banks" / "b"
        folder.mkdir(parents=True)
        write_sealed(folder / "index.json", {"shards": []})
    lose(tmp_path)
    if loss == "another":
        Ledger(str(tmp_path / "ledger.sqlite")).close()
    word = "has no answers" if loss == "another" else "is absent or empty"
    assert f"{word}, and the answers in" in refused(tmp_path)


def test_old_work_folders_without_the_new_facts_still_open(tmp_path: Path) -> None:
    buy(tmp_path, slice(0, 16))
    finished(tmp_path)
    identity = identity_of(tmp_path)
    write_sealed(tmp_path / "ledger.json", {"identity": identity, "place": "elsewhere"})
    assert buy(tmp_path, slice(0, 24)) == 8
    (tmp_path / "ledger.json").unlink()  # older still
    assert buy(tmp_path, slice(0, 32)) == 8
    assert read_sealed(tmp_path / "ledger.json")["settled"] == 32


def test_a_run_that_only_trained_its_target_knows_of_no_answers(tmp_path: Path) -> None:
    finished(tmp_path, until="pretrain")
    assert buy(tmp_path, slice(0, 8)) == 8


@pytest.mark.parametrize("name", ["runs/r/done.json", "banks/b/index.json"])
def test_the_only_file_that_knows_the_ledger_is_not_passed_over_if_it_is_damaged(
    name: str, tmp_path: Path
) -> None:
    buy(tmp_path, slice(0, 16))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"ledger": "')
    assert buy(tmp_path, slice(0, 16)) == 0, "the record knows it, too"
    (tmp_path / "ledger.json").unlink()
    assert f"{path} names the ledger that paid" in refused(tmp_path)
    open_known(str(tmp_path / "ledger.sqlite"), tmp_path).close()  # a person may look after it
    path.unlink()
    assert buy(tmp_path, slice(0, 16)) == 0


def test_the_number_never_falls_whatever_becomes_of_requests(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.sqlite")
    work = tmp_path / "work"

    def settled() -> int:
        with closing(Ledger(place)) as ledger:
            return count_settled(ledger.database.read)

    other, reservation = left_open(tmp_path, 8)
    assert settled() == 0, "what is reserved may be taken back"
    assert other.place == place and reservation.digests
    with closing(open_ledger(place, work)) as ledger:
        door = MeteredTarget(Fake(), ledger, work / "banks", Budget(99, 0, in_doubt="forfeit"))
        door.ask(IMAGES[:8], "a", "attack")
    assert settled() == 8
    left_open_again(tmp_path, slice(8, 16), give_up=True)
    assert settled() == 16, "given up"
    left_open_again(tmp_path, slice(8, 16), give_up=False)
    assert settled() == 16, "asked about anew, and taken back"


def left_open_again(folder: Path, images: slice, *, give_up: bool) -> None:
    """Reserve images; then give the request up, or take it back."""
    from stealing.queries.digests import digests
    from stealing.queries.pace import Pace
    from stealing.queries.schema import Terms

    with closing(Ledger(str(folder / "ledger.sqlite"))) as ledger:
        source = ledger.source("fake", "none", "a", "", IMAGES.shape[-1])
        batches = [(digests(IMAGES[images]), IMAGES[images])]
        terms = Terms("attack", "raw", 0, 0.5)
        [made] = ledger.reserve(source, batches, terms, lease=60.0, pace=Pace())
        if give_up:
            ledger.forfeit(made)
        else:
            ledger.release(source, made)


def test_the_record_follows_a_long_purchase_and_not_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[int]()

    def write(path: Path, facts: dict[str, Any]) -> None:
        written.append(facts["settled"])
        write_sealed(path, facts)

    monkeypatch.setattr(opening, "write_sealed", write)
    buy(tmp_path, slice(0, 160))  # 20 requests
    assert written == [0, 160], "when it is opened and when it is closed"
    written.clear()
    monkeypatch.setattr(opening, "NOTED_EVERY", 0.0)
    buy(tmp_path, slice(160, 320))
    assert written[0] == 160 and written[-1] == 320 and len(written) == 22


def test_a_purchase_that_fails_leaves_the_number_of_what_was_answered(tmp_path: Path) -> None:
    target = Fake(faults={1: RuntimeError("a fault")})
    with pytest.raises(RuntimeError, match="a fault"):
        buy(tmp_path, slice(0, 16), target)
    assert read_sealed(tmp_path / "ledger.json")["settled"] == 8
    rows_deleted(tmp_path)
    assert "had 8 before" in refused(tmp_path)


@pytest.mark.slow
def test_a_run_that_bought_few_images_knows_its_ledger(command: Command, tmp_path: Path) -> None:
    work = tmp_path / "work"
    query = (*DEBUG, "until=query", "budget.images=16", "attack.batch_size=16")
    assert command("train.py", *query).returncode == 0 and stored(work) == 16
    [done] = work.glob("runs/*/done.json")
    assert read_sealed(done)["ledger"] == identity_of(work)
    lose(work)
    again = command("train.py", *query, "seed=1")
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert again.stderr.splitlines()[-1].startswith("LedgerError: The ledger")
    assert not list(work.glob("ledger*"))
