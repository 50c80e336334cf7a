"""Names of earlier versions: what a user's file imported or named before a move still works."""

import importlib
from pathlib import Path

import pytest
from conftest import run_script

from stealing.code import followed
from stealing.defenses.chain import QueryBatch, StatefulDefense
from stealing.moved import MOVED

OLD_CLASS = """
from stealing.attacks.asking import Plan
from stealing.data.draws import Dice
from stealing.defenses.chain import Asked, Remembering
from stealing.targets.wire import Garbled, picture


class Fading(Remembering):
    def answer(self, features_BD, asked: Asked):
        return features_BD

    def load(self, account, memory):
        pass

    def dump(self, account):
        return b""
"""

ALIASES = sorted(set(MOVED) - {"stealing.service.serving.Limits"})
"""Names that a module gives on request; the one left out is imported by its old module anyway."""


def forget(path: str) -> None:
    """Make a module forget an alias that it gave before."""
    module, _, name = path.rpartition(".")
    vars(importlib.import_module(module)).pop(name, None)


@pytest.mark.parametrize("path", ALIASES)
def test_an_old_name_is_the_new_one(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, name = path.rpartition(".")
    home, _, present = MOVED[path].rpartition(".")
    value = getattr(importlib.import_module(home), present)
    forget(path)
    assert getattr(importlib.import_module(module), name) is value
    assert capsys.readouterr().err == f"{path} is now {MOVED[path]}: change the file.\n"
    assert getattr(importlib.import_module(module), name) is value
    assert capsys.readouterr().err == "", "one line of notice a process"


def test_a_users_class_with_old_imports_works_and_says_once_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fading_of_before.py").write_text(OLD_CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    for path in ALIASES:
        forget(path)
    mine = importlib.import_module("fading_of_before")
    assert issubclass(mine.Fading, StatefulDefense) and mine.Asked is QueryBatch
    mine.Fading()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all(" is now stealing." in line for line in lines)
    assert "fading_of_before.Fading" in followed("fading_of_before.Fading"), "its code is hashed"


def test_a_name_that_never_was_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="Askd"):
        exec("from stealing.defenses.chain import Askd")


@pytest.mark.slow
def test_a_configuration_with_the_old_callback_records_a_sweep(tmp_path: Path) -> None:
    words = ("-m", "experiment=debug", "until=pretrain", "seed=0")
    old = "hydra.callbacks.record._target_=stealing.report.sweep.Record"
    done = run_script(tmp_path, "train.py", *words, old)
    assert done.returncode == 0, done.stderr
    assert "stealing.report.sweep.Record is now stealing.sweeps.record.Record" in done.stderr
    assert len(list(tmp_path.glob("sweeps/*/sweep.json"))) == 1
