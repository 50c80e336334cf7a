"""Shared by the tests: composed configurations, and the commands run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stealing.data.draws import Dice, generator

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)


def choose(*overrides: str, name: str = "train") -> DictConfig:
    """What the command would run with these overrides."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def dice(count: int, *key: int | str) -> Dice:
    """Random numbers for a batch of one process."""
    return Dice(generator(*key), count, slice(None))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run a script of the project in a process of its own, with its own work folder."""

    def run(
        script: str, *arguments: str, stdin: int | None = subprocess.DEVNULL, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "STEALING_WORK": str(tmp_path / "work"), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, script, *arguments], cwd=ROOT, env=env, stdin=stdin, capture_output=True, text=True
        )

    return run


DEBUG = ("experiment=debug", "trainer.threads=1")
