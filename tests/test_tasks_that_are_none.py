"""Data, recordings, weights and features without a meaningful accuracy are refused."""

import io
import json
import os
import sys
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pair
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_table
import torch
from conftest import choose
from made_up import finished_run
from PIL import Image
from rich.console import Console
from test_books import reserve, store

from stealing.attacks.steal import BoughtAnswers, steal_encoder
from stealing.config import to_dict
from stealing.data import labels as label_reading
from stealing.data.folders import HELPERS, SUFFIXES
from stealing.data.images import Images, take
from stealing.data.sampling import TrainingImages
from stealing.data.sources import folder, parquet
from stealing.defenses.chain import Chain
from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.errors import (
    CheckpointError,
    DataError,
    LedgerError,
    StorageError,
    TargetError,
    TrainingError,
)
from stealing.evaluation.classes import check_classes
from stealing.evaluation.fidelity import fidelity
from stealing.evaluation.probe import ProbeSettings
from stealing.evaluation.protocol import CONTROLS, Evaluator, HeadInput, Protocol, Task
from stealing.evaluation.statistics import HELD, summarise
from stealing.queries import __main__ as command
from stealing.queries.import_answers import record
from stealing.queries.inspection import export
from stealing.queries.ledger import Ledger
from stealing.queries.waiting import NotServed
from stealing.report.console import show
from stealing.report.runs import find_runs, group_runs
from stealing.report.summary import by_task
from stealing.targets.local import LocalTarget
from stealing.training.fit import Recorder, Settings, fit

SIZE = 4


def png(place: int) -> bytes:
    """An image of its own for each place."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(place).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def files(top: Path, *names: str) -> Path:
    """A folder with an image at each of these paths, whatever their suffixes are."""
    for place, name in enumerate(names):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(place))
    return top


def open_folder(top: Path, **options: Any) -> Images:
    return folder(str(top), size=SIZE, cache=str(top.parent / "cache"), **options)


# Folders


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["cat/0.png", "dog/0.tif", "dog/1.tif", "dog/a.txt"],
            r"class dog .* no images .*skipped: 2 \.tif, 1 \.txt",
        ),
        (["cat/0.png", "dog/.0.png"], "class dog .* no images that are read here: put files"),
        (["cat/0.png", "dog/.ipynb_checkpoints/0.png"], "class dog .* no images"),
        (["0.tif", "1"], r"no images in .*skipped: 1 \.tif, 1 no suffix"),
        (
            ["cat/0.png", "cat/1.png/a.png"],
            r"cat/1\.png is a folder with the name of an image: rename",
        ),
        (["cat/0.png", "dog.jpg/0.png"], r"dog\.jpg is a folder with the name of an image"),
        (
            ["data/data/cat/0.png", "data/data/dog/0.png"],
            r"one folder data, .*: name .*top/data/data\.$",
        ),
        (
            ["data/cat/0.png", "data/dog/0.png", "__MACOSX/data/0.png"],
            r"one folder data, .*: name .*top/data\.$",
        ),
        (["train/cat/0.png", "train/dog/0.png"], r"one folder train, .*: name .*top/train\.$"),
        (
            ["train/cat/0.png", "test/cat/0.png"],
            "holds the splits test, train and no classes: .*/top/test",
        ),
        (["Train/0.png", "VAL/0.png"], "holds the splits Train, VAL and no classes"),
    ],
)
def test_a_folder_that_is_no_task_is_refused_with_what_is_amiss(
    names: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence):
        open_folder(files(tmp_path / "top", *names))


def test_an_empty_class_folder_is_no_class(tmp_path: Path) -> None:
    top = files(tmp_path / "top", "cat/0.png", "dog/0.png")
    (top / "bird").mkdir()
    with pytest.raises(DataError, match="class bird .* no images"):
        open_folder(top)


@pytest.mark.parametrize(
    "name", sorted(HELPERS | {".ipynb_checkpoints", ".cache", "@eaDir", "__MACOSX", "Thumbs.db"})
)
def test_what_systems_put_beside_images_is_left_out_at_any_depth(name: str, tmp_path: Path) -> None:
    names = ["cat/0.png", "cat/deep/1.png", "dog/2.png"]
    inside = [
        f"{name}/3.png",
        f"cat/{name}/4.png/small.jpg",
        f"cat/deep/{name}/5.png",
        f"dog/{name}/6.png/7.png",
    ]
    images = open_folder(files(tmp_path / "top", *names, *inside))
    assert images.class_names == ("cat", "dog") and images.targets().tolist() == [0, 0, 1]


def test_a_class_may_be_nested_and_alone(tmp_path: Path) -> None:
    nested = open_folder(
        files(tmp_path / "a" / "top", "n01/images/0.png", "n02/images/1.png", "n02/2.png")
    )
    assert nested.class_names == ("n01", "n02") and nested.targets().tolist() == [0, 1, 1]
    alone = open_folder(files(tmp_path / "b" / "top", "n01/images/0.png", "n01/images/1.png"))
    assert alone.class_names == ("n01",) and len(alone) == 2
    named = open_folder(files(tmp_path / "c" / "top", "train/0.png", "bus/1.png"))
    assert named.class_names == ("bus", "train"), "a train is also a vehicle"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_image_that_is_no_file_is_named(kind: str, tmp_path: Path) -> None:
    top = files(tmp_path / "top", "cat/0.png", "dog/0.png")
    odd = top / "dog" / "1.png"
    if kind == "link":
        odd.symlink_to(tmp_path / "nowhere.png")
    else:
        os.mkfifo(odd)
    with pytest.raises(DataError, match=r"dog/1\.png (cannot be read|is not a file)"):
        open_folder(top)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    top = files(tmp_path / "top", "cat/0.png", "dog/0.png")
    (top / "dog").chmod(0)
    with pytest.raises(DataError, match="dog cannot be read"):
        open_folder(top)
    (top / "dog").chmod(0o700)


def test_images_of_a_kind_that_is_not_read_are_counted_in_a_warning(tmp_path: Path) -> None:
    top = files(tmp_path / "top", "cat/0.png", "cat/1.tif", "dog/2.png", "dog/3.gif", "dog/4.txt")
    with pytest.warns(UserWarning, match=r"not read \(skipped: 1 \.gif, 1 \.tif\): convert them"):
        assert len(open_folder(top)) == 2
    assert ".tif" not in SUFFIXES


# Parquet


def hub(names: Any) -> dict[str, str]:
    """The hub's metadata with these class names."""
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}


