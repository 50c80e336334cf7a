"""Surrogates of timm's networks: size, public weights to start from, and the control of these."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import choose, run_script
from safetensors.torch import save_file

from stealing.artefacts import read_object
from stealing.config import to_dict
from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.encoders.initial import arch_in_key, has_public_start, random_start
from stealing.errors import CheckpointError, ConfigError
from stealing.evaluation import controls
from stealing.evaluation.protocol import CONTROLS, controls_among
from stealing.evaluation.shares import strongest_control
from stealing.report.console import remarks

NETWORKS = ("test_vit", "test_resnet", "test_efficientnet", "test_convnext")
IMAGES = torch.rand(4, 3, 48, 40, generator=torch.Generator().manual_seed(0))


def node(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": "stealing.encoders.timm_encoder.TimmEncoder", "name": name, **settings}


def published(path: Path, name: str, classes: int = 5) -> Any:
    """A network of timm with a classifier, whose weights are in a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        size = {"img_size": 32} if name == "test_vit" else {}
        network = timm.create_model(name, num_classes=classes, **size).eval()
    save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_surrogate_of_timm_has_its_networks_normalisation_and_takes_any_images(
    name: str, tmp_path: Path
) -> None:
    encoder = build_encoder(node(name, size=32), 3).eval()
    settings = timm.get_pretrained_cfg(name)
    assert encoder.mean.flatten().tolist() == pytest.approx(settings.mean)
    assert encoder.std.flatten().tolist() == pytest.approx(settings.std)
    features = encoder(IMAGES)
    assert features.shape == (4, encoder.feature_dim)
    resized = torch.nn.functional.interpolate(
        IMAGES, (38, 32), mode="bicubic", antialias=True, align_corners=False
    )[:, :, 3:35]
    torch.testing.assert_close(features, encoder(resized), rtol=0, atol=1e-4)
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, arch=node(name, size=32), size=32, provenance={})
    loaded, _ = load_encoder(path)
    assert torch.equal(loaded(IMAGES), features) and loaded.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        arch = node(name, size=32, checkpointing=checkpointing)
        encoder = build_encoder(arch, 3)
        # Dropping paths at random would draw other numbers; these networks have none by default.
        encoder(IMAGES).square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_public_weights_are_where_training_starts_and_a_card_does_not_keep_their_place(
    tmp_path: Path,
) -> None:
    network = published(tmp_path / "public.safetensors", "test_resnet")
    arch = node("test_resnet", size=32, weights=str(tmp_path / "public.safetensors"))
    start = build_encoder(arch, 0)
    for name, tensor in start.backbone.backbone.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    save_encoder(start, tmp_path / "stolen.safetensors", arch=arch, size=32, provenance={})
    assert "public.safetensors" not in (tmp_path / "stolen.json").read_text()
    (tmp_path / "public.safetensors").unlink()
    loaded, _ = load_encoder(tmp_path / "stolen.safetensors")
    assert loaded.fingerprint == start.fingerprint
    with pytest.raises(ConfigError, match=r"arch.* does not fit: .*public\.safetensors"):
        build_encoder(arch, 0)


def test_keys_have_the_content_of_public_weights_and_not_their_place(tmp_path: Path) -> None:
    for name, classes in (("one", 5), ("same", 5), ("other", 6)):
        published(tmp_path / f"{name}.safetensors", "test_resnet", classes)
    archs = [
        node("test_resnet", weights=str(tmp_path / f"{name}.safetensors"))
        for name in ("one", "same", "other")
    ]
    one, same, other = map(arch_in_key, archs)
    assert one == same != other and str(tmp_path) not in str(one)
    for group in ("narrow", "timm", "resnet34", "narrow64"):
        plain = to_dict(choose(f"arch={group}", "target=zoo").arch)
        assert arch_in_key(plain) == plain and not has_public_start(plain), "as keys ever were"
    nested = {"_target_": "my.Class", "weights": "DEFAULT", "inner": archs[0]}
    assert arch_in_key(nested) == {**nested, "inner": one} and has_public_start(nested)
    with pytest.raises(ConfigError, match=r"arch\.weights=.*gone.* cannot be read"):
        arch_in_key(node("test_resnet", weights=str(tmp_path / "gone.safetensors")))


