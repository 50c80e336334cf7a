"""Whole runs against encoders of other programs, and what is said about them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import DEBUG, Command
from test_foreign import head, resnet, under
from test_towers import clip_files, export

from stealing.encoders import load_encoder
from stealing.encoders.foreign.load import load_foreign
from stealing.encoders.foreign.loaded import ForeignTarget
from stealing.errors import CheckpointError, ConfigError
from stealing.saved.ownership import _own_permissions
from stealing.targets.foreign_check import effective_rank, lines_of

SHORT = (*DEBUG, "~data.tasks.scene_kind", "~data.tasks.plain_kind", "~data.tasks.plain_texture")
OPAQUE = ("target.size=32", "target.mean=[0.5,0.5,0.5]", "target.std=[0.25,0.25,0.25]")


def made(family: str, folder: Path) -> list[str]:
    """Write a checkpoint of the family; return the overrides that name it."""
    path = folder / "checkpoint.pth"
    words = [f"target={family}", f"target.weights={path}"]
    if family == "timm":
        torch.save(timm.create_model("test_vit", num_classes=5, img_size=32).state_dict(), path)
        return [*words, "target.name=test_vit", "target.size=32"]
    if family == "open_clip":
        _, config, weights = clip_files(folder)
        return [f"target={family}", f"target.name={config}", f"target.weights={weights}"]
    if family == "torchvision":
        weights = under("module.", resnet().state_dict() | head("fc.", "weight", "bias"))
        torch.save({"state_dict": weights}, path)
        return [*words, "target.name=resnet18", "target.size=32"]
    export(family, path)
    return [*words, *OPAQUE]


SLOW = ("timm", "torchscript", "onnx", "open_clip")


@pytest.mark.parametrize(
    "family", ["torchvision", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_run_steals_an_encoder_of_another_program(
    family: str, tmp_path: Path, command: Command
) -> None:
    ran = command("train.py", *SHORT, *made(family, tmp_path))
    assert ran.returncode == 0, ran.stderr
    [folder] = (tmp_path / "work" / "runs").iterdir()
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    [stored] = (tmp_path / "work" / "targets").glob("*/loaded.json")
    assert stored.parent.name == result["target"]
    figures = json.loads(stored.read_text())
    assert figures["size"] == 32 and 0 <= figures["knn"] <= 1 and figures["rank"] > 0
    assert "On scene_texture: kNN" in ran.stderr
    if family == "torchvision":
        assert "Left out: fc.bias, fc.weight." in ran.stderr


@pytest.mark.parametrize(
    ("settings", "words", "reason"),
    [
        ({"family": "torchscript"}, (), r"add \+target\.family=torchscript if you trust"),
        ({"family": "onnx"}, ("+target.family=torchscript",), r"add \+target\.family=onnx"),
        ({"family": "timm", "hub": True}, (), r"add \+target\.hub=true if it may"),
    ],
)
def test_a_strangers_run_loads_no_code_and_fetches_nothing_without_the_users_word(
    settings: dict[str, Any], words: tuple[str, ...], reason: str
) -> None:
    target = {"weights": "theirs.pt", "name": "resnet18", **settings}
    with pytest.raises(ConfigError, match=reason):
        _own_permissions(target, words)
    family = settings["family"]
    _own_permissions(target, (f"+target.family={family}", "+target.hub=true"))


def test_a_wrong_network_is_warned_of_and_a_right_one_is_not() -> None:
    good = {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 32, "notes": [], "left_out": []}
    good |= {"architecture": "a", "source": "s", "width": 8, "crop": 1.0, "task": "t"}
    good |= {"knn": 0.8, "knn_untrained": 0.5, "norm": 3.0, "cosine": 0.4, "rank": 9.0}
    assert not any("Warning" in line for line in lines_of(good))
    assert "no better than an untrained" in "".join(lines_of(good | {"knn": 0.52}))
    assert "collapsed" in "".join(lines_of(good | {"cosine": 0.9999}))
    assert "collapsed" in "".join(lines_of(good | {"rank": 1.2}))


def test_the_effective_rank_counts_directions() -> None:
    basis = torch.eye(8)
    assert effective_rank(torch.cat([basis, -basis])) == pytest.approx(8)
    line = torch.linspace(-1, 1, 9)[:, None] * torch.ones(8)
    assert effective_rank(line) == pytest.approx(1)


def test_a_normalisation_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(resnet().state_dict(), path)
    raw = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    [note] = load_foreign(ForeignTarget("torchvision", "resnet18", str(path), **raw)).notes
    assert note.startswith("raw images in 0 to 1 take the place of the usual mean 0.485")
    assert load_foreign(ForeignTarget("torchvision", "resnet18", str(path), size=64)).notes == ()


def test_a_file_of_another_program_is_told_its_option(tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(CheckpointError, match=r"choose target=timm, .* target\.weights="):
            load_encoder(tmp_path / name)
