"""Encoders of open_clip and transformers, and opaque functions: TorchScript and ONNX."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_foreign import head
from torch import Tensor, nn

from stealing.encoders.foreign.load import load_foreign
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.errors import CheckpointError, ConfigError

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalised(found: Loaded) -> Tensor:
    mean = torch.tensor(found.preprocessing.mean)[:, None, None]
    return (IMAGES - mean) / torch.tensor(found.preprocessing.std)[:, None, None]


def check(found: Loaded, features: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found.encoder(IMAGES), features, rtol=0, atol=1e-5)
    assert found.encoder.feature_dim == features.shape[1]


def clip_files(folder: Path) -> tuple[Any, Path, Path]:
    """A tiny CLIP of open_clip: the model, its configuration and its weights."""
    import open_clip

    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY_CLIP))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP).eval()
    weights = folder / "clip.pt"
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, weights)
    return model, config, weights


def test_the_image_tower_of_open_clip(tmp_path: Path) -> None:
    model, config, weights = clip_files(tmp_path)
    target = ForeignTarget("open_clip", str(config), str(weights))
    found = load_foreign(target)
    assert found.preprocessing.mean == CLIP_MEAN and found.preprocessing.std == CLIP_STD
    assert any(name.startswith("token_embedding") for name in found.left_out)
    with torch.no_grad():
        check(found, model.encode_image(normalised(found)))
    content = torch.load(weights)["state_dict"]
    content["module.visual.lnX.weight"] = content.pop("module.visual.ln_post.weight")
    torch.save(content, weights)
    with pytest.raises(CheckpointError, match=r"lacks 'visual\.ln_post\.weight', and 'visual\.lnX"):
        load_foreign(target)
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-Z-99'"):
        load_foreign(ForeignTarget("open_clip", "ViT-Z-99", str(weights)))


def huggingface(kind: str) -> tuple[nn.Module, dict[str, Any], str]:
    """A tiny model of transformers, its preprocessing, and the name of one of its weights."""
    import transformers as t

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    text = {**vision, "vocab_size": 64, "max_position_embeddings": 8}
    for name in ("image_size", "patch_size"):
        del text[name]
    crop = {"do_center_crop": True, "size": {"shortest_edge": 36}, "crop_size": {"height": 32}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            config = t.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
            return (
                t.CLIPModel(config),
                {**crop, "image_mean": CLIP_MEAN},
                "visual_projection.weight",
            )
        if kind == "siglip":
            siglip = t.SiglipConfig(vision_config=vision, text_config=text)
            size = {"size": {"height": 32, "width": 32}, "resample": 2}
            return t.SiglipModel(siglip), size, "vision_model.head.probe"
        return t.Dinov2Model(t.Dinov2Config(**vision)), crop, "embeddings.cls_token"


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_the_image_towers_of_transformers(kind: str, tmp_path: Path) -> None:
    model, preprocessing, name = huggingface(kind)
    model.eval().save_pretrained(tmp_path)
    values = {"do_normalize": True, "image_std": [0.25] * 3, "image_mean": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**values, **preprocessing}))
    found = load_foreign(ForeignTarget("huggingface", str(tmp_path)))
    seen = found.preprocessing
    assert seen.size == 32 and seen.std == (0.25,) * 3
    assert seen.crop == (1.0 if kind == "siglip" else 32 / 36)
    assert seen.interpolation == ("bilinear" if kind == "siglip" else "bicubic")
    with torch.no_grad():
        if kind == "dinov2":
            check(found, model(normalised(found)).pooler_output)
        else:
            answer = model.get_image_features(pixel_values=normalised(found))
            check(found, answer if torch.is_tensor(answer) else answer.pooler_output)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    [own] = [known for known in weights if known.endswith(name)]
    weights[f"{own}X"] = weights.pop(own)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks '\S*" + name.rpartition(".")[2]):
        load_foreign(ForeignTarget("huggingface", str(tmp_path)))


def test_a_folder_without_a_known_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a folder: .*target\.hub=true"):
        load_foreign(ForeignTarget("huggingface", "openai/clip-vit-base-patch32"))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "x"}}')
    with pytest.raises(ConfigError, match="of the type 'bert'"):
        load_foreign(ForeignTarget("huggingface", str(tmp_path)))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 12)).eval()


def opaque(family: str, path: Path, **settings: Any) -> ForeignTarget:
    given = {"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "weights": str(path)}
    return ForeignTarget(**{"family": family, **given, **settings})


def export(family: str, path: Path, batch: int | None = None) -> nn.Module:
    """Write the network as the family's file."""
    source = network()
    if family == "torchscript":
        torch.jit.script(source).save(path)
        return source
    torch.onnx.export(
        source,
        (torch.zeros(batch or 2, 3, 32, 32),),
        path,
        input_names=["images"],
        dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    return source


@pytest.mark.parametrize("family", ["torchscript", "onnx"])
def test_an_opaque_function_gives_its_features_and_counts_by_its_bytes(
    family: str, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.bin"
    source = export(family, path)
    found = load_foreign(opaque(family, path))
    with torch.no_grad():
        check(found, source(normalised(found)))
    assert load_foreign(opaque(family, path)).encoder.fingerprint == found.encoder.fingerprint
    other = load_foreign(opaque(family, path, crop=0.9)).encoder.fingerprint
    assert other != found.encoder.fingerprint
    for name in ("size", "mean", "std"):
        with pytest.raises(ConfigError, match=rf"target\.{name}= has no value"):
            load_foreign(opaque(family, path, **{name: None}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=str(path)):
        load_foreign(opaque(family, path))


def test_an_onnx_file_of_a_fixed_batch_takes_any_batch(tmp_path: Path) -> None:
    source = export("onnx", tmp_path / "encoder.onnx", batch=2)
    found = load_foreign(opaque("onnx", tmp_path / "encoder.onnx"))
    with torch.no_grad():
        check(found, source(normalised(found)))


class Two(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class Summed(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.sum((0, 2, 3))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Two(), "returns tuple in place of one tensor"),
        (Summed(), "returns the shape .3,. for 2 images"),
    ],
)
def test_a_function_that_gives_no_features_is_refused(
    module: nn.Module, reason: str, tmp_path: Path
) -> None:
    torch.jit.script(module).save(tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError, match=reason):
        load_foreign(opaque("torchscript", tmp_path / "encoder.pt"))


def test_an_archive_is_code_and_needs_its_own_option(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    torch.jit.script(network()).save(path)
    with pytest.raises(CheckpointError, match="TorchScript archive, which is code"):
        load_foreign(ForeignTarget("torchvision", "resnet18", str(path)))
    torch.save(head("", "weight"), path)
    with pytest.raises(CheckpointError, match="is not a TorchScript archive"):
        load_foreign(opaque("torchscript", path))