def table(
    path: Path, places: list[int], labels: Any = None, metadata: dict[str, Any] | None = None
) -> Path:
    """A Parquet file in the hub's schema."""
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": png(place), "path": "a.png"} for place in places])
    }
    if labels is not None:
        columns["label"] = labels if isinstance(labels, pa.Array) else pa.array(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def open_table(path: Path, split: str = "train") -> Images:
    return parquet(str(path), split, size=SIZE, cache=str(path.parent / "cache"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:6\nsize 146946961\n",
            "is a pointer of Git LFS .* lfs pull",
        ),
        (b"", "is empty, 0 bytes"),
        (b"<html>404</html>", "is not a Parquet file"),
        (b"PAR1" + b"\x00" * 40 + b"PAR1", "is not a Parquet file"),
    ],
)
def test_a_file_that_is_no_parquet_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=rf"train\.parquet {sentence}"):
        open_table(tmp_path)


def test_a_file_whose_pages_are_damaged_is_named_with_the_row(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", list(range(40)), [0, 1] * 20)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"train\.parquet(, row 0| cannot be read from row 0)"):
        open_table(tmp_path)


def test_a_file_without_rows_is_no_full_disk(tmp_path: Path) -> None:
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary()}), "label": pa.int64()})
    pq.write_table(schema.empty_table(), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet has no rows"):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("labels", "metadata", "expected", "names"),
    [
        (["dog", "cat", "dog"], None, [1, 0, 1], ("cat", "dog")),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), None, [1, 0, 1], ("cat", "dog")),
        (pa.array([1, 0, 1]).dictionary_encode(), None, [1, 0, 1], ()),
        (["dog", "cat", "dog"], hub(["dog", "cat", "ant"]), [0, 1, 0], ("dog", "cat", "ant")),
        ([1.0, 0.0, 1.0], None, [1, 0, 1], ()),
        ([True, False, True], None, [1, 0, 1], ()),
        (pa.array([1, 0, 1], pa.uint8()), hub(["a", "b"]), [1, 0, 1], ("a", "b")),
        ([1, 0, 1], {"huggingface": "not json"}, [1, 0, 1], ()),
        ([1, 0, 1], {"huggingface": b"\xff\xfe"}, [1, 0, 1], ()),
        ([1, 0, 1], {"huggingface": "[" * 100_000}, [1, 0, 1], ()),
        ([1, 0, 1], {"huggingface": json.dumps({"info": {"features": None}})}, [1, 0, 1], ()),
        (
            [1, 0, 1],
            {"huggingface": json.dumps({"info": {"features": [{"name": "label"}]}})},
            [1, 0, 1],
            (),
        ),
        ([1, 0, 1], hub("cat dog"), [1, 0, 1], ()),
        ([1, 0, 1], hub([0, 1]), [1, 0, 1], ()),
        ([1, 0, 1], hub(["a", "a"]), [1, 0, 1], ()),
    ],
)
def test_labels_are_read_as_they_are_written_and_text_is_numbered_in_sorted_order(
    labels: Any, metadata: Any, expected: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    images = open_table(table(tmp_path / "train.parquet", [0, 1, 2], labels, metadata))
    assert images.targets().tolist() == expected and images.class_names == names
    assert images.classes == max(2, len(names))


@pytest.mark.parametrize(
    ("labels", "metadata", "sentence"),
    [
        ([0.0, 1.0, 0.5], None, "row 2: the label 0.5 is not a whole number"),
        ([0.0, float("inf"), 1.0], None, "row 1: the label inf is not"),
        ([0, 1, 2], hub(["a", "b"]), "row 2: the label 2 is not a class number from 0 to 1"),
        ([0, -2, 1], None, "row 1: the label -2 is not"),
        (
            ["a", "zebra", "b"],
            hub(["a", "b"]),
            "row 1: the label 'zebra' is not among the class names",
        ),
        (pa.array([0, 2**63, 1], pa.uint64()), None, "row 1: the label 9223372036854775808 is not"),
        ([[0], [1], [0]], None, "column 'label' of list<"),
        (pa.array([b"\xff", b"\xfe", b"a"]).view(pa.string()), None, "labels that are not UTF-8"),
    ],
)
def test_a_label_that_is_no_class_is_named_with_its_row(
    labels: Any, metadata: Any, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"train\.parquet.* {sentence}"):
        open_table(table(tmp_path / "train.parquet", [0, 1, 2], labels, metadata))


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([-1, -1, -1], "row 0, is -1 or null"),
        ([0, 1, -1], "row 2, is -1 or null"),
        ([0, None, 1], "row 1, is -1 or null"),
        ([0.0, float("nan"), 1.0], "row 1, is -1 or null"),
        (["a", None, "b"], "row 1, is -1 or null"),
        (pa.nulls(3), "row 0, is -1 or null"),
        (None, "has no column 'label' among image"),
    ],
)
def test_queries_need_no_labels_and_a_task_refuses_their_absence_with_the_row(
    labels: Any, why: str, tmp_path: Path
) -> None:
    images = open_table(table(tmp_path / "train.parquet", [0, 1, 2], labels))
    assert len(take(images, 2)) == 2 and images.labels is None and images.classes == 0
    with pytest.raises(DataError, match=rf"has no labels \(.*train\.parquet.* {why}"):
        check_classes(Task("t", "own", images, images))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["train-00000-of-00003", "train-00002-of-00003"],
            r"Shard 1 of 3 is missing: fetch .*/train-00001-of-00003\.p",
        ),
        (["train-00000-of-00002", "train-00001-of-00003"], "are not shards of one set"),
        (
            ["train", "train-00000-of-00001"],
            "train.parquet and .*train-00000-of-00001.parquet are not shards|are not",
        ),
        (["train-00000-of-00001", "train-extra-00000-of-00001"], "are not shards of one set"),
        (["train-00000-of-00001", "train-00000-of-00001 (1)"], "are not shards of one set"),
    ],
)
def test_shards_that_are_missing_or_of_two_sets_are_named(
    names: list[str], sentence: str, tmp_path: Path
) -> None:
    for place, name in enumerate(names):
        table(tmp_path / f"{name}.parquet", [2 * place, 2 * place + 1], [0, 1])
    with pytest.raises(DataError, match=sentence):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (range(40), "40 of the 40 images of .*train-1.parquet are in .*train-0.parquet too"),
        (range(39, -1, -1), "40 of the 40 images"),
        (range(30, 70), "10 of the 40 images"),
        (range(39, 79), None),
    ],
)
def test_a_shard_that_repeats_rows_of_another_is_refused_and_one_image_in_common_is_not(
    second: range, sentence: str | None, tmp_path: Path
) -> None:
    table(tmp_path / "train-0.parquet", list(range(40)), [0, 1] * 20)
    table(tmp_path / "train-1.parquet", list(second), [0, 1] * 20)
    if sentence is None:
        assert len(open_table(tmp_path)) == 80
    else:
        with pytest.raises(DataError, match=sentence):
            open_table(tmp_path)
        assert list(tmp_path.glob("cache/*")) == [], "nothing is left of it"


