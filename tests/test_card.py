"""What only a GPU can show, at a small size: its experiment's recipe, and its list of commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from stealing.config import check_choices, to_dict
from stealing.encoders import build_encoder


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """The configuration of `experiment=cifar10_gpu`, with that of its sweep."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["experiment=cifar10_gpu"], return_hydra_config=True)


def test_the_experiment_for_a_gpu_has_the_recipe_that_its_header_names(
    composed: DictConfig,
) -> None:
    recipe = to_dict(composed.pretrain)
    optimizer: Any = instantiate(composed.pretrain.optimizer)
    assert (recipe["epochs"], recipe["batch_size"], recipe["views"]["grey"]) == (100, 512, 0.1)
    assert optimizer.func.__name__ == "SGD"
    assert optimizer.keywords["lr"] == 0.06 * recipe["batch_size"] / 256
    assert recipe["method"]["_target_"].endswith("SimCLRModule")
    assert (composed.trainer.accelerator, composed.trainer.precision) == ("gpu", "bf16-mixed")
    assert composed.trainer.graph
    names = [build_encoder(to_dict(composed[part]), 0) for part in ("target_arch", "arch")]
    blocks = [sum(type(part).__name__ == "BasicBlock" for part in one.modules()) for one in names]
    assert blocks == [8, 16], "a ResNet-18 is stolen into a ResNet-34"


def test_it_buys_2500_answers_for_both_recipes_and_judges_eleven_tasks(
    composed: DictConfig,
) -> None:
    assert composed.budget.images == 2500
    assert "tiny-imagenet" in composed.data.queries.images.path
    assert len(composed.data.tasks) == 11 and composed.until == "evaluate"
    assert composed.hydra.mode.name == "MULTIRUN"
    attacks = composed.hydra.sweeper.params.attack.split(",")
    assert sorted(attacks) == ["stolen_encoder", "stolen_encoder_paper"]
    for attack in attacks:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            check_choices(
                compose("train", overrides=["experiment=cifar10_gpu", f"attack={attack}"])
            )


@pytest.mark.slow
def test_the_commands_for_a_card_run_at_a_small_size_and_a_killed_one_goes_on(
    tmp_path: Path,
) -> None:
    folders = {"STEALING_WORK": str(tmp_path / "work"), "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        [sys.executable, "benchmarks/card.py", "--small"],
        cwd=ROOT,
        env={**os.environ, **folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    out = tmp_path / "out"
    logs = {path.stem: path.read_text()[-2000:] for path in out.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    steps = {step["name"]: step for step in json.loads((out / "card.json").read_text())["steps"]}
    assert list(steps) == ["speed", "pretrain", "quickstart", "resumed", "cifar10_gpu"]
    assert steps["resumed"]["killed_in_a_fit"]
    assert json.loads((out / "speed.json").read_text())["rows"][0]["ours"] > 0
    assert len(list(out.glob("*-s[01]-*.json"))) == 2, "results of the two seeds"
