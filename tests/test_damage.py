"""What was bought is what is read: flipped bits, lost ledgers and broken files are noticed, and
cost nothing."""

import json
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEBUG, Command, choose, stored
from fakes import IMAGES, Fake, door, left_open, truth
from made_up import finished_run
from rich.console import Console
from test_mixing import made

from stealing.artefacts import read_done, write_done, write_sealed
from stealing.config import to_dict
from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.errors import CheckpointError, DamageError, LedgerError
from stealing.finished import finish, is_finished
from stealing.queries.__main__ import main
from stealing.queries.bank import Bank
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger
from stealing.queries.opening import open_ledger
from stealing.report.console import show_result
from stealing.report.runs import group_runs
from stealing.training.checkpoints import AtomicCheckpoints, newest_readable
from stealing.training.conditions import made_with, making
from stealing.training.fit import Settings

NAMES = digests(IMAGES)
TASKS = {"t": (0.9, 0.6, 0.2)}


def made_up_run(folder: Path, seed: int = 0) -> Path:
    """A finished run of group g."""
    return made(finished_run(folder, "g", TASKS, seed=seed))


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit of a file, at this share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 16
    path.write_bytes(content)


def banked(folder: Path) -> Path:
    """The bank of 700 answers that were paid once."""
    door(folder, Fake()).ask(IMAGES, "a", "attack")
    [bank] = (folder / "banks").iterdir()
    return bank


