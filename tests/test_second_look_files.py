"""Files that wish us ill, and sources that look alike: what a second look at files, banks and keys
found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import finished_run
from omegaconf import OmegaConf

from stealing.artefacts import read_done, write_sealed
from stealing.encoders import build_encoder
from stealing.errors import ConfigError, DamageError
from stealing.evaluation.cache import load_arrays, store_arrays
from stealing.report.run_files import readable
from stealing.saved.restore import choose_surrogate
from stealing.training.conditions import making
from stealing.training.fit import Settings


def made_again(folder: Path) -> bool:
    with making(folder, "code", Settings()) as done:
        return done is None


@pytest.mark.parametrize(
    "elsewhere", ["/{0}", "../{1}", "../{1}/thesis.txt", ".lock", "a/b", "\0", ""]
)
def test_a_done_json_removes_nothing_outside_its_folder(elsewhere: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    folder = tmp_path / "artefact"
    folder.mkdir()
    name = elsewhere.format(str(precious).lstrip("/"), precious.name)
    write_sealed(folder / "done.json", {"code": "code", "made": {}, "files": {name: "0" * 32}})
    with pytest.raises(DamageError, match="not in its folder"):
        read_done(folder)
    assert made_again(folder)
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("files", [None, [], ["x"], 1])
def test_a_done_json_that_vouches_for_no_files_by_name_is_broken(
    files: Any, tmp_path: Path
) -> None:
    (tmp_path / "done.json").write_text(json.dumps({"code": "code", "made": {}, "files": files}))
    with pytest.raises(DamageError, match="not in its folder"):
        read_done(tmp_path)


def test_what_lies_in_an_artefact_of_others_is_cleared_whatever_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "link").symlink_to(kept)
    (folder / "code").write_bytes(b"\xff\xfe")
    assert made_again(folder)
    assert (kept / "file").read_text() == "mine"
    assert not (folder / "link").is_symlink()


@pytest.mark.parametrize(
    "place", ["a/${oc.env:HOME}", "${oc.decode:1}", "a\nb", "a//b", "a/../b", ""]
)
def test_where_a_run_says_that_its_surrogate_lies_is_a_plain_place(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"artefacts": {"surrogate": place}}))
    config = OmegaConf.create({"surrogate": str(tmp_path), "target": {"path": None}})
    with pytest.raises(ConfigError, match="names no surrogate in its own work folder"):
        choose_surrogate(config, [])


def test_networks_that_answer_differently_with_the_same_weights_have_different_fingerprints() -> (
    None
):
    def built(stem: str) -> Any:
        backbone = {
            "_target_": "stealing.encoders.headless.Headless",
            "name": "resnet18",
            "stem": stem,
        }
        arch = {"_target_": "stealing.encoders.encoder.Encoder", "backbone": backbone}
        return build_encoder(arch | {"mean": [0.0] * 3, "std": [1.0] * 3}, 0).eval()

    ours, theirs = built("cifar"), built("cont_steal")
    images = torch.rand(1, 3, 16, 16)
    assert not torch.equal(ours(images), theirs(images))
    assert ours.fingerprint != theirs.fingerprint


def test_a_flipped_bit_in_what_a_judge_remembers_is_seen_and_it_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "predictions" / "p.safetensors"
    arrays = {"held": np.arange(3), "test": np.arange(8)}
    store_arrays(path, arrays)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        found = load_arrays(path)
        if found is not None:  # a letter of a name that nobody reads
            assert all(np.array_equal(found[name], array) for name, array in arrays.items())
        else:
            assert "checksum" in capsys.readouterr().err and not path.exists()
    path.write_bytes(content)
    assert load_arrays(path) is not None and path.read_bytes() == content


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tasks", "a", "linear", "recovered"), "x"),
        (("tasks", "a", "linear", "agreement"), {}),
        (("tasks", "a", "linear", "intervals"), {"SA": "x"}),
        (("tasks", "a", "linear", "controls"), None),
        (("queries", "evaluation"), []),
        (("queries", "cost"), "x"),
        (("fidelity",), {"cosine": {}}),
    ],
)
def test_a_neighbours_result_of_another_form_is_left_out_in_one_sentence(
    place: tuple[str, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finished_run(tmp_path, "g", {"a": (0.6, 0.5, 0.3)})
    broken = finished_run(tmp_path, "g", {"a": (0.6, 0.5, 0.3)}, seed=1)
    result = json.loads((broken / "result.json").read_text())
    part = result
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (broken / "result.json").write_text(json.dumps(result))
    assert [run.folder for run in readable([whole, broken])] == [whole]
    assert "is not what a run writes" in capsys.readouterr().err
