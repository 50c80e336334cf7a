"""Damaged run folders of strangers: judged by known settings, or one sentence; no code runs."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import DEBUG, choose
from deeds import SECRET, tried
from fuzzing import FUZZ, TEXTS, damaged, documents
from hypothesis import given
from hypothesis import strategies as st
from made_up import finished_run, sample
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.numpy import save_file
from test_fuzz_cards import save_narrow

from stealing.artefacts import key, read_done, write_done
from stealing.config import check_choices, to_dict
from stealing.report.run_files import FinishedRun
from stealing.report.runs import RunGroup
from stealing.report.samples import sample_of
from stealing.report.states import show
from stealing.report.write import write
from stealing.saved.restore import choose_surrogate, restore_run
from stealing.sweeps.cells import Cell, cells
from stealing.training.levelling import curve_of

YAML_TEXTS = [
    *TEXTS,
    '!!python/object/apply:os.system ["true"]',
    "!!python/name:os.system",
    "*nobody",
    ".nan",
    "2001-01-01",
    "[&a [1,1,1,1,1,1,1,1],&b [*a,*a,*a,*a,*a,*a,*a,*a],"
    "&c [*b,*b,*b,*b,*b,*b,*b,*b],&d [*c,*c,*c,*c,*c,*c,*c,*c],"
    "&e [*d,*d,*d,*d,*d,*d,*d,*d],[*e,*e,*e,*e,*e,*e,*e,*e]]",
]
"""Texts that YAML extends: objects, names, and nested lists that grow to 250,000 entries."""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_SECRET", SECRET)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with the surrogate that it names."""
    work = tmp_path / "work"
    folder = finished_run(work / "runs", "g", {"a": (0.6, 0.5, 0.3)})
    config = choose(*DEBUG, f"paths.work={work}")
    (folder / "config.yaml").write_text(json.dumps(to_dict(config)))
    result = json.loads((folder / "result.json").read_text())
    result["artefacts"] = {"surrogate": "surrogates/s", "run": "runs/g"}
    (folder / "result.json").write_text(json.dumps(result))
    write_done(folder, until="evaluate", code="c", made={"run": {}})
    save_narrow(work / "surrogates" / "s" / "encoder.safetensors")
    return folder


