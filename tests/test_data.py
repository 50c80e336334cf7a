"""Sources, the decoded cache, and the ways to take a part of a list."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stealing.data import cache as caching
from stealing.data.images import Images, part_of_classes, take
from stealing.data.sources import folder, parquet
from stealing.errors import DataError

META = {b"huggingface": b'{"info": {"features": {"label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}}}'}


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
        write(tmp_path / f"train-{shard:05d}.parquet", [png(pixels[i]) for i in rows], [i % 4 for i in rows])
    images = parquet(str(tmp_path), "train", size=16, cache=str(tmp_path / "cache"))
    assert (images.batch(slice(None)).numpy() == pixels.transpose(0, 3, 1, 2)).all()
    assert images.targets().tolist() == [i % 4 for i in range(12)] and images.classes == 4


def test_a_source_without_labels_can_be_asked_about_but_is_no_task(tmp_path: Path, pixels: np.ndarray) -> None:
    write(tmp_path / "train.parquet", [png(p) for p in pixels], None)
    images = parquet(str(tmp_path / "train.parquet"), "train", size=16, cache=str(tmp_path / "cache"))
    assert images.labels is None and len(images) == 12
    with pytest.raises(DataError, match="has no labels"):
        images.targets()


def test_bad_rows_are_named_by_file_and_row_and_leave_nothing_half_done(tmp_path: Path, pixels: np.ndarray) -> None:
    good = [png(p) for p in pixels]
    cases: list[tuple[list[bytes], list[int], dict[str, str], str]] = [
        ([*good[:5], good[5][:40], *good[6:]], [0] * 12, {}, r"train.parquet, row 5: the image cannot be decoded"),
        ([*good[:11], b""], [0] * 12, {}, r"row 11: the image cannot be decoded"),
        (good, [0] * 7 + [4] + [0] * 4, {}, r"train.parquet, row 7: the label 4 is not in 0 to 3"),
        (good, [0] * 7 + [-1] + [0] * 4, {}, r"row 7: the label -1"),
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
        ([*good[:3], png(np.zeros((20, 16, 3), np.uint8))], [0] * 4, {"resize": "pad"}, r"row 3: the image is 16x20"),
    ]
    for number, (images, labels, options, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / "train.parquet", images, labels)
        with pytest.raises(DataError, match=message):
            parquet(str(folder), "train", size=16, cache=str(folder / "cache"), **options)
        assert list((folder / "cache").iterdir()) == []


def test_another_schema_and_an_absent_folder_are_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has no column 'image'"):
        parquet(str(tmp_path), "train", size=16, cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="STEALING_DATA or data.root"):
        parquet(str(tmp_path / "nowhere"), "train", size=16, cache=str(tmp_path / "cache"))


def test_resize_and_grey_do_what_they_are_told_and_no_more(tmp_path: Path, pixels: np.ndarray) -> None:
    write(tmp_path / "train.parquet", [png(pixels[0][:8, :8, 0])], [0])
    images = parquet(str(tmp_path), "train", size=16, cache=str(tmp_path), resize="pad", grey="repeat").batch(
        slice(None)
    )
    assert (images[0, :, 4:12, 4:12].numpy() == pixels[0][:8, :8, 0]).all()
    assert images.sum() == images[0, :, 4:12, 4:12].sum()
    assert parquet(str(tmp_path), "train", size=32, cache=str(tmp_path), resize="bilinear", grey="repeat").size == 32


def test_a_changed_or_half_written_cache_is_never_used(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.parquet", [png(p) for p in pixels], [0] * 12)
    opening = {"size": 16, "cache": str(tmp_path / "cache")}
    monkeypatch.setattr(caching.np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
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
    named, flat = folder(str(tmp_path / "split"), **options), folder(str(tmp_path / "flat"), **options)
    assert named.class_names == ("a", "b", "c", "d") and named.classes == 4 and flat.labels is None
    assert (flat.batch(slice(None)).numpy() == pixels.transpose(0, 3, 1, 2)).all()
    places = {image.tobytes(): number for number, image in enumerate(pixels.transpose(0, 3, 1, 2))}
    read = [places[image.tobytes()] for image in named.batch(slice(None)).numpy()]
    assert sorted(read) == list(range(12))
    assert named.targets().tolist() == [3 - number % 4 for number in read]
    few = folder(str(tmp_path / "flat"), **options, limit=3)
    assert (few.batch(slice(None)).numpy() == flat.batch(slice(None)).numpy()[take(flat, 3).rows]).all()


def test_a_folder_that_cannot_be_read_is_one_sentence_that_names_the_file(tmp_path: Path, pixels: np.ndarray) -> None:
    options = {"size": 16, "cache": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="is no folder"):
        folder(str(tmp_path / "nowhere"), **options)
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


def test_parts_of_the_classes_are_disjoint_and_relabelled_from_zero() -> None:
    images = listed([i % 8 for i in range(80)], 8)
    parts = [part_of_classes(images, part, 2) for part in range(2)]
    assert set(parts[0].rows) & set(parts[1].rows) == set() and len(parts[0]) + len(parts[1]) == 80
    for part in parts:
        assert part.classes == 4 and sorted(set(part.targets())) == [0, 1, 2, 3]
        originals = np.arange(80)[part.rows] % 8
        for label, name in enumerate(part.class_names):
            assert set(originals[part.targets() == label]) == {"abcdefgh".index(name)}
