"""Encoder files of strangers: a card is data, and a broken one gives one sentence."""

import copy
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from torch import nn

from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.encoders.architectures import ARCHITECTURES, describe
from stealing.errors import CheckpointError, ConfigError
from stealing.preflight import surrogate_start

NARROW = "stealing.encoders.resnet.NarrowResNet"
ARCH: dict[str, Any] = {
    "_target_": "stealing.encoders.encoder.Encoder",
    "backbone": {"_target_": NARROW, "stem": 8, "widths": [8], "blocks": [1]},
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def saved(folder: Path, **changes: Any) -> Path:
    """An encoder file of a small network."""
    settings: dict[str, Any] = {
        "arch": ARCH,
        "size": 8,
        "provenance": {"weights_seed": 3},
        **changes,
    }
    path = folder / "encoder.safetensors"
    save_encoder(build_encoder(ARCH, 3), path, **settings)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a card in place."""
    card = json.loads(path.with_suffix(".json").read_text())
    change(card)
    path.with_suffix(".json").write_text(json.dumps(card))


def refusal(path: Path | str, *trust: str) -> str:
    """The sentence that a file is refused with."""
    with pytest.raises(CheckpointError) as refused:
        load_encoder(path, trust)
    text = str(refused.value)
    assert "\n" not in text and text.isprintable() and text.endswith("."), text
    return text


def test_a_card_names_architectures_by_the_projects_own_names(tmp_path: Path) -> None:
    path = saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    backbone = {"class": "NarrowResNet", "stem": 8, "widths": [8], "blocks": [1]}
    assert card["arch"] == {
        "class": "Encoder",
        "backbone": backbone,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert "stealing" not in path.with_suffix(".json").read_text(), "no import path"
    assert load_encoder(path)[1] == card


def test_an_old_card_with_import_paths_is_read_by_rule(tmp_path: Path) -> None:
    path = saved(tmp_path)
    new, card = load_encoder(path)

    def age(old: dict[str, Any]) -> None:
        old["arch"] = copy.deepcopy(ARCH)
        old["arch"]["backbone"]["_target_"] = "stealing.an.older.place.NarrowResNet"
        del old["weights"]

    rewrite(path, age)
    old, read = load_encoder(str(path))
    assert old.fingerprint == new.fingerprint and read["arch"] == card["arch"]


@pytest.mark.parametrize(
    "name", ["cifar10_narrow", "cifar10_narrow_second", "cifar10_narrow_short"]
)
def test_the_stored_encoders_are_read(name: str) -> None:
    _, card = load_encoder(ROOT / "assets" / name / "encoder.safetensors")
    assert card["size"] == 32 and card["arch"]["backbone"]["class"] == "NarrowResNet"


def test_a_surrogate_that_starts_as_the_target_did_compares_architectures_however_they_are_written(
    tmp_path: Path,
) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {"start": "target", "arch": ARCH, "target_arch": ARCH, "target": {"seed": 0}}
    )
    _, card = load_encoder(saved(tmp_path))
    assert surrogate_start(config, card) == 3
    config.arch.backbone.stem = 16
    with pytest.raises(ConfigError, match="choose arch= as the target has it"):
        surrogate_start(config, card)


def attacks(canary: Path) -> dict[str, dict[str, Any]]:
    """Nodes that a stranger could put into a card to have code run."""
    hub = {
        "repo_or_dir": str(canary.parent / "hub"),
        "model": "run",
        "source": "local",
        "trust_repo": True,
    }
    return {
        "torch.hub": {"_target_": "torch.hub.load", **hub},
        "pathlib": {"_target_": "pathlib.Path.write_text", "self": str(canary), "data": "ran"},
        "pathlib by class": {
            "class": "pathlib.Path.write_text",
            "self": str(canary),
            "data": "ran",
        },
        "os": {"_target_": "os.system", "command": f"touch {canary}"},
        "builtin": {"_target_": "builtins.exec", "_args_": [f"open({str(canary)!r}, 'w')"]},
        "own function": {
            "_target_": "stealing.artefacts.write_atomically",
            "path": str(canary),
            "content": "ran",
        },
        "through an own module": {
            "_target_": "stealing.artefacts.os.system",
            "command": f"touch {canary}",
        },
        "through a trusted module": {
            "_target_": "serving.subprocess.run",
            "args": ["touch", str(canary)],
        },
        "imported by a trusted module": {"_target_": "serving.save_file", "x": str(canary)},
    }


@pytest.mark.parametrize("place", ["arch", "backbone", "an argument", "a list", "provenance"])
@pytest.mark.parametrize("name", attacks(Path("/canary")))
def test_a_card_never_runs_code(name: str, place: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"open({str(canary)!r}, 'w')\ndef run(): pass\n")
    path, node = saved(tmp_path), attacks(canary)[name]

    def put(card: dict[str, Any]) -> None:
        if place == "provenance":
            card["provenance"]["recipe"] = node
        elif place == "arch":
            card["arch"] = node
        elif place == "backbone":
            card["arch"]["backbone"] = node
        elif place == "an argument":
            card["arch"]["backbone"]["stem"] = node
        else:
            card["arch"]["mean"] = [0.5, 0.5, node]

    rewrite(path, put)
    if place == "provenance":
        assert load_encoder(path, ["serving"])[0].feature_dim == 8, "what is only told is not built"
    else:
        refusal(path, "serving")
    assert not canary.exists()


def test_a_class_of_ones_own_is_built_only_from_a_module_that_is_trusted_by_name(
    tmp_path: Path,
) -> None:
    from serving import load_trivial, save_trivial

    path = save_trivial(tmp_path)
    assert load_trivial(path).feature_dim == 16
    assert "add 'trust=[serving]' if you know that code" in refusal(path)
    assert "add 'trust=[serving]' if" in refusal(path, "servin", "serving.more", "stealing")
    rewrite(
        path,
        lambda card: card["arch"]["backbone"].update({"class": "serving.Pace", "images": None}),
    )
    assert "serving defines no class or function Pace" in refusal(path, "serving")


def put(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda card: card.update(values)


def put_backbone(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda card: card["arch"]["backbone"].update(values)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no arch": (lambda card: card.pop("arch"), "the card lacks arch"),
    "no size": (lambda card: card.pop("size"), "the card lacks size"),
    "arch is a text": (put(arch="resnet18"), "arch is not a mapping"),
    "arch is a list": (put(arch=[]), "arch is not a mapping"),
    "arch is another network": (
        lambda card: put(arch=card["arch"]["backbone"])(card),
        "not an Encoder",
    ),
    "size is a text": (put(size="32"), "size is '32', and has to be a whole number"),
    "size is a fraction": (put(size=8.5), "size is 8.5"),
    "size is true": (put(size=True), "size is True"),
    "size is negative": (put(size=-1), "size is -1"),
    "size is huge": (put(size=10**9), "size is 1000000000"),
    "another width": (put(feature_dim=9), "feature_dim is 9, and the network's is 8"),
    "provenance is a list": (put(provenance=[1]), "provenance is not a mapping"),
    "a seed that is none": (put(provenance={"weights_seed": "x"}), "weights_seed is not a seed"),
    "made is a text": (put(provenance={"made": "here"}), "provenance.made is not a table"),
    "hardware is nested": (
        put(provenance={"hardware": {"cpu": {}}}),
        "provenance.hardware is not a table",
    ),
    "an absurd stem": (put_backbone(stem=10**9), "stem of NarrowResNet is 1000000000"),
    "absurd blocks": (put_backbone(blocks=[10**9]), r"blocks of NarrowResNet is [1000000000]"),
    "absurd widths": (put_backbone(widths=[8] * 10**4), "widths of NarrowResNet is [8, 8"),
    "widths of another length": (put_backbone(widths=[8, 8]), "differ in length"),
    "a stem of text": (put_backbone(stem="8"), "stem of NarrowResNet is '8'"),
    "an unknown argument": (put_backbone(depth=3), "NarrowResNet has no argument 'depth'"),
    "a missing argument": (
        lambda card: card["arch"]["backbone"].pop("stem"),
        "lacks its argument stem",
    ),
    "an unknown class": (put_backbone(**{"class": "Network"}), "'Network' is not an architecture"),
    "a class that is a number": (put_backbone(**{"class": 3}), "3 is not an architecture"),
    "two classes": (put_backbone(_target_=NARROW), "two classes"),
    "positions": (put_backbone(_args_=[8]), "only named arguments"),
    "a network that torchvision has not": (
        lambda card: card["arch"].update(backbone={"class": "Headless", "name": "resnet18; rm"}),
        "has to be a network of torchvision",
    ),
    "a stem that the network does not take": (
        lambda card: card["arch"].update(
            backbone={"class": "Headless", "name": "vgg11", "stem": "cifar"}
        ),
        "vgg11 does not take the stem 'cifar'",
    ),
    "another network's weights": (
        lambda card: card["arch"].update(backbone={"class": "Headless", "name": "resnet18"}),
        "does not fit its architecture at",
    ),
    "no spread": (
        lambda card: card["arch"].update(std=[1, 0, 1]),
        "has to be three numbers above 0",
    ),
    "a control character": (put(license="\x1b[2J"), "control a terminal"),
    "half a letter": (put(license="\ud800"), "half a letter"),
    "a number of 65 bits": (put(measured=2**65), "larger than 64 bits"),
    "checksum of other weights": (put(weights="0" * 32), "checksum is not the one in its card"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_card_of_other_types_or_values_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    change, sentence = DAMAGE[name]
    rewrite(path, change)
    assert sentence in refusal(path)


CARD = b'{"arch": {}, "size": 8, "feature_dim": 8}'

CONTENTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cannot be read"),
    "no JSON": (b"arch: narrow", "cannot be read"),
    "a list": (b"[]", "the card is not a mapping"),
    "UTF-16": (CARD.decode().encode("utf-16"), "not in UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf" + CARD, "BOM"),
    "latin-1": (b'{"license": "\xe9"}', "not in UTF-8"),
    "a name twice": (b'{"size": 8, "size": 9}', "a name stands twice"),
    "NaN": (b'{"size": NaN}', "not a finite number"),
    "a number that overflows": (b'{"size": 1e999}', "not a finite number"),
    "a number of 10,000 digits": (b'{"size": ' + b"9" * 10_000 + b"}", "cannot be read"),
    "100,000 lists in each other": (b"[" * 100_000, "nests deeper"),
    "50 mappings in each other": (b'{"a":' * 50 + b"1" + b"}" * 50, "nests deeper"),
    "5 MiB": (b" " * (5 * 2**20), "has more than 4194304 bytes"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_card_that_is_no_card_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    content, sentence = CONTENTS[name]
    path.with_suffix(".json").write_bytes(content)
    assert sentence in refusal(path)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a loop", "nothing", "a device"])
def test_what_is_no_file_is_one_sentence(kind: str, suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    place = path.with_suffix(suffix)
    place.unlink()
    if kind == "a folder":
        place.mkdir()
    elif kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a loop":
        place.symlink_to(place)
    elif kind == "a device":
        place.symlink_to("/dev/zero")
    refusal(path)


def test_a_path_that_is_none_is_one_sentence() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_encoder("no\0path.safetensors")


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        header(b"{}"),
        header(b"{}", 2**63),
        header(b"{}", 90 * 2**20),
        header(b'{"mean": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'),
        header(
            b'{"mean": {"dtype": "F32", "shape": [1000000000000], '
            b'"data_offsets": [0, 4000000000000]}}'
        ),
        header(b"[" * 1000),
    ],
)
def test_weights_that_are_broken_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(content)
    refusal(path)


def test_whole_numbers_in_the_place_of_weights_are_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path)
    save_file({name: tensor.long() for name, tensor in load_file(path).items()}, path)
    rewrite(path, lambda card: card.pop("weights"))
    assert "is torch.int64 and its architecture has torch.float32" in refusal(path)


def test_a_hostile_card_costs_less_than_200_mib_of_memory(tmp_path: Path) -> None:
    """The largest networks that a card may ask for, beside the weights of a small one."""
    path = saved(tmp_path)
    largest = {"class": "NarrowResNet", "stem": 1024, "widths": [4096] * 12, "blocks": [16] * 12}
    networks = [
        largest,
        {"class": "Headless", "name": "convnext_large"},
        {"class": "Headless", "name": "vgg19"},
    ]
    absurd = [{"class": "NarrowResNet", "stem": 8, "widths": [8], "blocks": [10**9]}]
    text = path.with_suffix(".json").read_text()
    program = (
        "import json, resource, sys\nfrom pathlib import Path\n"
        "from stealing.encoders import load_encoder\nfrom stealing.errors import CheckpointError\n"
        "path, card = Path(sys.argv[1]), json.loads(sys.argv[2])\n"
        "load_encoder(path)\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for backbone in json.loads(sys.argv[3]):\n"
        "    card['arch']['backbone'] = backbone\n"
        "    path.with_suffix('.json').write_text(json.dumps(card))\n"
        "    try:\n        load_encoder(path)\n    except CheckpointError as error:\n        pass\n"
        "    else:\n        sys.exit('it was opened')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    line = [sys.executable, "-c", program, str(path), text, json.dumps([*absurd, *networks])]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200


@pytest.mark.parametrize(
    "backbone",
    [
        {"_target_": NARROW, "stem": 10**9, "widths": [8], "blocks": [1]},
        {"_target_": NARROW, "stem": 8, "widths": [8], "blocks": [10**9]},
        {"_target_": NARROW, "stem": 8.5, "widths": [8], "blocks": [1]},
        {"_target_": "stealing.encoders.headless.Headless", "name": "no_network"},
    ],
)
def test_absurd_sizes_in_a_configuration_are_one_sentence_too(backbone: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="arch= does not fit"):
        build_encoder(ARCH | {"backbone": backbone}, 0)


def test_every_own_architecture_has_a_range_for_each_of_its_arguments() -> None:
    import inspect

    for name, architecture in ARCHITECTURES.items():
        parameters = inspect.signature(architecture.build).parameters
        assert list(parameters) == list(architecture.arguments), name
        defaults = {
            one
            for one, parameter in parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        assert defaults == set(architecture.optional), name


class Tied(nn.Module):
    """Two names for one weight, as tied embeddings have."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 8
        self.first = nn.Linear(3, 8)
        self.second = self.first

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.second(images_BCHW.mean((2, 3)))


def test_tied_weights_are_saved_and_read_again(tmp_path: Path) -> None:
    arch = ARCH | {"backbone": {"_target_": f"{__name__}.Tied"}}
    encoder = build_encoder(arch, 1)
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, arch=arch, size=8, provenance={})
    read, _ = load_encoder(path, [__name__])
    assert read.fingerprint == encoder.fingerprint
    assert read.backbone.first.weight is read.backbone.second.weight


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_encoder_is_saved_under_the_names_that_it_had_before(
    whole: bool, tmp_path: Path
) -> None:
    encoder = build_encoder(ARCH, 1)
    plain = encoder.fingerprint
    if whole:
        compiled: Any = torch.compile(encoder, backend="eager")
    else:
        compiled = encoder
        encoder.backbone = torch.compile(encoder.backbone, backend="eager")
    path = tmp_path / "encoder.safetensors"
    save_encoder(compiled, path, arch=ARCH, size=8, provenance={})
    assert load_encoder(path)[0].fingerprint == plain


