"""Every architecture, and files that load strictly."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import ROOT, choose
from safetensors.torch import load_file, save_file

from stealing.config import to_dict
from stealing.data.sampling import generator
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.encoders.headless import Headless
from stealing.errors import CheckpointError, ConfigError
from stealing.evaluation.features import encode

ARCHS = sorted(path.stem for path in (ROOT / "conf" / "arch").glob("*.yaml"))
IMAGES = torch.randint(0, 256, (5, 3, 32, 32), generator=generator("images"), dtype=torch.uint8)


def seen(arch: str) -> torch.Tensor:
    """Images of 16 pixels if the stem keeps them all, which is slow; otherwise of 32."""
    backbone = to_dict(choose(f"arch={arch}").arch).get("backbone", {})  # timm has its own
    keeps_all = backbone.get("stem") in ("cifar", "cont_steal")
    return IMAGES[..., ::2, ::2] if keeps_all else IMAGES


def built(arch: str = "narrow", seed: int = 0) -> Encoder:
    return build_encoder(to_dict(choose(f"arch={arch}").arch), seed)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_gives_its_features_learns_and_comes_back_from_its_file(
    arch: str, tmp_path: Path
) -> None:
    encoder, images = built(arch), seen(arch)
    encoder.train()(images.float() / 255).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    save_encoder(
        encoder,
        tmp_path / "e.safetensors",
        arch=to_dict(choose(f"arch={arch}").arch),
        size=32,
        provenance={},
    )
    loaded, card = load_encoder(tmp_path / "e.safetensors")
    features = encode(loaded, images)
    assert features.shape == (5, card["feature_dim"]) and loaded.fingerprint == encoder.fingerprint
    assert torch.equal(features, encode(encoder, images))


def test_a_network_without_its_width_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"Identity has no feature_dim: set self\.feature_dim"):
        Encoder(torch.nn.Identity(), [0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("arch", ARCHS)
def test_channels_last_and_bfloat16_agree_with_float32(arch: str) -> None:
    encoder, images = built(arch).eval(), seen(arch).float() / 255
    with torch.inference_mode():
        plain_ = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(images)
        last = encoder.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(last, plain_, atol=1e-4, rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(half.float(), plain_).min() > 0.999


def test_the_cifar_stem_keeps_the_resolution_and_has_no_max_pool() -> None:
    network = built("resnet18").backbone.network
    assert (
        network.conv1.kernel_size == (3, 3)
        and network.conv1.stride == (1, 1)
        and network.conv1.padding == (1, 1)
    )
    assert isinstance(network.maxpool, torch.nn.Identity) and built("resnet18").feature_dim == 512


@pytest.mark.parametrize(
    ("arch", "width"),
    [
        ("narrow", 192),
        ("resnet34", 512),
        ("resnet50", 2048),
        ("vgg19_bn", 512),
        ("densenet121", 1024),
        ("mobilenet_v2", 1280),
    ],
)
def test_the_width_of_the_features_is_what_the_network_pools(arch: str, width: int) -> None:
    assert built(arch).feature_dim == width


def test_cont_steals_stem_pads_by_two_and_a_stem_is_refused_where_it_does_not_fit() -> None:
    assert built("resnet18_cont_steal").backbone.network.conv1.padding == (2, 2)
    with pytest.raises(ConfigError, match="set stem=imagenet"):
        Headless("vgg19_bn", stem="cifar")


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet18_cont_steal"])
def test_a_replaced_stem_starts_as_a_convolution_of_torch_and_the_rest_as_in_torchvision(
    arch: str,
) -> None:
    network = built(arch).backbone.network
    stem = network.conv1.weight.detach()
    assert float(stem.std()) == pytest.approx(0.111, abs=0.005)  # uniform in +-1 / sqrt(27)
    assert stem.abs().max() <= 1 / math.sqrt(27)
    inner = network.layer1[0].conv1.weight.detach()
    assert float(inner.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def test_the_papers_surrogate_does_not_normalise_its_images() -> None:
    assert built("resnet34").mean.eq(0).all() and built("resnet34").std.eq(1).all()


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert built(seed=1).fingerprint == built(seed=1).fingerprint != built(seed=2).fingerprint
    assert torch.equal(before, torch.get_rng_state())


def test_features_do_not_depend_on_the_batch_and_leave_the_network_as_it_was() -> None:
    encoder = built().train()
    before, many = encoder.fingerprint, torch.cat([IMAGES] * 60)
    assert torch.equal(encode(encoder, many)[-5:], encode(encoder, IMAGES)) and torch.equal(
        encode(encoder, IMAGES)[:1], encode(encoder, IMAGES[:1])
    )
    assert encoder.training and encoder.fingerprint == before


def broken(folder: Path, change: str) -> Path:
    path = folder / "e.safetensors"
    save_encoder(built(), path, arch=to_dict(choose().arch), size=32, provenance={})
    weights, card = load_file(path), json.loads(path.with_suffix(".json").read_text())
    if change == "renamed":
        weights["stem.weight"] = weights.pop("backbone.layers.0.weight")
    elif change == "shape":
        weights["mean"] = torch.zeros(1)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:1000])
        return path
    elif change == "card":
        path.with_suffix(".json").unlink()
        return path
    elif change == "pickle":
        torch.save(weights, folder / "e.pt")
        return folder / "e.pt"
    else:
        card["arch"]["backbone"]["_target_"] = "nowhere.Network"
        path.with_suffix(".json").write_text(json.dumps(card))
    save_file(weights, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("renamed", "does not fit its architecture at 'backbone.layers.0.weight'"),
        ("shape", "does not fit its architecture at 'mean'"),
        ("cut", "cannot be read"),
        ("card", "e.json does not exist"),
        ("pickle", "is not a safetensors file"),
        ("foreign", "cannot be read"),
    ],
)
def test_a_file_that_is_not_exactly_an_encoder_is_refused(
    change: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_encoder(broken(tmp_path, change))
