"""Shared by the tests: composed configurations, and the commands run as a user runs them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forks
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stealing.data.sampling import BatchRandom, generator

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # in the background a shell ignores it, and so would commands


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest file first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_sweep.py")


def choose(*overrides: str, name: str = "train") -> DictConfig:
    """What the command would run with these overrides."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def leaves(node: Any, *place: str) -> dict[tuple[str, ...], Any]:
    """The values of nested mappings by their place; lists are values."""
    if not isinstance(node, dict) or not node:
        return {place: node}
    parts = [leaves(part, *place, name) for name, part in node.items()]
    return {at: value for part in parts for at, value in part.items()}


def dice(count: int, *key: int | str) -> BatchRandom:
    """Random numbers for a batch of one process."""
    return BatchRandom(generator(*key), count, slice(None))


FORKS = Forks()
LIBRARIES = ("OMP_", "MKL_", "TORCH", "LD_", "PYTHON")
Command = Callable[..., subprocess.CompletedProcess[str]]


def run_script(
    work: Path,
    script: str,
    *arguments: str,
    stdin: int | None = subprocess.DEVNULL,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script of the project in a process of its own, as a user would, with this work
    folder."""
    env = {**os.environ, "STEALING_WORK": str(work), "OMP_NUM_THREADS": "1", **environment}
    # Libraries read their variables when they are imported, and a fork has imported them.
    if stdin == subprocess.DEVNULL and not any(name.startswith(LIBRARIES) for name in environment):
        return FORKS.run([script, *arguments], ROOT, env)
    line = [sys.executable, script, *arguments]
    return subprocess.run(line, cwd=ROOT, env=env, stdin=stdin, capture_output=True, text=True)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`run_script` with a work folder of the test's own."""
    return partial(run_script, tmp_path / "work")


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium, by Playwright; one a test, as its event loop would be in the way of tests that have
    their own."""
    # Ubuntu's name for it is the second one
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    alone = (
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
    )
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=[*alone, "--disable-sync"])
        yield running
        running.close()


def stored(work: Path) -> int:
    """Answers in the ledger of a work folder."""
    connection = sqlite3.connect(work / "ledger.sqlite")
    [(count,)] = connection.execute(
        "SELECT count(*) FROM queries WHERE state = 'stored' AND charged = 1"
    )
    connection.close()
    return int(count)


NEEDED_BY_TARGET: dict[str, tuple[str, ...]] = {
    "azure": ("target.remote.url=https://x.org", "target.remote.wire.body.model=m"),
    "file": ("target.path=pyproject.toml",),
    "huggingface": ("target.name=my/folder",),
    "onnx": ("target.weights=my/encoder.onnx",),
    "open_clip": ("target.name=ViT-B-32",),
    "openai": ("target.remote.wire.body.model=m",),
    "recording": ("target.remote.name=n",),
    "timm": ("target.name=test_vit",),
    "torchscript": ("target.weights=my/encoder.pt",),
    "torchvision": ("target.name=resnet18",),
    "vllm": ("target.remote.wire.body.model=m",),
}
"""Overrides without which an option of `target` does not compose."""

DEBUG = ("experiment=debug", "trainer.threads=1")