def test_shards_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    table(tmp_path / "train-0.parquet", [0, 1], [0, 1], hub(["cat", "dog"]))
    table(tmp_path / "train-1.parquet", [2, 3], [0, 1], hub(["dog", "cat"]))
    with pytest.raises(
        DataError, match=r"Label 0 is 'cat' in .*train-0\.parquet and 'dog' in .*train-1\.parquet"
    ):
        open_table(tmp_path)
    table(tmp_path / "train-1.parquet", [2, 3], [0, 1], hub(["cat", "dog", "ant"]))
    with pytest.raises(DataError, match="Label 2 is 'no class' in .* and 'ant' in"):
        open_table(tmp_path)
    table(tmp_path / "train-0.parquet", [0, 1], [0, 1])
    table(tmp_path / "train-1.parquet", [2, 3], ["cat", "dog"])
    with pytest.raises(
        DataError, match=r"train-1\.parquet has labels of text and .*train-0\.parquet numbers"
    ):
        open_table(tmp_path)


def test_labels_of_text_are_numbered_alike_in_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_reading, "PAGE", 1)
    table(tmp_path / "train-0.parquet", [0, 1], ["dog", "cat"])
    table(tmp_path / "train-1.parquet", [2, 3], ["ant", "dog"])
    images = open_table(tmp_path)
    assert images.class_names == ("ant", "cat", "dog") and images.targets().tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([png(0), png(1)]), None),
        (pa.array([png(0), png(1)], pa.large_binary()), None),
        (pa.array([png(0), None]), r"row 1: the image is null"),
        (pa.array([{"bytes": png(0)}, None]), r"row 1: the image is null"),
        (
            pa.array(
                [{"bytes": None, "path": "cat/1.png"}] * 2,
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            "row 0: the image .* no bytes .a path without",
        ),
        (pa.array([{"path": "cat/1.png"}] * 2), "column 'image' of struct<path: string>"),
        (pa.array(["cat/1.png"] * 2), "column 'image' of string"),
        (pa.array([[1, 2], [3, 4]]), "column 'image' of list<"),
        (pa.nulls(2), "row 0: the image is null"),
    ],
)
def test_images_are_bytes_or_their_absence_is_named(
    column: Any, sentence: str | None, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / "train.parquet")
    if sentence is None:
        assert open_table(tmp_path).targets().tolist() == [0, 1]
    else:
        with pytest.raises(DataError, match=rf"train\.parquet.*{sentence}"):
            open_table(tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    arrays = [pa.array([png(0)]), pa.array([0]), pa.array([1])]
    pq.write_table(
        pa.Table.from_arrays(arrays, ["image", "label", "label"]), tmp_path / "train.parquet"
    )
    with pytest.raises(DataError, match="two columns 'label'"):
        open_table(tmp_path)


def test_a_cache_that_cannot_be_written_is_the_disks_fault_and_a_broken_one_is_named(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "train.parquet", [0, 1], [0, 1])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/cache .*: make room, or set paths\.cache"):
        parquet(str(path), "train", size=SIZE, cache=str(tmp_path / "file" / "cache"))
    open_table(path)
    [entry] = (tmp_path / "cache").iterdir()
    for name, content in (("meta.json", b"{"), ("labels.npy", b""), ("pixels.u8", b"")):
        whole = (entry / name).read_bytes()
        (entry / name).write_bytes(content)
        with pytest.raises(DataError, match="were changed after decoding: delete that folder"):
            open_table(path)
        (entry / name).write_bytes(whole)


# Classes of a task


def listed(labels: list[int], names: tuple[str, ...] = (), name: str = "x") -> Images:
    pixels = np.zeros((len(labels), 3, 1, 1), np.uint8)
    classes = len(names) or max(labels) + 1
    return Images(name, pixels, np.array(labels), classes, np.arange(len(labels)), name, names)


NAMES = ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        (
            listed([0, 0]),
            listed([0, 0]),
            "train split of task t has no class but 0: .* two classes",
        ),
        (
            listed([0, 1, 2], NAMES),
            listed([1, 1], NAMES),
            "test split of task t has no class but 'bee'",
        ),
        (
            take(listed([0, 1], NAMES), 1),
            listed([0, 1], NAMES),
            "train split of task t has no class but",
        ),
        (
            take(listed([0, 1], NAMES), 0),
            listed([0, 1], NAMES),
            "train split of task t has no images",
        ),
        (
            listed([0, 1, 2], NAMES),
            listed([0, 1], NAMES),
            "test split of task t has no image of class 'cow', which",
        ),
        (
            listed([0, 2], NAMES),
            listed([0, 1, 2], NAMES),
            "train split of task t has no image of class 'bee'",
        ),
        (listed([0, 1, 2]), listed([0, 1]), "test split of task t has no image of class 2"),
        (
            listed([0, 1, 2], NAMES),
            listed([0, 1], NAMES[:2]),
            "different classes, as only the train split has 'cow'",
        ),
        (listed([0, 1], NAMES[:2]), listed([0, 1], NAMES[1::-1]), "different classes: open both"),
        (listed([0, 1]), listed([0, 10**12]), "labels up to 1000000000000 and 2 images"),
    ],
)
def test_a_task_has_the_same_two_or_more_classes_in_each_split(
    train: Images, test: Images, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        check_classes(Task("t", "own", train, test))


def test_a_small_part_may_miss_a_class_that_its_split_has() -> None:
    train = listed([0, 1, 2] * 9, NAMES).part(np.array([0, 1]))
    check_classes(Task("t", "own", train, listed([0, 1, 2], NAMES)))
    check_classes(
        Task("t", "own", listed([0, 2], NAMES), listed([2, 0], NAMES))
    )  # of a class in neither, no figure is


# Recordings

DIGESTS = [bytes([number]) * 16 for number in range(6)]


def recording(path: Path, **changes: Any) -> Path:
    columns: dict[str, Any] = {
        "digest": DIGESTS,
        "size": [8] * 6,
        "vector": [[float(n), 1.0] for n in range(6)],
    }
    columns = {name: values for name, values in (columns | changes).items() if values is not None}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger.sqlite"))


def at(place: int, value: Any, among: list[Any]) -> list[Any]:
    """The list with another value at one place."""
    return [value if number == place else old for number, old in enumerate(among)]


VECTORS = [[float(number), 1.0] for number in range(6)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vector": at(4, None, VECTORS)}, "row 4: the vector is null"),
        ({"vector": at(4, [], VECTORS)}, "row 4: the vector is empty"),
        (
            {"vector": at(4, [1.0, None], VECTORS)},
            "row 4: the vector has numbers that are null or not finite",
        ),
        (
            {"vector": at(4, [1.0, 1e39], VECTORS)},
            "row 4: the vector has numbers that are null or not finite",
        ),
        ({"vector": at(4, [1.0], VECTORS)}, "row 4 has a vector of width 1, and .* row 0 2"),
        (
            {"vector": [b"\x00\x00\x80?"] * 6},
            "column vector of binary: write each vector as a list",
        ),
        ({"vector": [[["a"]]] * 6}, "column vector of list<"),
        ({"size": [8, 8, 8, 8, 16, 8]}, "row 4 has an image of size 16, and .* row 0 8"),
        ({"size": [8, 8, 8, 8, None, 8]}, "row 4: the digest is not 16 bytes, or the size"),
        ({"size": [8, 8, 8, 8, 0, 8]}, "row 4: the digest is not 16 bytes, or the size"),
        ({"size": ["8"] * 6}, "column size of string"),
        ({"digest": at(4, None, DIGESTS)}, "row 4: the digest is not 16 bytes, or the size"),
        ({"digest": at(4, b"short", DIGESTS)}, "row 4: the digest is not 16 bytes, or the size"),
        ({"digest": ["00" * 16] * 6}, "column digest of string"),
        ({"digest": at(4, DIGESTS[1], DIGESTS)}, "row 4 and .* row 1 are two answers to one image"),
        (
            {
                "digest": [],
                "size": pa.array([], pa.int64()),
                "vector": pa.array([], pa.list_(pa.float32())),
            },
            "has ",
        ),
    ],
)
def test_a_recording_is_imported_whole_or_refused_with_the_row(
    changes: dict[str, Any], sentence: str, ledger: Ledger, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"r\.parquet.* {sentence}"):
        record(ledger, recording(tmp_path / "r.parquet", **changes), "r", None)
    for name in ("sources", "requests", "queries"):
        assert ledger.database.read(f"SELECT count(*) FROM {name}") == [(0,)]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([png(0), b"", png(1)], "row 1: the image cannot be decoded"),
        ([png(0), png(1), None], "row 2: the image is null"),
        ([{"bytes": png(0)}, {"bytes": None}, None], "row 1: the image is null"),
        (["a.png"] * 3, "column 'image' of string"),
    ],
)
def test_a_recorded_image_that_is_none_is_named_with_its_row(
    images: list[Any], sentence: str, ledger: Ledger, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": images, "vector": [[1.0]] * 3}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=rf"r\.parquet.* {sentence}"):
        record(ledger, tmp_path / "r.parquet", "r", SIZE)
    assert ledger.database.read("SELECT count(*) FROM sources") == [(0,)]


def test_rows_of_a_recording_are_counted_over_pages(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stealing.queries.import_answers.PAGE", 2)
    images = [png(0), png(1), png(2), b"torn"]
    pq.write_table(pa.table({"image": images, "vector": [[1.0]] * 4}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="row 3: the image cannot be decoded"):
        record(ledger, tmp_path / "r.parquet", "r", SIZE)


def exported(tmp_path: Path, **apart: Any) -> Path:
    """An export of two answers to each of three images, which differ in these columns."""
    same = {"target": "t", "defense": "d", "account": "a", "codec": "", "repeat": 0}
    columns: dict[str, Any] = {name: [value] * 6 for name, value in same.items()}
    columns |= {name: [same[name]] * 3 + [value] * 3 for name, value in apart.items()}
    return recording(tmp_path / "r.parquet", digest=DIGESTS[:3] * 2, **columns)


@pytest.mark.parametrize(
    ("name", "value"),
    [("target", "u"), ("defense", "noise"), ("account", "b"), ("codec", "jpeg"), ("repeat", 1)],
)
def test_answers_of_two_sources_are_refused_until_one_is_chosen(
    name: str, value: Any, ledger: Ledger, tmp_path: Path
) -> None:
    path = exported(tmp_path, **{name: value})
    with pytest.raises(DataError, match=rf"several {name}s, .*{value}.*: choose one by --{name}\."):
        record(ledger, path, "r", None)
    assert ledger.database.read("SELECT count(*) FROM sources") == [(0,)]
    with pytest.raises(DataError, match=f"no such answers with {name} x, only .*{value}"):
        record(ledger, path, "r", None, {name: "x"})
    assert record(ledger, path, "r", None, {name: value}) == 3
    source = ledger.source("recording/r", "recorded", "recorded", "", 8)
    assert ledger.read(source, DIGESTS[:3], 0)[:, 0].tolist() == [3, 4, 5]


def test_the_command_takes_the_choice_and_leaves_nothing_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(tmp_path, account="b", repeat=1)
    line = [
        "queries",
        "--ledger",
        str(tmp_path / "ledger.sqlite"),
        "import",
        str(path),
        "--name",
        "r",
    ]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit, match="^DataError: .*several accounts"):
        command.main()
    monkeypatch.setattr(sys, "argv", [*line, "--account", "b", "--repeat", "1"])
    command.main()
    assert capsys.readouterr().out == "3 answers recorded as r.\n"
    monkeypatch.setattr(sys, "argv", [*line[:-1], "s", "--account", "b", "--repeat", "0"])
    with pytest.raises(SystemExit, match="no such answers with repeat 0"):
        command.main()


def test_a_recording_without_the_columns_of_an_export_has_nothing_to_choose(
    ledger: Ledger, tmp_path: Path
) -> None:
    path = recording(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="no column account to choose by"):
        record(ledger, path, "r", None, {"account": "a"})
    with pytest.raises(DataError, match="leave --size out"):
        record(ledger, path, "r", 8)
    assert record(ledger, path, "r", None) == 6


def test_an_export_is_whole_or_not_there(ledger: Ledger, tmp_path: Path) -> None:
    [made] = reserve(ledger, slice(0, 5))
    store(ledger, made)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/all\.parquet cannot be written"):
        export(ledger, tmp_path / "file" / "all.parquet")
    assert export(ledger, tmp_path / "all.parquet") == 5
    before = (tmp_path / "all.parquet").read_bytes()
    with ledger.database.transaction() as execute:
        execute("UPDATE queries SET answer = ? WHERE id = 3", (b"\x00" * 7,))
    with pytest.raises(LedgerError, match=r"Row 3 of .* is not as it was stored"):
        export(ledger, tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").read_bytes() == before and not list(tmp_path.glob(".all*"))


# Weights and features


@cache
def small() -> dict[str, Any]:
    """A small architecture of the project."""
    return to_dict(choose("experiment=debug").arch)


def spoilt(kind: str, folder: Path) -> Path:
    """A saved encoder with weights that are none."""
    arch = small()
    encoder = build_encoder(arch, 0)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if kind == "zero":
                parameter.zero_()
            elif kind in ("nan", "inf") and name.endswith("weight"):
                parameter.view(-1)[-1] = float(kind)
        for name, buffer in encoder.named_buffers():
            if kind == "statistics" and name.endswith("running_var"):
                buffer[0] = float("nan")
    save_encoder(encoder, folder / "encoder.safetensors", arch=arch, size=16, provenance={})
    return folder / "encoder.safetensors"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nan", "has weights in '.*weight' that are not finite"),
        ("inf", "has weights in '.*weight' that are not finite"),
        ("zero", "has weights that are all one number"),
        ("statistics", "has NaN in '.*running_var'"),
    ],
)
def test_an_encoder_of_no_numbers_is_refused_when_it_is_opened(
    kind: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"encoder\.safetensors {sentence}"):
        load_encoder(spoilt(kind, tmp_path))


def test_a_sound_encoder_is_opened(tmp_path: Path) -> None:
    assert load_encoder(spoilt("no", tmp_path))[0].feature_dim


PROTOCOL = Protocol(0.25, ProbeSettings([1e-2], 1e-3, 20), 5, 0.1, None, 10)
LABELS = np.arange(40) % 2
TASK = Task(
    "t", "own", listed(LABELS.tolist(), name="train"), listed(LABELS[:20].tolist(), name="test")
)
FEATURES = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


def changed(kind: str) -> torch.Tensor:
    features = FEATURES.clone()
    if kind == "nan":
        features[50, 3] = torch.nan
    elif kind == "inf":
        features[50, 3] = torch.inf
    elif kind == "constant":
        features[:] = features[0]
    elif kind == "rounding":
        features = features[0] * (1 + 1e-7 * features)
    elif kind == "zero":
        features.zero_()
    return features


@pytest.mark.parametrize("whose", ["TA", "TA_clean", "SA"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nan", "numbers that are not finite for test image 10 of task t"),
        ("inf", "numbers that are not finite for test image 10 of task t"),
        ("constant", "one and the same vector for all 60 images of task t"),
        ("rounding", "one and the same vector for all 60 images of task t"),
        ("zero", "one and the same vector for all 60 images of task t"),
    ],
)
def test_features_that_tell_nothing_are_refused_before_anything_is_judged(
    whose: str, kind: str, sentence: str, tmp_path: Path
) -> None:
    features = changed(kind)
    jobs = {
        "pixels": HeadInput("p", FEATURES[:40], FEATURES[40:]),
        whose: HeadInput("e", features[:40], features[40:]),
    }
    with pytest.raises(TargetError if whose.startswith("TA") else TrainingError, match=sentence):
        Evaluator(PROTOCOL, tmp_path).predictions(TASK, jobs)
    assert list(tmp_path.iterdir()) == [], "no head was fitted"


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_may_be_worth_nothing_but_is_of_numbers(name: str, tmp_path: Path) -> None:
    features = changed("zero")
    assert Evaluator(PROTOCOL, tmp_path).predictions(
        TASK, {name: HeadInput("e", features[:40], features[40:])}
    )[name]
    features = changed("nan")
    with pytest.raises(TrainingError, match="not finite"):
        Evaluator(PROTOCOL, tmp_path).predictions(
            TASK, {name: HeadInput("f", features[:40], features[40:])}
        )


def test_a_target_refused_for_one_split_alone_is_still_judged(tmp_path: Path) -> None:
    job = HeadInput("e", FEATURES[:40], torch.zeros(20, 6))
    assert Evaluator(PROTOCOL, tmp_path).predictions(TASK, {"TA": job})["TA"]["knn"].test.shape == (
        20,
    )


def test_a_local_target_gives_no_answer_that_is_not_finite() -> None:
    encoder = pair.encoder(normed=False)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1e30)  # finite, until two layers are multiplied
    target = LocalTarget(encoder, Chain({}), "none", 8)
    with pytest.raises(NotServed) as refused:
        target.answer(torch.from_numpy(pair.PIXELS[:5]), "a")
    assert "not finite for 5 of 5 images" in str(refused.value.__cause__)


