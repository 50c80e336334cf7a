"""Sources, the decoded cache, and the ways to take a part of a list."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from stealing.data import cache as caching
from stealing.data.decoding import fit
from stealing.data.images import Images, balanced, grouped, part_of_classes, take, without
from stealing.data.sources import folder, parquet
from stealing.errors import DataError, StorageError

META = {
    b"huggingface": b'{"info": {"features": {"label": {"names": ["a", "b", "c", "d"], '
    b'"_type": "ClassLabel"}}}}'
}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, images: list[bytes], labels: list[int] | None) -> None:
    columns = {"image": pa.array([{"bytes": b, "path": None} for b in images])}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    pq.write_table(pa.table(columns).replace_schema_metadata(META), path)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


def test_parquet_gives_back_the_pixels_and_labels_that_were_written_over_all_shards(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    for shard, rows in enumerate((range(8), range(8, 12))):
        write(
            tmp_path / f"train-{shard:05d}.parquet",
            [png(pixels[i]) for i in rows],
            [i % 4 for i in rows],
        )
    images = parquet(str(tmp_path), "train", size=16, cache=str(tmp_path / "cache"))
    assert (images.batch(slice(None)).numpy() == pixels.transpose(0, 3, 1, 2)).all()
    assert images.targets().tolist() == [i % 4 for i in range(12)] and images.classes == 4


def test_a_source_without_labels_can_be_asked_about_but_is_no_task(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    write(tmp_path / "train.parquet", [png(p) for p in pixels], None)
    images = parquet(
        str(tmp_path / "train.parquet"), "train", size=16, cache=str(tmp_path / "cache")
    )
    assert images.labels is None and len(images) == 12
    with pytest.raises(DataError, match="has no labels"):
        images.targets()


def test_bad_rows_are_named_by_file_and_row_and_leave_nothing_half_done(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    good = [png(p) for p in pixels]
    cases: list[tuple[list[bytes], list[int], dict[str, str], str]] = [
        (
            [*good[:5], good[5][:40], *good[6:]],
            [0] * 12,
            {},
            r"train.parquet, row 5: the image cannot be decoded",
        ),
        ([*good[:11], b""], [0] * 12, {}, r"row 11: the image cannot be decoded"),
        (
            good,
            [0] * 7 + [4] + [0] * 4,
            {},
            r"train.parquet, row 7: the label 4 is not a class number from 0 to 3",
        ),
        (good, [0] * 7 + [-2] + [0] * 4, {}, r"row 7: the label -2"),
        (
            [*good[:3], png(pixels[3][:8, :8]), *good[4:]],
            [0] * 12,
            {},
            r"row 3: the image is 8x8, not 16x16; set resize",
        ),
        (
            [*good[:3], png(pixels[3][..., 0]), *good[4:]],
            [0] * 12,
            {},
            r"row 3: the image is L, not RGB; .* grey=repeat",
        ),
        (
            [*good[:3], png(np.zeros((20, 16, 3), np.uint8))],
            [0] * 4,
            {"resize": "pad"},
            r"row 3: the image is 16x20",
        ),
    ]
    for number, (images, labels, options, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / "train.parquet", images, labels)
        with pytest.raises(DataError, match=message):
            parquet(str(folder), "train", size=16, cache=str(folder / "cache"), **options)
        assert list(folder.glob("cache/*")) == []


def test_another_schema_and_an_absent_folder_are_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has no column 'image'"):
        parquet(str(tmp_path), "train", size=16, cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="STEALING_DATA or data.root"):
        parquet(str(tmp_path / "nowhere"), "train", size=16, cache=str(tmp_path / "cache"))


def test_resize_and_grey_do_what_they_are_told_and_no_more(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    write(tmp_path / "train.parquet", [png(pixels[0][:8, :8, 0])], [0])
    images = parquet(
        str(tmp_path), "train", size=16, cache=str(tmp_path), resize="pad", grey="repeat"
    ).batch(slice(None))
    assert (images[0, :, 4:12, 4:12].numpy() == pixels[0][:8, :8, 0]).all()
    assert images.sum() == images[0, :, 4:12, 4:12].sum()
    assert (
        parquet(
            str(tmp_path), "train", size=32, cache=str(tmp_path), resize="bilinear", grey="repeat"
        ).size
        == 32
    )


@pytest.mark.parametrize("shape", [(160, 160), (160, 216), (216, 160)])  # height, width
def test_a_crop_is_the_centre_square_and_every_reduction_is_antialiased(
    shape: tuple[int, int],
) -> None:
    # Stripes of one pixel stay black and white unless the filter covers the whole reduction.
    pixels = np.random.default_rng(0).integers(0, 2, (*shape, 3), dtype=np.uint8) * 255
    image = Image.fromarray(pixels)
    side = min(shape)
    top = (shape[0] - side) // 2
    left = (shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    for resize, source in (("crop", square), ("bilinear", pixels)):
        reduced = fit(image, "here", 32, resize, "refuse").astype(np.float64)
        channels = torch.from_numpy(source.transpose(2, 0, 1)[None].astype(np.float64))
        expected = F.interpolate(
            channels, (32, 32), mode="bilinear", antialias=True, align_corners=False
        )[0]
        assert abs(reduced - expected.numpy()).max() <= 1, (
            "Pillow rounds twice to whole levels, torch does not round"
        )
        assert reduced.std() < 40 < 100 < source.std()


def test_a_crop_of_a_square_is_the_bilinear_reduction_and_a_rectangle_needs_a_choice(
    pixels: np.ndarray,
) -> None:
    square = Image.fromarray(pixels[0])
    assert (
        fit(square, "here", 8, "crop", "refuse") == fit(square, "here", 8, "bilinear", "refuse")
    ).all()
    with pytest.raises(
        DataError, match="the image is 16x12, not 8x8; set resize to pad .*, crop or bilinear"
    ):
        fit(Image.fromarray(pixels[0][:12]), "here", 8, "none", "refuse")


def test_a_changed_or_half_written_cache_is_never_used(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.parquet", [png(p) for p in pixels], [0] * 12)
    opening = {"size": 16, "cache": str(tmp_path / "cache")}
    monkeypatch.setattr(caching.np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(StorageError, match="disk full.*make room"):
        parquet(str(tmp_path), "train", **opening)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.undo()
    parquet(str(tmp_path), "train", **opening)
    file = next((tmp_path / "cache").glob("*/pixels.u8"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError, match="delete that folder"):
        parquet(str(tmp_path), "train", **opening)


def test_a_folder_of_class_folders_is_labelled_by_their_names_and_a_flat_one_is_not(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    for number, image in enumerate(pixels):
        for path in (tmp_path / "split" / "dcba"[number % 4], tmp_path / "flat"):
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{number:02d}.PNG").write_bytes(png(image))
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    options = {"size": 16, "cache": str(tmp_path / "cache")}
    named, flat = (
        folder(str(tmp_path / "split"), **options),
        folder(str(tmp_path / "flat"), **options),
    )
    assert named.class_names == ("a", "b", "c", "d") and named.classes == 4 and flat.labels is None
    assert (flat.batch(slice(None)).numpy() == pixels.transpose(0, 3, 1, 2)).all()
    places = {image.tobytes(): number for number, image in enumerate(pixels.transpose(0, 3, 1, 2))}
    read = [places[image.tobytes()] for image in named.batch(slice(None)).numpy()]
    assert sorted(read) == list(range(12))
    assert named.targets().tolist() == [3 - number % 4 for number in read]
    few = folder(str(tmp_path / "flat"), **options, limit=3)
    assert (
        few.batch(slice(None)).numpy() == flat.batch(slice(None)).numpy()[take(flat, 3).rows]
    ).all()


def test_a_folder_that_cannot_be_read_is_one_sentence_that_names_the_file(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    options = {"size": 16, "cache": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="is not a folder"):
        folder(str(tmp_path / "nowhere"), **options)
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="queries is not a folder, and .*pets holds cat: point at"):
        folder(str(tmp_path / "pets" / "queries"), **options)
    top = tmp_path / "top"
    top.mkdir()
    with pytest.raises(DataError, match="There are no images in"):
        folder(str(top), **options)
    (top / "good.png").write_bytes(png(pixels[0]))
    (top / "torn.png").write_bytes(png(pixels[1])[:60])
    with pytest.raises(DataError, match=r"top/torn\.png: the image cannot be decoded"):
        folder(str(top), **options)
    assert list((tmp_path / "cache").iterdir()) == []
    (top / "torn.png").unlink()
    (top / "class").mkdir()
    with pytest.raises(DataError, match="both images and class folders: move good.png"):
        folder(str(top), **options)


def listed(labels: list[int], classes: int) -> Images:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    names = tuple("abcdefgh"[:classes])
    return Images("x", pixels, np.array(labels), classes, np.arange(len(labels)), "sum", names)


def test_a_smaller_share_is_a_prefix_of_a_larger_one_and_changes_the_checksum() -> None:
    images = listed([0] * 20, 1)
    few, many = take(images, 5), take(images, 11)
    assert (many.rows[:5] == few.rows).all() and few.checksum != many.checksum != images.checksum
    with pytest.raises(DataError, match="lower the count"):
        take(images, 21)
    rest = take(images, 5, skip=15)
    assert not set(rest.rows.tolist()) & set(take(images, 15).rows.tolist())
    with pytest.raises(DataError, match="lower the count"):
        take(images, 6, skip=15)


def test_rows_that_are_left_out_are_rows_of_the_source_whatever_part_of_it_is_left() -> None:
    images = listed([i % 8 for i in range(80)], 8)
    half = part_of_classes(images, 0, 2)
    named = [int(row) for row in half.rows[[3, 7]]]
    rest = without(half, named)
    assert rest.rows.tolist() == [row for row in half.rows.tolist() if row not in named]
    assert (
        rest.checksum != half.checksum
        and (rest.targets() == half.targets()[~np.isin(half.rows, named)]).all()
    )
    other = part_of_classes(images, 1, 2)
    with pytest.raises(DataError, match=f"does not hold row {named[0]} here"):
        without(other, named)


def test_parts_of_the_classes_are_disjoint_and_relabelled_from_zero() -> None:
    images = listed([i % 8 for i in range(80)], 8)
    parts = [part_of_classes(images, part, 2) for part in range(2)]
    assert set(parts[0].rows) & set(parts[1].rows) == set() and len(parts[0]) + len(parts[1]) == 80
    for part in parts:
        assert part.classes == 4 and sorted(set(part.targets())) == [0, 1, 2, 3]
        originals = np.arange(80)[part.rows] % 8
        for label, name in enumerate(part.class_names):
            assert set(originals[part.targets() == label]) == {"abcdefgh".index(name)}


def test_few_labels_are_equally_many_of_each_class_and_a_prefix_of_more() -> None:
    images = listed([0] * 9 + [1] * 4 + [2] * 20, 3)
    few = balanced(images, 2)
    many = balanced(images, 4)
    assert np.bincount(few.targets()).tolist() == [2, 2, 2] and np.bincount(
        many.targets()
    ).tolist() == [4, 4, 4]
    assert (many.rows[: len(few)] == few.rows).all() and few.checksum != many.checksum
    assert len(set(many.rows.tolist())) == 12
    assert (balanced(images, 4).rows == many.rows).all()
    assert (balanced(images, 4, seed=1).rows != many.rows).any()
    for per_class in (0, 5):
        with pytest.raises(DataError, match="whose rarest class has 4 images"):
            balanced(images, per_class)


def test_groups_are_labelled_in_order_and_classes_in_no_group_are_left_out() -> None:
    images = listed([i % 8 for i in range(80)], 8)
    by_name = grouped(images, {"late": ["h", "f"], "early": ["a"]})
    by_label = grouped(images, {"late": [7, 5], "early": [0]})
    assert by_name.classes == 2 and by_name.class_names == ("late", "early")
    assert (by_name.rows == by_label.rows).all() and by_name.checksum == by_label.checksum
    originals = np.arange(80)[by_name.rows] % 8
    assert set(originals[by_name.targets() == 0]) == {5, 7} and set(
        originals[by_name.targets() == 1]
    ) == {0}
    assert len(by_name) == 30
    assert set(balanced(by_name, 3).targets()) == {0, 1}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"one": ["a", "b"]}, "name two or more"),
        ({"one": ["a"], "two": []}, "each with a class or more"),
        ({"one": ["a"], "two": ["z"]}, "has no class 'z'"),
        ({"one": [0], "two": [8]}, "has no class 8: .* 0 to 7"),
        ({"one": [-1], "two": [3]}, "has no class -1"),
        ({"one": ["a"], "two": [0]}, "Class 0 of x is named twice"),
    ],
)
def test_groups_that_are_no_task_are_refused_in_one_sentence(
    groups: dict[str, list[str | int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        grouped(listed([i % 8 for i in range(80)], 8), groups)


def test_lists_with_the_same_rows_and_other_labels_never_share_a_checksum() -> None:
    images = listed([i % 4 for i in range(80)], 4)
    lists = [
        images,
        images.part(np.arange(80)),
        grouped(images, {"x": ["a", "b"], "y": ["c", "d"]}),
        grouped(images, {"x": ["c", "d"], "y": ["a", "b"]}),
        grouped(images, {"x": ["a", "c"], "y": ["b", "d"]}),
        grouped(images, {"x": ["a", "b", "c"], "y": ["d"]}),
        grouped(images, {"x": ["a"], "y": ["b"], "z": ["c", "d"]}),
    ]
    assert all((one.rows == np.arange(80)).all() for one in lists)
    assert len({one.checksum for one in lists}) == len(lists)
    assert len({balanced(one, 2).checksum for one in lists if one.classes == 2}) == 4
    half = part_of_classes(images, 1, 2)
    assert half.checksum != images.part(half.rows).checksum, (
        "the labels of a share of classes start from 0"
    )
