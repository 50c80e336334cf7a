"""Threads wait without spinning: OpenMP reads its policy when torch loads, so it is set before. The
processes of a machine share its cores, whoever started them."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, choose

from stealing import config

AT_TORCH = """
import importlib.abc, os, runpy, sys
class AtTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("policy:", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, AtTorch())
command, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = command
if command.endswith(".py"):
    sys.path.insert(0, os.getcwd())
    runpy.run_path(command, run_name="__main__")
else:
    runpy.run_module(command, run_name="__main__", alter_sys=True)
"""
"""Runs a command until it imports torch, and shows what torch would read."""

COMMANDS = [
    ("train.py", "experiment=debug"),
    ("eval.py", "target.path=README.md"),
    ("stealing.pipeline",),
    ("stealing.service",),
    ("stealing.queries", "--help"),
    ("stealing.report", "work"),
    ("stealing.report.dashboard", "--help"),
    ("stealing.service.accounts", "--help"),
    ("stealing.settings",),
]
"""Every way to start a process of this project."""


def policy(*command: str, **environment: str) -> str | None:
    """Return OpenMP's policy in a process of this command, or None if it never loads torch."""
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    line = [sys.executable, "-c", AT_TORCH, *command]
    done = subprocess.run(
        line, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )
    told = [text for text in done.stdout.splitlines() if text.startswith("policy:")]
    return told[0].split()[1] if told else None


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_commands_threads_wait_passively(command: tuple[str, ...]) -> None:
    assert policy(*command) == "PASSIVE"


def test_a_users_own_policy_stays() -> None:
    assert policy("train.py", "experiment=debug", OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


@pytest.mark.parametrize(
    ("devices", "environment", "threads"),
    [
        (1, {}, 12),
        (2, {}, 6),
        (1, {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4"}, 3),
        (2, {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4"}, 3),
        (1, {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "99"}, 1),
        (1, {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "many"}, 12),
        (1, {"LOCAL_WORLD_SIZE": "4"}, 12),
    ],
)
def test_the_processes_of_a_machine_share_its_cores_whoever_started_them(
    devices: int, environment: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "usable_cores", lambda: 12)
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose(f"trainer.devices={devices}").trainer.threads == threads
