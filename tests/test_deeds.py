"""The watch over code that reads files of strangers: it sees what code does, and lets what reads
alone pass."""

import os
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from deeds import SECRET, WATCH, tried

from stealing.errors import DataError, UnexpectedError
from stealing.processor import set_up_processor


def sing() -> None:
    from canary.hubconf import sing

    sing()


def connect() -> None:
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.connect_ex(("192.0.2.1", 9))  # an address that documentation uses


DEEDS: list[Callable[[], object]] = [
    sing,
    connect,
    partial(os.system, "true"),
    partial(subprocess.run, ["true"]),
    partial(Path(os.devnull).write_text, "x"),
    partial(os.open, os.devnull, os.O_RDWR),
    partial(exec, "import canary.hubconf as c; c.sing()"),
]


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_is_seen(deed: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match="did this"):
        tried(deed)
    assert not WATCH.on


def test_files_of_an_allowed_folder_may_be_written_and_others_may_be_read(tmp_path: Path) -> None:
    here = Path(__file__)
    assert tried(lambda: (tmp_path / "a").write_text("x"), tmp_path) == 1
    assert tried(here.read_text) == here.read_text()


def test_memory_that_was_held_for_a_moment_is_seen() -> None:
    assert tried(lambda: np.ones(2**24).sum()) == 2**24, "128 MiB"
    with pytest.raises(AssertionError, match="memory grew"):
        tried(lambda: np.ones(2**25 + 2**23).sum())


def test_memory_that_the_process_kept_for_later_counts_as_taken_anew() -> None:
    set_up_processor(torch.get_num_threads())
    assert np.ones(2**26).sum() == 2**26, "512 MiB, freed again"
    with pytest.raises(AssertionError, match="memory grew"):
        tried(lambda: np.ones(2**25 + 2**23).sum())


def refuse(error: Exception) -> None:
    raise error


def test_a_refusal_is_one_sentence_without_secrets_and_no_bug() -> None:
    assert tried(lambda: refuse(DataError("Mend it."))) is None
    for text in ("", f"the key {SECRET}"):
        with pytest.raises(AssertionError):
            tried(partial(refuse, DataError(text)))
    for error in (KeyError("a"), UnexpectedError("a bug")):
        with pytest.raises(type(error)):
            tried(partial(refuse, error))