def damages(folder: Path, *names: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """A file of the folder, and what it holds once it is damaged."""
    choices = []
    for name in names:
        content = (folder / name).read_bytes()
        texts = YAML_TEXTS if name.endswith(".yaml") else TEXTS
        if name.endswith((".json", ".yaml")):
            choices.append(st.tuples(st.just(name), documents(json.loads(content), texts)))
        choices.append(st.tuples(st.just(name), damaged(content)))
    return st.one_of(choices)


def fuzzed(folder: Path, names: tuple[str, ...], read: Callable[[], None]) -> None:
    """Call `read` with one file of the folder damaged, as often as there are inputs."""

    @FUZZ
    @given(damages(folder, *names))
    def damage(change: tuple[str, bytes]) -> None:
        name, content = change
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        try:
            read()
        finally:
            (folder / name).write_bytes(before)

    read()
    damage()


def code_of(node: Any) -> Iterator[str]:
    """Every import path that a configuration names."""
    if isinstance(node, dict):
        yield from (str(value) for name, value in node.items() if name == "_target_")
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for part in parts:
        yield from code_of(part)


def check_harmless(config: DictConfig, own: DictConfig) -> None:
    """A configuration from a stranger's file names only known code, and reads no environment."""
    node = to_dict(config)
    assert set(code_of(node)) <= set(code_of(to_dict(own)))
    assert SECRET not in json.dumps(node)


def test_a_damaged_run_is_judged_again_by_known_settings_alone_or_refused_in_one_sentence(
    run: Path,
) -> None:
    config = choose(f"run={run}", "target.path=pyproject.toml", name="eval")
    own = OmegaConf.load(run / "config.yaml")

    def read() -> tuple[DictConfig, dict[str, str]]:
        saved, choices = restore_run(config, [f"run={run}"])
        check_choices(saved)
        return saved, choices

    def judged() -> None:
        found = tried(read)
        if found is not None:
            saved, choices = found
            assert isinstance(own, DictConfig)
            check_harmless(saved, own)
            assert all(isinstance(text, str) for pair in choices.items() for text in pair)

    fuzzed(run, ("config.yaml", "choices.json"), judged)


def test_a_damaged_run_names_its_own_surrogate_or_is_refused_in_one_sentence(run: Path) -> None:
    own = OmegaConf.load(run / "config.yaml")
    right = run.parent.parent / "surrogates" / "s" / "encoder.safetensors"

    def read() -> DictConfig:
        config = choose(f"surrogate={run}", name="eval")
        choose_surrogate(config, [f"surrogate={run}"])
        check_choices(config)
        return config

    def judged() -> None:
        config = tried(read)
        if config is not None:
            assert isinstance(own, DictConfig)
            check_harmless(OmegaConf.create({"data": config.data, "probe": config.probe}), own)
            assert Path(config.target.path) == right

    fuzzed(run, ("config.yaml", "result.json"), judged)


def test_a_report_of_a_damaged_run_is_a_page_or_one_sentence(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def reported() -> None:
        page = tried(partial(write, [run], out, "linear"), out)
        if page is not None:
            assert SECRET not in page.read_text()

    names = ("config.yaml", "choices.json", "result.json", "done.json", "right.safetensors")
    fuzzed(run, names, reported)


def test_damaged_pictures_of_a_run_are_drawn_as_they_are_or_left_out(run: Path) -> None:
    save_file(sample(), run / "sample.safetensors")
    (run / "curves.csv").write_text("step,steal/loss,epoch\n9,0.5,0\n19,0.25,0\n")
    result = json.loads((run / "result.json").read_text())
    result |= {"files": {"sample": "sample.safetensors"}, "sample": {"task": "a", "classes": []}}
    (run / "result.json").write_text(json.dumps(result))
    of_run = RunGroup("", {}, {}, [FinishedRun.read(run)])

    def read() -> None:
        kept = tried(partial(sample_of, of_run, "linear"))
        if kept is not None:
            forms = {name: array.ndim for name, array in sample().items()}
            assert forms == {name: kept[name].ndim for name in forms}
        curve = tried(partial(curve_of, run))
        assert curve is not None and all(step >= 0 for step, _ in curve)

    fuzzed(run, ("sample.safetensors", "curves.csv"), read)


def test_what_a_damaged_step_left_is_a_record_or_one_sentence(run: Path) -> None:
    def read() -> None:
        done = tried(partial(read_done, run))
        assert done is None or isinstance(done, dict)

    fuzzed(run, ("done.json",), read)


def test_a_damaged_sweep_stands_somewhere_or_is_refused_in_one_sentence(run: Path) -> None:
    sweep = run.parent.parent / "sweeps" / "w"
    sweep.mkdir(parents=True)
    cell = f"{key(cell=['seed=0'])}.json"
    (sweep / "sweep.json").write_text(
        json.dumps({"overrides": [], "cells": [["seed=0"], ["seed=1"]], "began": 0.0})
    )
    (sweep / cell).write_text(json.dumps({"overrides": ["seed=0"], "run": "../../runs/g"}))
    (run / "status.json").write_text(json.dumps({"state": "done", "step": "evaluate", "error": ""}))
    console = Console(quiet=True)

    def read() -> list[Cell]:
        found = cells(sweep)
        show(found, console)
        return found

    def shown() -> None:
        tried(read, run)  # it looks whether the run is held, which opens a lock

    fuzzed(sweep, ("sweep.json", cell), shown)
    fuzzed(run, ("status.json",), shown)
