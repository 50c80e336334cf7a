"""timm's networks, and images that are resized inside an encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V

from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.encoders.building import check_arch
from stealing.encoders.resized import Resized
from stealing.encoders.timm_network import Timm
from stealing.errors import CheckpointError, ConfigError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = ("test_vit", "test_resnet", "test_efficientnet", "test_convnext")


def arch(backbone: dict[str, Any]) -> dict[str, Any]:
    return {"class": "Encoder", "backbone": backbone, "mean": [0.5] * 3, "std": [0.25] * 3}


def network(name: str, classes: int = 0) -> Any:
    fixed = {"img_size": 32} if "vit" in name else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return timm.create_model(name, num_classes=classes, **fixed).eval()


class Mean(torch.nn.Module):
    """Mean of each channel, and what it was asked about."""

    feature_dim = 3
    seen = torch.empty(0)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.seen = images_BCHW
        return images_BCHW.mean((2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_timm_with_its_classifier_gives_timms_features(name: str, tmp_path: Path) -> None:
    source = network(name, classes=7)
    for end in (".safetensors", ".pth"):
        path = tmp_path / f"weights{end}"
        if end == ".pth":
            torch.save({"state_dict": source.state_dict(), "epoch": 3}, path)
        else:
            save_file(source.state_dict(), path)
        node = {"class": "Timm", "name": name, "size": 32, "weights": str(path)}
        wanted = arch({"class": "Resized", "size": 32, "backbone": node})
        encoder = build_encoder(wanted, 0).eval()
        with torch.no_grad():
            seen = (IMAGES - 0.5) / 0.25
            features = source.forward_head(source.forward_features(seen), pre_logits=True)
            torch.testing.assert_close(encoder(IMAGES), features, rtol=0, atol=1e-5)
    # a card keeps the network, and neither the file nor how it was trained
    save_encoder(encoder, tmp_path / "e.safetensors", arch=wanted, size=32, provenance={})
    assert "weights" not in (tmp_path / "e.json").read_text().partition("feature_dim")[0]


def test_a_card_names_a_network_of_timm_and_never_a_file_or_the_hub(tmp_path: Path) -> None:
    node = {"class": "Timm", "name": "test_vit", "size": 32, "checkpointing": True}
    wanted = arch({"class": "Resized", "size": 32, "crop_share": 0.9, "backbone": node})
    encoder = build_encoder(wanted, 3)
    path = tmp_path / "e.safetensors"
    save_encoder(encoder, path, arch=wanted, size=48, provenance={})
    loaded, card = load_encoder(path)
    assert loaded.fingerprint == encoder.fingerprint and card["feature_dim"] == 64
    assert card["arch"]["backbone"]["backbone"] == {"class": "Timm", "name": "test_vit", "size": 32}
    for name, value in {"weights": "/etc/hostname", "hub": True}.items():
        strange = json.loads(path.with_suffix(".json").read_text())
        strange["arch"]["backbone"]["backbone"][name] = value
        path.with_suffix(".json").write_text(json.dumps(strange))
        with pytest.raises(CheckpointError, match="names initial weights, which no card has"):
            load_encoder(path)


def test_one_renamed_or_reshaped_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    weights = network("test_resnet").state_dict()
    path = tmp_path / "weights.pth"
    renamed = dict(weights)
    renamed["layer1.0.convX.weight"] = renamed.pop("layer1.0.conv1.weight")
    torch.save(renamed, path)
    with pytest.raises(CheckpointError, match=r"does not fit ResNet at 'layer1\.0\.conv1\.weight'"):
        Timm("test_resnet", weights=str(path))
    torch.save(weights | {"conv1.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"does not fit ResNet at 'conv1\.0\.weight'"):
        Timm("test_resnet", weights=str(path))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "resnet1999"}, "has to be a network of timm"),
        ({"name": "hf-hub:timm/resnet18.a1_in1k"}, "has to be a network of timm"),
        ({"name": "test_vit", "pool": "none"}, "has to be one of avg"),
        ({"name": "test_resnet", "pool": "token"}, "timm cannot build test_resnet"),
        ({"name": "test_vit", "weights": "absent.pth"}, "absent.pth cannot be read"),
    ],
)
def test_arguments_of_timm_are_typed(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_arch(arch({"class": "Timm", **arguments}))


def test_checkpointing_saves_memory_and_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = Timm("test_vit", size=32, checkpointing=checkpointing)
        backbone(IMAGES).square().sum().backward()
        gradients.append(backbone.network.patch_embed.proj.weight.grad)
    assert backbone.network.grad_checkpointing
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_image_of_the_right_size_passes_bit_by_bit() -> None:
    backbone = Mean()
    Resized(backbone, 32, crop_share=0.875)(IMAGES)
    assert torch.equal(backbone.seen, IMAGES)
    Resized(backbone, None)(IMAGES[..., :20])
    assert torch.equal(backbone.seen, IMAGES[..., :20])


@pytest.mark.parametrize("sides", [(48, 48), (40, 64), (90, 30), (20, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_any_image_is_resized_and_cropped_as_torchvision_does(
    sides: tuple[int, int], interpolation: str
) -> None:
    images = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1))
    backbone = Mean()
    Resized(backbone, 28, interpolation, crop_share=0.875)(images)
    scaled = V.resize(images, [32], InterpolationMode(interpolation), antialias=True)
    expected = V.center_crop(scaled, [28, 28])
    assert backbone.seen.shape == (2, 3, 28, 28)
    torch.testing.assert_close(backbone.seen, expected, rtol=0, atol=1e-5)


def test_another_way_to_resize_is_another_encoder() -> None:
    node = {"class": "NarrowResNet", "stem": 4, "widths": [8], "blocks": [1]}
    fingerprints = set()
    for resizing in ({"size": 32}, {"size": 16}, {"size": 16, "crop_share": 0.9}):
        backbone = {"class": "Resized", "backbone": node, **resizing}
        fingerprints.add(build_encoder(arch(backbone), 0).fingerprint)
    assert len(fingerprints) == 3