@pytest.mark.parametrize("file", ["*.features", "*.digests", "index.json"])
def test_a_damaged_shard_is_copied_again_from_the_ledger_with_a_line_that_says_checksum(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = banked(tmp_path).glob(file)
    flip(path)
    again, target = door(tmp_path, Fake()), Fake()
    again._target = target
    assert torch.equal(again.ask(IMAGES, "a", "attack"), truth(IMAGES))
    assert target.requests == [], "nothing is paid again"
    [line] = [line for line in capsys.readouterr().err.splitlines() if "query (" not in line]
    assert str(path) in line and ("(checksum)" in line or file == "index.json")
    assert torch.equal(door(tmp_path, Fake()).ask(IMAGES, "a", "attack"), truth(IMAGES))
    assert capsys.readouterr().err == "", "it was mended"


def test_every_bit_of_a_row_counts_and_a_row_that_is_not_read_is_not_compared(
    tmp_path: Path,
) -> None:
    bank = banked(tmp_path)
    [path] = bank.glob("*.features")
    whole = path.read_bytes()
    identity = Ledger(str(tmp_path / "ledger.sqlite")).identity
    order = sorted(range(700), key=lambda number: NAMES[number])
    for bit in (0, 31, 63, 255, 8 * 48 - 1):
        damaged = bytearray(whole)
        damaged[3 * 48 + bit // 8] ^= 1 << bit % 8  # of row 3: 12 numbers of 4 bytes
        path.write_bytes(damaged)
        opened = Bank(bank, identity)
        with pytest.raises(DamageError, match=r"features is not as it was written \(checksum\)"):
            opened.read([NAMES[order[3]]])
        assert torch.equal(opened.read([NAMES[order[4]]]), truth(IMAGES[[order[4]]]))


def test_a_damaged_row_gets_no_checksum_that_fits_it_when_shards_are_joined(tmp_path: Path) -> None:
    bank = Bank(tmp_path, "ledger")
    bank.add(NAMES[:300], truth(IMAGES[:300]))
    [path] = tmp_path.glob("*.features")
    flip(path)
    bank.add(NAMES[300:], truth(IMAGES[300:]))
    assert bank.has(NAMES).tolist() == [False] * 300 + [True] * 400
    assert torch.equal(bank.read(NAMES[300:]), truth(IMAGES[300:]))


def test_a_bank_of_an_earlier_version_without_checksums_is_copied_again(tmp_path: Path) -> None:
    bank = banked(tmp_path)
    index = json.loads((bank / "index.json").read_text())
    del index["checksum"]
    for shard in index["shards"]:
        del shard["checksum"]
    (bank / "index.json").write_text(json.dumps(index))
    again = door(tmp_path, Fake())
    assert torch.equal(again.ask(IMAGES, "a", "attack"), truth(IMAGES)) and again.sent == 0


def verified(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and output of the command."""
    monkeypatch.setattr(sys, "argv", ["python -m stealing.queries", "--ledger", place, "verify"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


@pytest.mark.parametrize("file", ["*.features", "*.digests", "index.json"])
def test_verify_names_a_damaged_file_of_a_bank_and_exits_with_1(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = banked(tmp_path).glob(file)
    place = str(tmp_path / "ledger.sqlite")
    assert verified(place, monkeypatch, capsys)[0] == 0
    flip(path)
    code, said = verified(place, monkeypatch, capsys)
    assert code == 1 and str(path) in said and ("(checksum)" in said or file == "index.json")


def finished(folder: Path, **more: Any) -> dict[str, Any]:
    """A finished artefact: an encoder, with a checkpoint beside it."""
    arch = to_dict(choose().arch)
    save_encoder(
        build_encoder(arch, 0), folder / "encoder.safetensors", arch=arch, size=8, provenance={}
    )
    (folder / "last.ckpt").write_text("x")
    (folder / "code").write_text("code")
    facts = {
        "code": "code",
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "made": made_with(Settings(threads=1)),
        **more,
    }
    return write_done(folder, files=("encoder.safetensors", "encoder.json"), **facts)


@pytest.mark.parametrize("file", ["encoder.safetensors", "encoder.json", "done.json"])
def test_flipped_bits_of_a_finished_surrogate_are_noticed_and_it_is_made_again_from_its_checkpoint(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = finished(tmp_path)
    with making(tmp_path, "code", Settings(threads=1)) as done:
        assert done == told
    flip(tmp_path / file)
    if file != "done.json":
        with pytest.raises(DamageError, match="checksum"):
            load_encoder(tmp_path / "encoder.safetensors")
    with making(tmp_path, "code", Settings(threads=1)) as done:
        assert done is None and (tmp_path / "last.ckpt").exists()
    [line] = capsys.readouterr().err.splitlines()
    assert file in line and line.endswith("the artefact is made again.")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"code": "code"}', "\xff", '{"code": "code", "made": 3}']
)
def test_a_broken_or_edited_done_json_is_one_sentence_and_the_artefact_is_made_again(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    (tmp_path / "done.json").write_bytes(content.encode("latin-1"))
    with making(tmp_path, "code", Settings(threads=1)) as done:
        assert done is None
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_done_json_of_an_earlier_version_without_checksums_is_read(tmp_path: Path) -> None:
    told = finished(tmp_path)
    del told["files"]
    (tmp_path / "done.json").write_text(json.dumps(told))
    with making(tmp_path, "code", Settings(threads=1)) as done:
        assert done == told


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.0123456789abcdef.tmp").write_text("half")
    with making(tmp_path, "code", Settings(threads=1)):
        assert not list(tmp_path.glob(".*.tmp"))


def checkpoints(folder: Path) -> None:
    """Two checkpoints, the later one with number 2."""
    for number in (1, 2):
        AtomicCheckpoints().save_checkpoint(
            {"weights": torch.full((1000,), number)}, folder / "last.ckpt"
        )


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
def test_flipped_bits_of_the_last_checkpoint_are_noticed_and_the_one_before_is_used(
    place: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints(tmp_path)
    assert newest_readable(tmp_path) == tmp_path / "last.ckpt"
    flip(tmp_path / "last.ckpt", place)
    assert newest_readable(tmp_path) == tmp_path / "last.prev"
    assert "last.ckpt is damaged (checksum)" in capsys.readouterr().err
    flip(tmp_path / "last.prev", place)
    with pytest.raises(CheckpointError, match="delete that folder"):
        newest_readable(tmp_path)


def bought(work: Path) -> str:
    """The place of a ledger that a run of this work folder has paid through."""
    place = str(work / "ledger.sqlite")
    open_ledger(place, work).close()
    return place


@pytest.mark.parametrize("loss", ["deleted", "emptied", "replaced"])
@pytest.mark.parametrize("known_by", ["record", "banks"])
def test_a_ledger_that_is_gone_beside_runs_or_banks_that_knew_one_is_refused_and_not_started_afresh(
    loss: str, known_by: str, tmp_path: Path
) -> None:
    place = bought(tmp_path)
    if known_by == "banks":  # of an earlier version, which kept no record
        banked(tmp_path)
        (tmp_path / "ledger.json").unlink()
    open_ledger(place, tmp_path).close()
    if known_by == "banks":
        (tmp_path / "ledger.json").unlink()
    Path(place).unlink()
    if loss == "emptied":
        Path(place).touch()
    elif loss == "replaced":
        Ledger(place).close()
    with pytest.raises(
        LedgerError, match=r"restore it from a copy, or set another STEALING_WORK"
    ) as refused:
        open_ledger(place, tmp_path)
    assert "\n" not in str(refused.value) and Path(place).exists() == (loss != "deleted")
    assert not (tmp_path / "ledger.json").exists() or known_by == "record"


def test_a_ledger_that_is_restored_or_in_another_work_folder_is_used(tmp_path: Path) -> None:
    place = bought(tmp_path / "work")
    copy = shutil.copy(place, tmp_path / "copy")
    Path(place).unlink()
    shutil.move(copy, place)
    open_ledger(place, tmp_path / "work").close()
    open_ledger(str(tmp_path / "other" / "ledger.sqlite"), tmp_path / "other").close()


def test_a_damaged_record_of_the_ledger_is_one_sentence(tmp_path: Path) -> None:
    place = bought(tmp_path)
    flip(tmp_path / "ledger.json")
    with pytest.raises(LedgerError, match=r"ledger\.json names .* is damaged: delete this file"):
        open_ledger(place, tmp_path)


@pytest.mark.parametrize("loss", ["deleted", "moved", "replaced", "emptied"])
def test_a_ledger_that_vanishes_while_in_use_is_noticed_before_more_is_spent(
    loss: str, tmp_path: Path
) -> None:
    target = Fake()
    meter = door(tmp_path, target)
    meter.ask(IMAGES[:8], "a", "attack")
    path = tmp_path / "ledger.sqlite"
    if loss == "moved":
        path.rename(tmp_path / "elsewhere")
    elif loss == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    if loss == "replaced":
        Ledger(str(path)).close()
    with pytest.raises(LedgerError) as refused:
        meter.ask(IMAGES[8:16], "a", "attack")
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert len(target.requests) == 1, "nothing more was sent"


def test_a_request_in_doubt_is_not_sent_again_by_a_ledger_that_vanished(tmp_path: Path) -> None:
    left_open(tmp_path, 8)
    target = Fake()
    meter = door(tmp_path, target)
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(LedgerError, match="moved, deleted or replaced"):
        meter.ask(IMAGES[:8], "a", "attack")
    assert target.requests == []


BROKEN = ("", "{", "[]", "null", "{}", '{"group": "g", "seed": "x"}', "[" * 100_000)


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("file", ["result.json", "done.json", "right.safetensors"])
def test_a_broken_neighbour_is_one_line_and_the_finished_run_is_told(
    file: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if file == "done.json" and content in ("{}", '{"group": "g", "seed": "x"}'):
        return  # an old one, which vouches for nothing
    own, beside = made_up_run(tmp_path), made_up_run(tmp_path, seed=1)
    broken = made_up_run(tmp_path, seed=2)
    broken = broken.rename(tmp_path / "x-s2-g")
    (broken / file).write_text(content)
    console = Console(width=200, record=True, file=StringIO())
    show_result(own, 20, console)
    text = console.export_text()
    assert "seeds 0, 1" in text and str(own / "result.json") in text
    [line] = capsys.readouterr().err.splitlines()
    assert str(broken / file) in line and "left out" in line
    [setting] = group_runs([own, beside, broken])
    assert [run.folder for run in setting.runs] == [own, beside], "a report goes on without it, too"


def judged(folder: Path) -> Path:
    """A finished run, whose `done.json` vouches for its results."""
    (folder / "sample.safetensors").write_text("x")
    finish(folder, "evaluate", "code", {"run": made_with(Settings(threads=1))}, "identity")
    return folder


@pytest.mark.parametrize(
    "file", ["result.json", "right.safetensors", "done.json", "sample.safetensors"]
)
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_finished_run_whose_files_were_changed_is_judged_again_with_one_line(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = judged(made_up_run(tmp_path))
    terms = ("evaluate", "code", Settings(threads=1), False)
    assert is_finished(folder, *terms) and capsys.readouterr().err == ""
    if damage == "flipped":
        flip(folder / file)
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])
    assert not is_finished(folder, *terms)
    [line] = capsys.readouterr().err.splitlines()
    assert file in line and line.endswith("the run is judged again.")


def test_a_result_that_a_person_edited_is_not_told_as_that_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, edited = (judged(made_up_run(tmp_path, seed=seed)) for seed in (0, 1))
    result = json.loads((edited / "result.json").read_text())
    result["tasks"]["t"]["linear"]["SA"] = 1.0
    (edited / "result.json").write_text(json.dumps(result))
    assert [run.folder for run in group_runs([own, edited])[0].runs] == [own]
    assert "(checksum)" in capsys.readouterr().err


def test_a_sealed_file_tells_any_change_of_itself(tmp_path: Path) -> None:
    facts = {"seconds": 0.1 + 0.2, "made": None, "name": "é", "list": [1, 2.5]}
    write_sealed(tmp_path / "done.json", facts)
    assert read_done(tmp_path) == facts
    (tmp_path / "done.json").write_text((tmp_path / "done.json").read_text().replace("2.5", "2.6"))
    with pytest.raises(DamageError, match="checksum"):
        read_done(tmp_path)


@pytest.mark.slow
def test_a_run_whose_ledger_or_surrogate_is_damaged_ends_in_one_sentence_or_in_the_same_bits(
    command: Command, tmp_path: Path
) -> None:
    steal = (*DEBUG, "until=steal")
    assert command("train.py", *steal).returncode == 0
    work = tmp_path / "work"
    [weights] = work.glob("surrogates/*/encoder.safetensors")
    before = weights.read_bytes()
    flip(weights)
    [done] = work.glob("runs/*/done.json")
    done.unlink()
    again = command("train.py", *steal)
    assert (
        again.returncode == 0
        and "encoder.safetensors" in again.stderr
        and "(checksum)" in again.stderr
    )
    assert weights.read_bytes() == before
    assert stored(work) == 128
    (work / "ledger.sqlite").unlink()
    refused = command("train.py", *steal, "seed=1")
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith(
        "LedgerError: The ledger"
    )
    assert "Traceback" not in refused.stderr and not (work / "ledger.sqlite").exists()


def test_rows_of_any_precision_are_compared(tmp_path: Path) -> None:
    for precision in (torch.float16, torch.float32):
        folder = tmp_path / str(precision)
        rows = torch.arange(60).reshape(20, 3).to(precision)
        Bank(folder, "ledger").add(NAMES[:20], rows)
        found, here = Bank(folder, "ledger").find(NAMES[:25])
        assert torch.equal(found, rows.float()) and here.tolist() == [True] * 20 + [False] * 5
        assert isinstance(here, np.ndarray)