def test_the_public_encoder_is_a_control_beside_random_weights(tmp_path: Path) -> None:
    published(tmp_path / "public.safetensors", "test_resnet")
    arch = node("test_resnet", size=32, weights=str(tmp_path / "public.safetensors"))
    public = controls.public(arch, 0)
    assert public is not None and not public.training
    assert public.fingerprint == build_encoder(arch, 5).fingerprint, "whatever the seed"
    untrained = controls.untrained(arch, 0)
    assert untrained.fingerprint == build_encoder(random_start(arch), 0).fingerprint
    assert untrained.fingerprint != public.fingerprint
    plain = node("test_resnet", size=32)
    assert controls.public(plain, 0) is None
    assert controls.untrained(plain, 4).fingerprint == build_encoder(plain, 4).fingerprint


def test_the_public_encoder_counts_where_the_strongest_control_is_chosen() -> None:
    held = {**dict.fromkeys(CONTROLS, 0.3), "SA": 0.9, "TA": 0.95}
    assert strongest_control(held).name == CONTROLS[0]
    control = strongest_control({**held, "public": 0.5})
    assert control.name == "public" and control.lead == pytest.approx(0.2)
    assert controls_among(held) == list(CONTROLS), "a run without it has the controls that it had"


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"name": "resnet999"}, ConfigError, "network of timm"),
        ({"name": "hf-hub:timm/resnet18"}, ConfigError, "network of timm"),
        ({"name": "test_vit", "size": 37}, ConfigError, "arch= does not fit"),
        ({"name": "test_resnet", "weights": "no/such.pth"}, ConfigError, "cannot be read"),
        ({"name": "test_resnet", "checkpointing": "yes"}, ConfigError, "true or false"),
    ],
)
def test_what_timm_does_not_have_is_refused_in_one_sentence(
    settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        build_encoder(node(**settings), 0)(IMAGES)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    published(tmp_path / "public.safetensors", "test_convnext")
    arch = node("test_resnet", weights=str(tmp_path / "public.safetensors"))
    with pytest.raises((ConfigError, CheckpointError), match="does not fit"):
        build_encoder(arch, 0)


def test_a_run_on_large_images_tells_the_public_control_and_the_reduced_pixels(
    tmp_path: Path,
) -> None:
    published(tmp_path / "public.safetensors", "test_resnet")
    work = tmp_path / "work"
    done = run_script(
        work,
        "train.py",
        "experiment=debug",
        "arch=timm",
        "~arch.backbone",  # of the experiment's own network
        "arch.name=test_resnet",
        "arch.size=32",
        f"arch.weights={tmp_path / 'public.safetensors'}",
        "arch.checkpointing=true",
        # torch 2.15 crashes in a strided 1x1 convolution of 8 channels at this size, channels last.
        "target_arch.backbone.stem=16",
        "data.size=48",
        "pretrain.epochs=1",
        "attack.steps=4",
        "data.pretrain.count=64",
    )
    assert done.returncode == 0, done.stderr
    [path] = work.glob("runs/*/result.json")
    result = read_object(path)
    assert result["pixels"] == {"size": 48, "reduced_to": 32}
    assert any("48 pixels averaged to 32" in sentence for sentence in remarks(result))
    for heads in result["tasks"].values():
        for head, row in heads.items():
            if head != "role":
                assert set(row["controls"]) == {*CONTROLS, "public"}
                assert row["control"]["name"] in row["controls"]
    [folder] = (work / "surrogates").glob("*/adapter.safetensors")
    surrogate, card = load_encoder(folder.parent / "encoder.safetensors")
    assert isinstance(surrogate, Encoder) and "weights" not in card["arch"]
    noise = Images("x", np.zeros((2, 3, 48, 48), np.uint8), None, 0, np.arange(2), "x")
    assert surrogate(noise.batch(slice(None)).float()).shape == (2, surrogate.feature_dim)
