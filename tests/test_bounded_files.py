"""Files of a stranger's folder that never end, or grow when they are read: one sentence, soon, in
little memory."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DEBUG, choose
from made_up import finished_run, sample
from measuring import within_mebibytes
from rich.console import Console
from safetensors.numpy import save_file
from test_cards import saved

from stealing.artefacts import is_claimed, key, write_done
from stealing.config import to_dict
from stealing.data.labels import read_labels
from stealing.data.parquet import open_table
from stealing.encoders import load_encoder
from stealing.errors import CheckpointError, DamageError, DataError, LedgerError, StealingError
from stealing.queries.opening import open_ledger
from stealing.report.run_files import FinishedRun, readable
from stealing.report.runs import RunGroup
from stealing.report.samples import sample_of
from stealing.report.states import show
from stealing.report.write import write
from stealing.surrogates import load_surrogate
from stealing.sweeps.cells import cells
from stealing.training.levelling import curve_of

SOON = 20
"""Seconds within which a file is refused, also on a machine that does much else."""

KINDS = ("pipe", "device", "large", "sparse")

LARGE = b"[" + b"[]," * (20 * 2**20) + b"[]]"
"""60 MiB, of which JSON would make 1.4 GiB."""


def put(path: Path, kind: str) -> None:
    """Put something that is no file, or a huge one, in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        path.write_bytes(LARGE)
    else:
        path.touch()
        os.truncate(path, 2**40)


@contextmanager
def soon() -> Iterator[None]:
    """The body ends within some seconds, and takes at most 200 MiB."""

    def late(*_: object) -> None:
        raise AssertionError("it reads on")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SOON)
    try:
        with within_mebibytes(200):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def sentence(refused: "pytest.ExceptionInfo[StealingError]", path: Path) -> None:
    """The error is one sentence that names the file."""
    text = str(refused.value)
    assert str(path) in text and "\n" not in text and text.endswith("."), text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["done.json", "encoder.json.prev"])
def test_what_lies_beside_an_encoder_and_is_no_file_of_ours_is_not_read_on(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = saved(tmp_path)
    before = load_encoder(path)[0].fingerprint
    put(tmp_path / name, kind)
    with soon():
        assert load_encoder(path)[0].fingerprint == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["encoder.json", "encoder.safetensors"])
@pytest.mark.parametrize("vouched", [False, True])
def test_an_encoder_that_is_no_file_or_a_huge_one_is_refused_before_it_is_read(
    vouched: bool, name: str, kind: str, tmp_path: Path
) -> None:
    path = saved(tmp_path)
    if vouched:  # so that its checksum would be computed
        write_done(tmp_path, files=("encoder.json", "encoder.safetensors"))
    put(tmp_path / name, kind)
    with soon(), pytest.raises((CheckpointError, DamageError)) as refused:
        load_encoder(path)
    sentence(refused, tmp_path / name)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a finished run and the surrogate that it names."""
    work = tmp_path_factory.mktemp("template") / "work"
    folder = finished_run(work / "runs", "g", {"a": (0.6, 0.5, 0.3)})
    config = choose(*DEBUG, f"paths.work={work}")
    (folder / "config.yaml").write_text(json.dumps(to_dict(config)))
    result = json.loads((folder / "result.json").read_text())
    result["artefacts"] = {"surrogate": "surrogates/s", "run": "runs/g"}
    result["files"] = {"sample": "sample.safetensors"}
    result["sample"] = {"task": "a", "classes": []}
    (folder / "result.json").write_text(json.dumps(result))
    save_file(sample(), folder / "sample.safetensors")
    (work / "surrogates" / "s").mkdir(parents=True)
    saved(work / "surrogates" / "s")
    save_file({}, work / "surrogates" / "s" / "adapter.safetensors")
    (work / "surrogates" / "s" / "curves.csv").write_text("step,steal/loss\n9,0.5\n19,0.25\n")
    return work


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """The folder of that run, in a work folder of the test's own."""
    return Path(shutil.copytree(template, tmp_path / "work")) / "runs" / "g"


