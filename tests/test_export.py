"""A surrogate leaves for other programs: each format gives its features, or no file is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from conftest import Command

import stealing
from stealing.artefacts import read_object
from stealing.encoders import build_encoder, load_encoder
from stealing.errors import CheckpointError, ConfigError
from stealing.export import formats
from stealing.export.__main__ import main
from stealing.export.card import card_of
from stealing.export.formats import FORMATS
from stealing.export.sources import Source
from stealing.export.write import export, largest_difference
from stealing.surrogates import Surrogate

WIDTH = 12
"""Features of the target, which the adapters here map to."""

NARROW: dict[str, Any] = {
    "class": "Encoder",
    "backbone": {
        "class": "Resized",
        "size": 16,
        "backbone": {"class": "NarrowResNet", "stem": 8, "widths": [8, 16], "blocks": [1, 1]},
    },
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.25],
}


def timm_arch(name: str) -> dict[str, Any]:
    return {"class": "TimmEncoder", "name": name, "size": 32}


def source(arch: dict[str, Any], size: int = 24, width: int | None = WIDTH) -> Source:
    """A surrogate with weights that differ from the initial ones."""
    encoder = build_encoder(arch, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        images = torch.rand(5, 3, size, size)
        encoder.train()
        encoder(images)  # BatchNorm statistics that are not the initial ones
        adapter: torch.nn.Module = torch.nn.Identity()
        if width is not None:
            adapter = torch.nn.Linear(encoder.feature_dim, width)
    module = Surrogate(encoder, adapter, width or encoder.feature_dim).eval()
    return Source("a surrogate", module, arch, size, images, None)


def features(given: Source, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return given.module(images)


@pytest.mark.parametrize("width", [WIDTH, None])
@pytest.mark.parametrize("arch", [NARROW, timm_arch("test_vit")], ids=["narrow", "vit"])
def test_our_own_format_is_one_encoder_in_the_targets_width(
    arch: dict[str, Any], width: int | None, tmp_path: Path
) -> None:
    given = source(arch, width=width)
    difference = export(given, "safetensors", tmp_path / "stolen.safetensors")
    encoder, card = load_encoder(tmp_path / "stolen.safetensors")
    assert encoder.feature_dim == card["feature_dim"] == given.module.feature_dim
    images = torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), features(given, images), rtol=0, atol=1e-5)
    assert difference <= 1e-5 and card["size"] == 24
    assert {path.name for path in tmp_path.iterdir()} == {
        "stolen.safetensors",
        "stolen.json",
        "stolen.md",
    }


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_timm_loads_the_file_with_the_adapter_as_its_classifier(name: str, tmp_path: Path) -> None:
    given = source(timm_arch(name), size=32)
    path = tmp_path / "stolen.safetensors"
    export(given, "timm", path)
    fixed = {"img_size": 32} if name == "test_vit" else {}
    network = timm.create_model(name, num_classes=WIDTH, checkpoint_path=str(path), **fixed).eval()
    encoder = given.module.encoder
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        found = network((images - encoder.mean) / encoder.std)
    torch.testing.assert_close(found, features(given, images), rtol=0, atol=1e-4)
    card = (tmp_path / "stolen.md").read_text()
    assert f"timm.create_model(model_name='{name}', num_classes={WIDTH}" in card
    assert "mean [" in card and "(B, 3, 32, 32)" in card


def test_what_is_not_timms_or_has_a_head_of_layers_is_refused_for_timm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is NarrowResNet, and not one of timm's: export it --to"):
        export(source(NARROW), "timm", tmp_path / "stolen.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arch", [NARROW, timm_arch("test_vit")], ids=["narrow", "vit"])
def test_torchscript_gives_the_same_features_in_batches_of_any_number(
    arch: dict[str, Any], tmp_path: Path
) -> None:
    given = source(arch)
    export(given, "torchscript", tmp_path / "stolen.pt")
    network = torch.jit.load(tmp_path / "stolen.pt")
    for count in (1, 4, 7):
        images = torch.rand(count, 3, 24, 24)
        with torch.inference_mode():
            found = network(images)
        torch.testing.assert_close(found, features(given, images), rtol=0, atol=1e-4)
    assert "A TorchScript archive is code" in (tmp_path / "stolen.md").read_text()


@pytest.mark.parametrize("arch", [NARROW, timm_arch("test_vit")], ids=["narrow", "vit"])
def test_onnx_gives_the_same_features_in_batches_of_any_number(
    arch: dict[str, Any], tmp_path: Path
) -> None:
    given = source(arch)
    export(given, "onnx", tmp_path / "stolen.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "stolen.onnx"))
    for count in (1, 4, 7):
        images = torch.rand(count, 3, 24, 24)
        [found] = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, features(given, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_file_that_gives_other_features_is_not_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, _ = FORMATS[kind]
    given = source(timm_arch("test_resnet"), size=32)

    def wrong(given: Source, path: Path) -> formats.Network:
        path.write_bytes(b"half")
        return lambda images: features(given, images) + 3e-4

    monkeypatch.setitem(FORMATS, kind, (suffix, wrong))
    with pytest.raises(CheckpointError, match="features that differ by .*nothing was kept"):
        export(given, kind, tmp_path / f"stolen{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_nan_another_width_and_a_batch_that_is_a_constant_are_noticed() -> None:
    given = source(NARROW)
    images = given.images
    expected = features(given, images)
    assert largest_difference(given, given.module) < 1e-6
    for network in (
        lambda images: features(given, images) * torch.nan,
        lambda images: features(given, images)[:, :-1],
        lambda images: expected,
    ):
        with pytest.raises(CheckpointError, match="gives features"):
            largest_difference(given, network)


def test_a_wrong_name_and_a_file_that_is_there_are_refused(tmp_path: Path) -> None:
    given = source(NARROW)
    with pytest.raises(ConfigError, match=r"does not end in \.onnx"):
        export(given, "onnx", tmp_path / "stolen.pt")
    for name in ("stolen.safetensors", "stolen.json", "stolen.md"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name} is there already"):
            export(given, "safetensors", tmp_path / "stolen.safetensors")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_card_of_a_strangers_run_holds_its_names_as_text(tmp_path: Path) -> None:
    result = read_object(Path("results/quickstart/seed-0.json"))
    result["choices"]["target"] = "<script>|`x`"
    task = next(iter(result["tasks"]))
    result["tasks"]["a|b<i>"] = result["tasks"].pop(task)
    given = source(NARROW)
    given = Source(given.name, given.module, given.arch, given.size, given.images, result)
    card = card_of(given, "onnx", tmp_path / "stolen.onnx")
    assert r"\<script>\|\`x\`" in card and r"a\|b\<i>" in card
    assert f"{result['queries']['spent']} of {result['queries']['budget']} allowed" in card
    assert "Before you share this file" in card and "answers of another encoder" in card
    row = next(iter(result["tasks"].values()))["linear"]
    assert f"{row['TA']:.3f}" in card and f"{row['SA']:.3f}" in card


def test_the_command_exports_a_finished_run_and_a_file(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = command("train.py", "experiment=debug", "attack.steps=4", "pretrain.epochs=1")
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "work" / "runs").glob("*/result.json")
    out = tmp_path / "out"

    def run_command(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    told = run_command(run.parent, out / "stolen.safetensors", "--to", "safetensors")
    assert "stolen.safetensors and its card" in told
    surrogate = stealing.load_surrogate(run.parent)
    encoder, _ = load_encoder(out / "stolen.safetensors")
    images = torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), surrogate(images), rtol=0, atol=1e-5)
    card = (out / "stolen.md").read_text()
    result = read_object(run)
    assert result["target"] in card and "| pixels |" not in card and "plain_kind" in card
    run_command(out / "stolen.safetensors", out / "again.pt", "--to", "torchscript")
    assert "Its weights and the images" in (out / "again.md").read_text()
    with pytest.raises(SystemExit, match="there already"):
        run_command(out / "stolen.safetensors", out / "again.pt", "--to", "torchscript")
    with pytest.raises(SystemExit, match="does not exist"):
        run_command(out / "nothing.safetensors", out / "new.pt", "--to", "torchscript")
