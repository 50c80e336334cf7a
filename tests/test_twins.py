"""Experiments of the paper at a size for a CPU: each is composed as its paper's, and runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Command, choose
from PIL import Image
from serving import save_trivial, served
from test_zero_shot import save_clip

from stealing.config import check_values, instantiate_node, to_dict
from stealing.evaluation.zero_shot import MAJORITY

SMALL = (
    "data=folders",
    "data.size=16",
    "arch=narrow",
    "arch.backbone.widths=[8,16,24]",
    "arch.backbone.stem=8",
    "budget.images=64",
    "budget.evaluation=100",
    "attack.batch_size=32",
    "attack.steps=4",
    "control.batch_size=32",
    "probe.linear={penalties:[0.1],tolerance:1.0e-3}",
    "probe.resamples=100",
    "trainer.threads=1",
    "logger=csv",
)
"""What makes an experiment small, and what it reads images of a user's own."""


def draw(folder: Path) -> list[str]:
    """Write images into queries/ and, of two classes, train/ and test/; return the override."""
    rng = np.random.default_rng(0)
    for part, count in (("queries", 64), ("train/fire_truck", 20), ("train/church", 14)):
        write_noise(folder / part, count, rng)
    for part in ("test/fire_truck", "test/church"):
        write_noise(folder / part, 10, rng)
    return [f"data.root={folder}"]


def write_noise(folder: Path, count: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def result_of(work: Path) -> dict[str, Any]:
    [folder] = (work / "runs").iterdir()
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.mark.slow
def test_a_clip_is_stolen_and_the_zero_shot_head_is_in_its_table(
    tmp_path: Path, command: Command
) -> None:
    _, target = save_clip(tmp_path)
    words = ["experiment=clip_cpu", *SMALL, *draw(tmp_path / "images")]
    words += [f"target.name={target.name}", f"target.weights={target.weights}"]
    ran = command("train.py", *words)
    assert ran.returncode == 0, ran.stderr
    assert "zero_shot: the class whose text is nearest" in ran.stdout
    result = result_of(tmp_path / "work")
    row = result["tasks"]["mine"]["zero_shot"]
    # Half of the test images are of the class that most training images are of.
    assert row["controls"] == {MAJORITY: 0.5} and row["agreement_ceiling"] == 1
    assert "0.500 majority" in ran.stdout and "texts" in result["data"]
    judged = command("eval.py", *words, "target=open_clip", "heads=zero_shot")
    assert judged.returncode == 0, judged.stderr
    heads = json.loads(judged.stdout)["tasks"]["mine"]
    assert heads["zero_shot"]["accuracy"] == row["TA"] and "linear" not in heads


@pytest.mark.slow
def test_a_paid_service_is_stolen_and_each_query_has_its_price(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = save_trivial(tmp_path, width=1024, size=16)
    words = ["experiment=clarifai_cpu", *SMALL, *draw(tmp_path / "images")]
    with served(tmp_path, encoder=encoder) as service:
        monkeypatch.setenv("STEALING_KEY", service.key)
        ran = command("train.py", *words, f"target.remote.url={service.url}")
        assert ran.returncode == 0, ran.stderr
        billed = service.billed()
    queries = result_of(tmp_path / "work")["queries"]
    assert queries["spent"] == 64 and queries["cost"] == pytest.approx(64 * 0.002)
    # The first contact asks about two images, one of them twice.
    assert billed == queries["spent"] + queries["evaluation"] == 64 + 54 + 3
    [path] = (tmp_path / "work" / "surrogates").glob("*/adapter.safetensors")
    assert path.stat().st_size > 4 * 24 * 1024


TWINS = {"clip_cpu": "clip_paper", "clarifai_cpu": "clarifai_paper"}


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_smaller_than_its_papers_experiment_and_its_header_says_how_to_run_it(
    name: str,
) -> None:
    weights = ["target.weights=my/clip.pt"] if "clip" in name else []
    twin = choose(f"experiment={name}", *weights)
    paper = choose(f"experiment={TWINS[name]}", *weights)
    check_values(twin)
    assert twin.budget.images < paper.budget.images and twin.budget.price >= paper.budget.price
    header = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert f"The twin of experiment={TWINS[name]}." in header
    assert f"python train.py experiment={name}" in header and "# Departures: " in header
    # An experiment with the zero-shot head has it with one prompt, that of the released code.
    protocols = [instantiate_node(one.probe) for one in (twin, paper)]
    assert protocols[0].zero_shot == protocols[1].zero_shot
    is_local = twin.target.remote is None
    assert is_local == (paper.target.remote is None) == (protocols[0].zero_shot is not None)
    if not is_local:
        bodies = [to_dict(one.target.remote)["wire"]["picture"] for one in (twin, paper)]
        assert bodies == ["png", "png"]
