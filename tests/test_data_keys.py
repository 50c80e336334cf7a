"""Each setting of `data` changes what a run is named by, or stands in a list with the reason."""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import choose
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from test_downloads import cifar10, cifar100
from test_downloads import trusting as trusting
from test_keys import leaves

from stealing.config import to_dict
from stealing.data import downloads, images, sources
from stealing.identity import run_key
from stealing.preflight import open_run_data
from stealing.trust import OWN

ELSEWHERE = {
    "cache": "where decoded images lie",
    "path": "where images lie: these are the same ones in another folder",
    "root": "where images lie: these are the same ones in another folder",
}
NOT_IN_CHECKSUM = {
    **ELSEWHERE,
    "grey": "a grey image is repeated or refused, and a colour image stays as it is",
}
"""Arguments of the functions of `data` that change no image, by name."""

IN_RUN = {
    "count": [31],
    "domain": ["plain", "scene"],
    "role": ["own", "unseen"],
    "seed": [7],
    "size": [17],
    "split": ["train", "test"],
    "task": ["kind", "texture"],
}
"""Values of the settings of a run's data, by their last name."""

Case = tuple[Callable[..., images.Images], dict[str, Any], dict[str, Any]]


def key_of(config: DictConfig) -> str:
    return run_key(config, None, open_run_data(config).checksums())


def test_every_setting_of_a_runs_data_is_in_its_key_or_says_where_images_lie(
    tmp_path: Path,
) -> None:
    settled = to_dict(choose("experiment=debug", f"paths.cache={tmp_path / 'cache'}"))
    data = settled["data"]
    # one task of each split is enough: all are read alike
    data["tasks"] = {"plain_kind": data["tasks"]["plain_kind"]}
    for part in (data["pretrain"], data["queries"], *data["tasks"]["plain_kind"].values()):
        if isinstance(part, dict):
            part["count"] = 30
    config = OmegaConf.create(settled)
    key = key_of(config)
    silent = set[str]()
    for path, value in leaves(data, "data"):
        name = path.rpartition(".")[2]
        if name == "_target_" or path == "data.size":
            continue  # a function counts by its images; the size stands in each part already
        others = [tmp_path / "other"] if name == "cache" else IN_RUN[name]
        other = next(each for each in others if each != value)
        OmegaConf.update(config, path, str(other) if name == "cache" else other)
        if key_of(config) == key:
            silent.add(path)
        OmegaConf.update(config, path, value)
    assert {path.rpartition(".")[2] for path in silent} == {"cache"}


def test_the_size_of_a_runs_images_is_that_of_each_part() -> None:
    data = to_dict(choose("experiment=debug", "data.size=17"))["data"]
    sizes = {value for path, value in leaves(data) if path.endswith("size")}
    assert sizes == {17}


def pictures(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_folder(top: Path) -> None:
    for number, pixels in enumerate(pictures(0, 8, 20)):
        path = top / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((20, 24)).save(path)


def write_parquet(top: Path, files: Path) -> None:
    """Two splits of the images of a folder, one the reverse of the other."""
    encoded = [path.read_bytes() for path in sorted(files.rglob("*.png"))]
    top.mkdir()
    for split, rows in (("train", encoded), ("test", encoded[::-1])):
        columns = {"image": pa.array(rows, pa.binary()), "label": pa.array([0, 1] * 4, pa.int64())}
        pq.write_table(pa.table(columns), top / f"{split}.parquet")


def cases(top: Path) -> dict[str, Case]:
    """Each function of `data` with its arguments, and with another value for each of them."""
    write_folder(top / "folder")
    write_parquet(top / "parquet", top / "folder")
    for write in (cifar10, cifar100):
        write(top / "torchvision")
    for name in ("folder", "parquet", "torchvision"):
        shutil.copytree(top / name, top / "copy" / name)
    cache = str(top / "cache")
    decoding = {"size": 16, "cache": cache, "resize": "bilinear", "grey": "repeat"}
    elsewhere = {"size": 12, "cache": str(top / "other"), "resize": "crop", "grey": "refuse"}
    drawing = {"domain": "plain", "task": "kind", "count": 96, "size": 16, "cache": cache}
    drawn = sources.shapes("train", **drawing)
    images_of = {"images": sources.shapes("train", **drawing, seed=5)}

    def place(name: str) -> tuple[str, str]:
        return str(top / name), str(top / "copy" / name)

    folder, other_folder = place("folder")
    parquet, other_parquet = place("parquet")
    root, other_root = place("torchvision")
    return {
        "folder": (
            sources.folder,
            {"path": folder, "limit": None, **decoding},
            {"path": other_folder, "limit": 7, **elsewhere},
        ),
        "parquet": (
            sources.parquet,
            {"path": parquet, "split": "train", **decoding},
            {"path": other_parquet, "split": "test", **elsewhere},
        ),
        "shapes": (
            sources.shapes,
            {"split": "train", "seed": 0, **drawing},
            {"split": "test", "seed": 1, "domain": "scene", "task": "texture", "count": 95}
            | {"size": 17, "cache": str(top / "other")},
        ),
        "from_torchvision": (
            downloads.from_torchvision,
            {"dataset": "CIFAR10", "root": root, "split": "train", "limit": None}
            | {**decoding, "size": 40},
            {"dataset": "CIFAR100", "root": other_root, "split": "test", "limit": 5}
            | {**elsewhere, "size": 36, "resize": "pad"},
        ),
        "concatenated": (
            sources.concatenated,
            {"images": [drawn, images.take(drawn, 20)], "cache": cache},
            {"images": [images.take(drawn, 20), drawn], "cache": str(top / "other")},
        ),
        "take": (
            images.take,
            {"images": drawn, "count": 20, "seed": 0, "skip": 0},
            {**images_of, "count": 21, "seed": 1, "skip": 1},
        ),
        "part_of_classes": (
            images.part_of_classes,
            {"images": drawn, "part": 0, "parts": 2, "seed": 0},
            {**images_of, "part": 1, "parts": 3, "seed": 1},
        ),
        "balanced": (
            images.balanced,
            {"images": drawn, "per_class": 1, "seed": 0},
            {**images_of, "per_class": 2, "seed": 1},
        ),
        "grouped": (
            images.grouped,
            {"images": drawn, "groups": {"a": [0], "b": [1, 2]}},
            {**images_of, "groups": {"a": [0, 1], "b": [2]}},
        ),
        "without": (
            images.without,
            {"images": drawn, "rows": [3]},
            {**images_of, "rows": [4]},
        ),
    }


NAMES = [path.rpartition(".")[2] for path in OWN["data"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("trusting")
def test_every_argument_of_a_source_is_in_the_checksum_or_listed_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    function, arguments, others = cases(tmp_path)[name]
    assert set(arguments) == set(others) == set(inspect.signature(function).parameters)
    checksum = function(**arguments).checksum
    assert function(**arguments).checksum == checksum, "the cache gives the same images"
    silent = set[str]()
    for argument, other in others.items():
        assert argument == "images" or other != arguments[argument]
        if function(**{**arguments, argument: other}).checksum == checksum:
            silent.add(argument)
    assert silent == set(arguments) & set(NOT_IN_CHECKSUM)