@pytest.mark.parametrize("kind", ["nan", "constant", "zero"])
def test_nothing_is_learned_from_answers_that_teach_nothing(kind: str, tmp_path: Path) -> None:
    answers = BoughtAnswers(listed([0] * 60), changed(kind), "source")
    options: dict[str, Any] = {"seed": 0, "start": 0, "root": tmp_path, "recorder": Recorder()}
    with pytest.raises(TargetError, match="The target gives .*, so nothing can be learned"):
        steal_encoder(answers, {}, {}, settings=Settings(threads=1), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_whose_last_step_breaks_the_weights_is_no_encoder(tmp_path: Path) -> None:
    module = pair.surrogate(normed=False)
    module.optimizer = lambda p: torch.optim.SGD(p, lr=float("inf"))
    options: dict[str, Any] = {"name": "steal", "total_steps": 1, "seed": 3, "recorder": Recorder()}
    with pytest.raises(
        TrainingError,
        match="'steal' has weights in '.*' that are not finite at its end: lower its lea",
    ):
        fit(
            module,
            TrainingImages(pair.IMAGES, 8, 5),
            tmp_path,
            settings=Settings(threads=1),
            **options,
        )


def test_a_likeness_that_is_not_defined_is_left_out() -> None:
    zeros = torch.zeros(10, 4)
    rows = FEATURES[:10, :4]
    assert fidelity(zeros, rows, rows) == {}
    assert set(fidelity(rows, rows, rows)) == {"cosine", "cosine_centred", "cosine_shuffled", "cka"}


# A target that gets nothing right


def outcomes(**shares: float) -> dict[str, Any]:
    rows = {name: np.arange(100) < round(100 * share) for name, share in shares.items()}
    rows |= {name: np.arange(100) < 20 for name in CONTROLS}
    return rows | {name + HELD: row for name, row in rows.items()}


def test_the_ratio_to_a_target_that_gets_nothing_right_is_null_and_a_dash_in_tables(
    tmp_path: Path,
) -> None:
    row = summarise([outcomes(TA=0, TA_clean=0, SA=0.5)], resamples=20)
    assert row["ratio"] is None and json.loads(json.dumps(row, allow_nan=False))["ratio"] is None
    result = test_table.result()
    result["tasks"]["digits"]["linear"] |= row
    console = Console(width=124, file=StringIO())
    show(result, console)
    [line] = [line for line in console.file.getvalue().splitlines() if line.startswith("│ digits")]  # type: ignore[attr-defined]
    assert [cell.strip() for cell in line.split("│")][3:6] == ["0.000", "0.500", "-"]
    finished_run(tmp_path, "run", {"t": (0.0, 0.5, 0.2)})
    sheet = by_task(group_runs(find_runs([tmp_path])), "linear")
    assert sheet.rows[0][sheet.columns.index("SA/TA")] == "-"
