"""The same laws on real images, at a reduced size; skipped if STEALING_DATA has none."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, Command, choose
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from stealing.config import instantiate_node
from stealing.encoders import load_encoder
from stealing.evaluation.features import encode_all
from stealing.evaluation.protocol import Evaluator, HeadInput, Protocol, Task
from stealing.preflight import RunData, check_tasks, open_run_data
from stealing.queries.digests import digests_of
from stealing.queries.selection import select

DATA = Path(os.environ.get("STEALING_DATA", "data"))
TARGET = ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors"


@pytest.fixture(scope="session", autouse=True)
def _present() -> None:
    absent = [
        name for name in ("cifar10", "tiny-imagenet-32", "mnist") if not (DATA / name).is_dir()
    ]
    if absent:
        reason = (
            f"{', '.join(absent)} not in {DATA.resolve()}: "
            "set STEALING_DATA to the folder that holds them"
        )
        if os.environ.get("STEALING_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of decoded images for the whole session, so that each file is decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def scene(cache: Path) -> RunData:
    """The images of `data=cifar10_tiny`."""
    config = choose("data=cifar10_tiny", "target=zoo")
    OmegaConf.update(config, "paths.cache", str(cache))
    return open_run_data(config)


def test_decoded_images_are_those_of_the_files(scene: RunData) -> None:
    own = next(task for task in scene.tasks if task.name == "cifar10")
    assert (len(own.train), len(own.test), own.test.classes) == (10_000, 10_000, 10)
    rows = next(pq.ParquetFile(DATA / "cifar10" / "test.parquet").iter_batches(5)).to_pylist()
    for place, row in enumerate(rows):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).transpose(2, 0, 1)
        assert (own.test.batch(slice(place, place + 1))[0].numpy() == pixels).all()
        assert own.test.targets()[place] == row["label"]


def test_queries_and_tasks_share_no_image(scene: RunData) -> None:
    tasks = {digest for digests in scene.digests.values() for digest in digests}
    chosen = select(scene.queries, 2500, 0, tasks)
    assert not set(digests_of(chosen)) & tasks
    other = next(task for task in scene.tasks if task.name == "tiny_other_classes")
    assert (other.train.classes, scene.queries.classes) == (100, 100)
    rows = (set(images.rows.tolist()) for images in (scene.queries, other.train))
    assert not set.intersection(*rows)


@pytest.fixture(scope="session")
def unseen(cache: Path) -> RunData:
    """The images of `data=cifar10_unseen`."""
    absent = [
        name
        for name in ("imagenette-160", "rsscn7-160", "caltech101-160")
        if not (DATA / name).is_dir()
    ]
    if absent:
        pytest.skip(
            f"{', '.join(absent)} not in {DATA.resolve()}: "
            "these photographs are no part of the usual data"
        )
    config = choose("data=cifar10_unseen", "target=zoo")
    OmegaConf.update(config, "paths.cache", str(cache))
    unseen = open_run_data(config)
    check_tasks(config, unseen)
    return unseen


ROLES = {
    "own": {"cifar10", "cifar10_few", "cifar10_groups"},
    "query_domain": {"tiny_other_classes", "tiny_few", "tiny_groups", "imagenette"},
    "unseen": {"mnist", "shapes_texture", "rsscn7", "caltech101_groups"},
}
LEFT_OUT = {"tiny_few": 1, "imagenette": 2}  # copies of queries, from the test splits
INHERITED = {"cifar10", "tiny_other_classes", "mnist", "shapes_texture"}


def test_every_role_has_new_real_tasks_whose_classes_are_equally_large(unseen: RunData) -> None:
    for role, names in ROLES.items():
        assert {task.name for task in unseen.tasks if task.role == role} == names
    for task in unseen.tasks:
        if task.name in INHERITED:
            continue
        assert len(task.test) >= 480
        for images in (task.train, task.test):
            counts = np.bincount(images.targets(), minlength=images.classes)
            missing = len(images.class_names) * counts.max() - len(images)
            assert missing == (LEFT_OUT.get(task.name, 0) if images is task.test else 0), task.name


def test_the_inherited_tasks_are_those_of_cifar10_tiny(unseen: RunData, scene: RunData) -> None:
    checksums = unseen.checksums()
    assert scene.checksums().items() <= checksums.items()


def test_no_new_task_shares_an_image_between_its_splits_or_with_any_image_that_may_be_asked(
    unseen: RunData,
) -> None:
    candidates = set(digests_of(unseen.queries))
    for task in unseen.tasks:
        if task.name not in INHERITED:
            train = set(digests_of(task.train))
            test = set(digests_of(task.test))
            assert not train & test, task.name
            assert not (train | test) & candidates, task.name


def thumbnails(images_uint8: Tensor, width: int) -> Tensor:
    """Rows (N, 768) of unit length and mean 0 of the middle `width` of 32 columns, at 16 x 16."""
    left = (32 - width) // 2
    middle = images_uint8[..., left : left + width].float()
    rows = F.interpolate(middle, (16, 16), mode="bilinear", antialias=True).flatten(1)
    return F.normalize(rows - rows.mean(1, keepdim=True))


@pytest.mark.slow
def test_photographs_that_are_also_queries_are_left_out_and_no_others_are(
    unseen: RunData, cache: Path
) -> None:
    # Tiny ImageNet is the centre square, Imagenette is squashed: 24 of 32 columns are its 4:3.
    asked = thumbnails(unseen.queries.batch(slice(None)), 32)
    left_out = {"imagenette": [262, 1118]}
    for name in ("imagenette", "rsscn7", "caltech101_groups"):
        task = next(task for task in unseen.tasks if task.name == name)
        for images in (task.train, task.test):
            everything = replace(images, rows=np.arange(len(images.pixels)))
            pixels = everything.batch(slice(None))
            views = [thumbnails(pixels, 32), thumbnails(pixels, 24)]
            views.append(
                thumbnails(pixels.transpose(2, 3), 24)
                .unflatten(1, (3, 16, 16))
                .transpose(2, 3)
                .flatten(1)
            )
            closest = torch.stack([(view @ asked.T).amax(1) for view in views]).amax(0)
            copies = np.flatnonzero(closest > 0.985).tolist()
            assert copies == (left_out.get(name, []) if images is task.test else []), name
            assert not set(copies) & set(images.rows.tolist())


@pytest.mark.skipif(not TARGET.exists(), reason="no stored target in this clone")
def test_the_stored_target_keeps_the_accuracy_of_its_card(scene: RunData, cache: Path) -> None:
    encoder, card = load_encoder(TARGET)
    own: Task = next(task for task in scene.tasks if task.name == "cifar10")
    protocol: Protocol = instantiate_node(choose().probe)
    parts = [encode_all(encoder, images) for images in (own.train, own.test)]
    found = Evaluator(protocol, cache).predictions(
        own, {"it": HeadInput(encoder.fingerprint, *parts)}
    )["it"]
    accuracy = float((found["linear"].test == own.test.targets()).mean())
    assert accuracy == pytest.approx(card["measured"]["cifar10"]["linear"], abs=0.003)
    assert accuracy >= 0.63


@pytest.mark.skipif(not TARGET.exists(), reason="no stored target in this clone")
@pytest.mark.slow
def test_a_short_attack_on_real_images_beats_an_untrained_surrogate(
    command: Command, cache: Path, tmp_path: Path
) -> None:
    done = command(
        "train.py",
        "data=cifar10_tiny",
        "target=zoo",
        "budget=b500",
        "logger=csv",
        "attack.steps=100",
        "data.tasks.cifar10.train.count=3000",
        "~data.tasks.mnist",
        "~data.tasks.tiny_other_classes",
        "~data.tasks.shapes_texture",
        f"paths.cache={cache}",
        OMP_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "work").glob("runs/*/result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    row = result["tasks"]["cifar10"]["linear"]
    assert result["queries"]["spent"] == 500
    assert (
        row["SA"]
        > max(row["controls"]["untrained"], row["controls"]["untrained_calibrated"]) + 0.02
    )
    assert row["TA_clean"] - max(row["controls"].values()) >= 0.10