def cyclic() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    return cycle


def deep() -> Any:
    value: Any = 1
    for _ in range(40):
        value = [value]
    return value


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"provenance": {"loss": float("nan")}}, "no JSON"),
    "infinity": ({"provenance": {"loss": float("inf")}}, "no JSON"),
    "a tensor": ({"provenance": {"loss": torch.zeros(1)}}, "no JSON"),
    "a path": ({"provenance": {"from": Path("x")}}, "no JSON"),
    "a set": ({"provenance": {"seeds": {1}}}, "no JSON"),
    "itself": ({"provenance": cyclic()}, "no JSON"),
    "depth": ({"provenance": {"deep": deep()}}, "nests deeper"),
    "one name twice": ({"provenance": {1: 1, "1": 2}}, "stands twice"),
    "5 MiB": ({"provenance": {"notes": "x" * (5 * 2**20)}}, "more than"),
    "no mapping": ({"provenance": [1]}, "provenance is not a mapping"),
    "a size of text": ({"size": "8"}, "size is '8'"),
    "another architecture": (
        {"arch": ARCH | {"backbone": {**ARCH["backbone"], "widths": [16]}}},
        "does not fit its architecture at",
    ),
    "no architecture": ({"arch": {}}, "not an Encoder"),
    "a class that is nowhere": (
        {"arch": ARCH | {"backbone": {"_target_": "nowhere.Net"}}},
        "cannot be imported",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_could_not_be_read_again_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    before = saved(tmp_path)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changes, sentence = UNREADABLE[name]
    with pytest.raises(
        CheckpointError, match=f"is not written, because it could not be read again.*{sentence}"
    ):
        saved(tmp_path, **changes)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert load_encoder(before)[0].feature_dim == 8


def test_half_precision_is_refused_as_it_would_be_read_as_another_network(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(
        CheckpointError, match=r"is torch.float16 and its architecture has torch.float32"
    ):
        save_encoder(build_encoder(ARCH, 0).half(), path, arch=ARCH, size=8, provenance={})
    assert list(tmp_path.iterdir()) == []


def test_both_files_are_written_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old pair, and so does a stop between the renames."""
    path = saved(tmp_path)
    before = {place.name: place.read_bytes() for place in tmp_path.iterdir()}
    other = build_encoder(ARCH, 4)
    flush = os.fsync
    calls = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == 3:  # the old card, the new one, and the new weights
            raise OSError(28, "No space left on device")
        flush(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_encoder(other, path, arch=ARCH, size=8, provenance={})
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == before

    rename = os.replace

    def dies(source: Any, target: Any) -> None:
        if Path(target).suffix == ".safetensors":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            save_encoder(other, path, arch=ARCH, size=8, provenance={})
    assert load_encoder(path)[0].fingerprint == build_encoder(ARCH, 3).fingerprint
    save_encoder(other, path, arch=ARCH, size=8, provenance={})
    assert load_encoder(path)[0].fingerprint == other.fingerprint


def test_the_bytes_of_weights_are_those_of_safetensors_alone(tmp_path: Path) -> None:
    path = saved(tmp_path)
    other = tmp_path / "other.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in build_encoder(ARCH, 3).state_dict().items()},
        other,
    )
    assert path.read_bytes() == other.read_bytes()


def test_a_description_stays_as_it_is() -> None:
    once = describe(ARCH)
    assert describe(once) == once
    assert isinstance(build_encoder(once, 0), Encoder)
