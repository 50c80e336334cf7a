"""A run's surrogate as a module: the folder of a run in, features in the target's space out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import stealing
from stealing.artefacts import write_done
from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.errors import CheckpointError, DamageError
from stealing.surrogates import load_surrogate

WIDTH = 12
ARCH: dict[str, Any] = {
    "_target_": "stealing.encoders.encoder.Encoder",
    "backbone": {
        "_target_": "stealing.encoders.resnet.NarrowResNet",
        "stem": 4,
        "widths": [WIDTH],
        "blocks": [1],
    },
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
PLACE = "surrogates/0123456789abcdef"
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def adapter(inputs: int = WIDTH, outputs: int = 20) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(torch.nn.Linear(inputs, outputs).state_dict())


def run_folder(work: Path, weights: dict[str, torch.Tensor], *, place: str = PLACE) -> Path:
    """A finished run with a surrogate that has these weights of an adapter."""
    folder = work / PLACE
    folder.mkdir(parents=True)
    encoder = build_encoder(ARCH, 0)
    save_encoder(encoder, folder / "encoder.safetensors", arch=ARCH, size=16, provenance={})
    save_file(weights, folder / "adapter.safetensors")
    write_done(folder, files=("encoder.safetensors", "encoder.json", "adapter.safetensors"))
    run = work / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "result.json").write_text(json.dumps({"artefacts": {"surrogate": place}}))
    write_done(run, files=("result.json",), until="evaluate")
    return run


@pytest.mark.parametrize("kind", [str, Path])
def test_a_surrogate_is_the_runs_encoder_and_then_its_adapter(kind: type, tmp_path: Path) -> None:
    weights = adapter()
    run = run_folder(tmp_path, weights)
    before = torch.get_rng_state()
    surrogate = stealing.load_surrogate(kind(run))
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers"
    encoder, _ = load_encoder(str(tmp_path / PLACE / "encoder.safetensors"))
    assert not surrogate.training and not surrogate.encoder.training
    assert surrogate.feature_dim == 20 and surrogate.encoder.feature_dim == WIDTH
    with torch.no_grad():
        features = encoder(IMAGES)
        assert torch.equal(surrogate.encoder(IMAGES), features)
        expected = features @ weights["weight"].T + weights["bias"]
        assert torch.allclose(surrogate(IMAGES), expected, atol=1e-6)


def test_an_adapter_without_weights_leaves_features_as_they_are(tmp_path: Path) -> None:
    surrogate = load_surrogate(run_folder(tmp_path, {}))
    with torch.no_grad():
        assert torch.equal(surrogate(IMAGES), surrogate.encoder(IMAGES))
    assert surrogate.feature_dim == WIDTH


def test_another_folder_and_an_unfinished_run_are_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path, adapter())
    for folder in (tmp_path, tmp_path / PLACE, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="is not a run's folder"):
            load_surrogate(folder)
    (run / "result.json").unlink()
    with pytest.raises(CheckpointError, match="until=evaluate"):
        load_surrogate(run)
    (run / "done.json").unlink()
    with pytest.raises(CheckpointError, match="is not finished: run its command again"):
        load_surrogate(run)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (adapter(inputs=8), "it takes features of width 8, and the encoder's width is 12"),
        ({"weight": torch.zeros(3)}, "it holds no linear layer"),
        ({"weight": torch.ones(4, WIDTH), "bias": torch.ones(5)}, "its bias is of another width"),
        (
            {"weight": torch.ones(4, WIDTH), "bias": torch.ones(4)},
            "weights that are all one number",
        ),
        (adapter() | {"bias": torch.full((20,), torch.nan)}, "not finite"),
        (adapter() | {"bias": torch.ones(20, dtype=torch.int64)}, "its weights are not floats"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    weights: dict[str, torch.Tensor], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_surrogate(run_folder(tmp_path, weights))


def test_a_broken_or_absent_adapter_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path, adapter())
    path = tmp_path / PLACE / "adapter.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamageError, match="checksum"):
        load_surrogate(run)
    (path.parent / "done.json").unlink()
    path.write_bytes(content[:40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_surrogate(run)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors does not exist"):
        load_surrogate(run)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "a/../../b", "${oc.env:HOME}", ""])
def test_a_result_cannot_name_a_surrogate_outside_its_work_folder(
    place: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="names no surrogate in its own work folder"):
        load_surrogate(run_folder(tmp_path, adapter(), place=place))


def test_importing_the_package_alone_loads_no_torch() -> None:
    code = "import sys, stealing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        stealing.absent  # noqa: B018