VOUCHED = ("result.json", "right.safetensors", "sample.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["done.json", *VOUCHED])
@pytest.mark.parametrize("vouched", [False, True])
def test_a_run_with_a_file_that_never_ends_is_left_out_in_one_sentence(
    vouched: bool, name: str, kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if vouched:
        write_done(run, files=VOUCHED)
    put(run / name, kind)
    read_elsewhere = name == "sample.safetensors" and not vouched
    with soon():
        assert len(readable([run])) == read_elsewhere
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (not read_elsewhere) and all(str(run / name) in line for line in lines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["../runs/g/done.json", "../runs/g/result.json", "s/done.json", "s/adapter.safetensors"],
)
def test_a_surrogate_of_a_run_is_loaded_or_refused_in_one_sentence_and_nothing_is_read_on(
    name: str, kind: str, run: Path
) -> None:
    put(run.parent.parent / "surrogates" / name, kind)
    with soon():
        if name == "s/done.json":  # it vouches for nothing then
            load_surrogate(run)
            return
        with pytest.raises((CheckpointError, DamageError)) as refused:
            load_surrogate(run)
    assert Path(name).name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.yaml", "choices.json", "done.json", *VOUCHED[:2]])
def test_a_report_of_a_run_with_a_file_that_never_ends_is_refused_in_one_sentence(
    name: str, kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(run / name, kind)
    with soon(), pytest.raises(DataError) as refused:
        write([run], tmp_path / "out", "linear")
    assert str(run / name) in str(refused.value) + capsys.readouterr().err
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_of_a_run_whose_pictures_never_end_is_a_page_without_them(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = run.parent.parent / "surrogates" / "s" / "curves.csv"
    put(curves, kind)
    put(run / "sample.safetensors", kind)
    with soon():
        assert write([run], tmp_path / "out", "linear").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("left out" in line for line in lines)
    assert str(curves) in lines[0] and str(run / "sample.safetensors") in lines[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sweeps/w/sweep.json", "cell", "runs/g/status.json"])
def test_a_sweep_with_such_a_file_is_shown_or_refused_in_one_sentence(
    name: str, kind: str, run: Path
) -> None:
    work = run.parent.parent
    sweep = work / "sweeps" / "w"
    sweep.mkdir(parents=True)
    cell = sweep / f"{key(cell=['seed=0'])}.json"
    (sweep / "sweep.json").write_text(json.dumps({"overrides": [], "cells": [["seed=0"]]}))
    cell.write_text(json.dumps({"overrides": ["seed=0"], "run": "../../runs/g"}))
    (run / "status.json").write_text(json.dumps({"state": "done", "step": "evaluate", "error": ""}))
    assert [one.state for one in cells(sweep)] == ["done"]
    put(cell if name == "cell" else work / name, kind)
    with soon():
        if name.endswith("sweep.json"):
            with pytest.raises(DataError) as refused:
                cells(sweep)
            sentence(refused, sweep / "sweep.json")
        else:
            [one] = cells(sweep)
            assert one.state in ("failed", "interrupted", "missing")
            show([one], Console(quiet=True))


def test_a_link_in_the_place_of_a_lock_claims_nothing_and_what_it_leads_to_stays(
    tmp_path: Path,
) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    assert not is_claimed(tmp_path / "run")
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_a_ledger_that_never_ends_is_refused_in_one_sentence(
    kind: str, tmp_path: Path
) -> None:
    place = str(tmp_path / "ledger.sqlite")
    open_ledger(place, tmp_path).close()
    put(tmp_path / "ledger.json", kind)
    with soon(), pytest.raises(LedgerError) as refused:
        open_ledger(place, tmp_path)
    sentence(refused, tmp_path / "ledger.json")


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_that_is_no_file_or_huge_is_refused_in_one_sentence(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    put(path, kind)
    with soon(), pytest.raises(DataError) as refused:
        open_table(path)
    sentence(refused, path)


def test_metadata_of_a_table_that_would_grow_is_refused_or_names_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    table = pa.table({"label": [0, 1]})
    for text in (LARGE, LARGE[: 5 * 2**20]):
        pq.write_table(table.replace_schema_metadata({b"huggingface": text}), path)
        with within_mebibytes(200):
            if text == LARGE:
                with pytest.raises(DataError, match="is not a Parquet file") as refused:
                    open_table(path)
                sentence(refused, path)
            else:
                assert read_labels([(path, open_table(path))])[1] == ()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["done.json", "result.json"])
def test_a_number_that_is_none_is_damage_in_one_sentence(name: str, number: str, run: Path) -> None:
    text = json.dumps(json.loads((run / name).read_text()) | {"seconds": "here"})
    (run / name).write_text(text.replace('"here"', number))
    with pytest.raises(DamageError, match="is not a finite number") as refused:
        FinishedRun.read(run)
    sentence(refused, run / name)


CHANGES: dict[str, dict[str, Any]] = {
    "no predictions": {"predicted/linear/TA": None},
    "more predictions": {"predicted/linear/TA": np.arange(21) % 3},
    "a class of many": {"predicted/linear/TA": np.full(20, 2**40)},
    "a class below zero": {"predicted/linear/SA": np.full(20, -1)},
    "features that are not finite": {"target": np.full((8, 6), np.inf, np.float16)},
    "fewer features": {"surrogate": np.ones((7, 5), np.float16)},
    "no colours": {"images": np.zeros((8, 1, 8, 8), np.uint8)},
    "a hundred thousand images": {"queries": np.zeros((100_000, 3, 2, 2), np.uint8)},
    "numbers of another kind": {"labels": np.zeros(8)},
    "nothing": dict.fromkeys(sample()),
}


def group(run: Path) -> RunGroup:
    """A group of this run alone."""
    return RunGroup("", {}, {}, [FinishedRun.read(run)])


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_sample_of_another_form_is_left_out_with_one_line(
    what: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = sample_of(group(run), "linear")
    assert kept is not None and kept.keys() == sample().keys()
    arrays = {
        name: array for name, array in (sample() | CHANGES[what]).items() if array is not None
    }
    save_file(arrays, run / "sample.safetensors")
    assert sample_of(group(run), "linear") is None
    [line] = capsys.readouterr().err.splitlines()
    assert str(run / "sample.safetensors") in line and line.endswith("its pictures are left out.")


@pytest.mark.parametrize("place", ["/dev/zero", "../g/sample.safetensors", "\0", 3, None, []])
def test_a_sample_lies_in_the_folder_of_its_run(place: Any, run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["files"] = {"sample": place}
    (run / "result.json").write_text(json.dumps(result))
    assert sample_of(group(run), "linear") is None


@pytest.mark.parametrize(
    "text",
    [
        "step,steal/loss\nx,1\n",
        "step,steal/loss\n1,x\n",
        "step,steal/loss\n1,nan\n",
        f"step,steal/loss\n{10**30},1\n",
        "steal/loss\n1\n",
        "step,steal/loss\n1," + "1" * 200_000 + "\n",
        "step,steal/loss\n\xff",
    ],
)
def test_a_curve_that_a_fit_does_not_write_is_none_with_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "curves.csv").write_bytes(text.encode("latin-1"))
    assert curve_of(tmp_path) == []
    [line] = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "curves.csv") in line and line.endswith("the curve is left out.")
