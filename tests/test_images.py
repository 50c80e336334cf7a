"""Lists of images and their parts; sources and the decoded cache, block by block."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stealing.data import cache, decoding, shapes, sources
from stealing.data.cache import load_or_decode
from stealing.data.decoding import check_labels, decode, fit
from stealing.data.images import Images, balanced, grouped, part_of_classes, take
from stealing.errors import DataError, StorageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)


def listed(count: int, classes: int, named: bool = True) -> Images:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    names = tuple("abcdefgh"[:classes]) if named else ()
    return Images("x", pixels, np.arange(count) % classes, classes, np.arange(count), "sum", names)


def test_a_part_holds_the_chosen_places_and_is_named_by_them_in_order() -> None:
    images = listed(10, 2)
    part = images.part(np.array([4, 2, 7])).part(np.array([2, 0]))
    assert part.rows.tolist() == [7, 4] and len(part) == 2 and part.targets().tolist() == [1, 0]
    assert part.batch(slice(None))[:, 0, 0, 0].tolist() == [7, 4] and part.batch(
        np.array([1])
    ).shape == (1, 3, 1, 1)
    sums = {images.part(np.array(rows)).checksum for rows in ([7, 4], [4, 7], [7], [7, 4, 4])}
    assert len(sums) == 4 and "sum" not in sums and part.size == 1
    sums |= {grouped(images, {"a": ["a"], "b": ["b"]}).checksum, take(images, 3).checksum}
    assert all(len(checksum) == 32 for checksum in sums) and len(sums) == 6


def test_lists_are_those_of_seed_0_where_none_is_given(tmp_path: Path) -> None:
    images = listed(30, 3)
    assert (
        take(images, 5).checksum
        == take(images, 5, seed=0).checksum
        != take(images, 5, seed=1).checksum
    )
    assert (
        balanced(images, 2).checksum
        == balanced(images, 2, seed=0).checksum
        != balanced(images, 2, seed=1).checksum
    )
    options: dict[str, Any] = {
        "domain": "plain",
        "task": "kind",
        "count": 4,
        "size": 8,
        "cache": str(tmp_path),
    }
    drawn = [
        sources.shapes("train", **options, **seed).checksum
        for seed in ({}, {"seed": 0}, {"seed": 1})
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_shares_are_nested_by_seed_and_skip_leaves_out_the_first() -> None:
    images = listed(10, 2)
    order = np.random.default_rng(3).permutation(10).tolist()
    assert take(images, 4, seed=3).rows.tolist() == order[:4]
    assert take(images, 4, seed=3, skip=2).rows.tolist() == order[2:6]
    assert take(images, 10, seed=3).rows.tolist() == order and take(images, None, seed=3) is images
    assert take(images, 4).rows.tolist() == np.random.default_rng(0).permutation(10)[:4].tolist()
    assert take(images, 8, skip=2).rows.tolist() == take(images, 10).rows.tolist()[2:]
    with pytest.raises(DataError, match="10 images and 11 were asked"):
        take(images, 9, skip=2)


@pytest.mark.parametrize("named", [True, False])
def test_shares_of_the_classes_are_those_of_a_seeded_permutation_and_leave_the_rest_out(
    named: bool,
) -> None:
    images = listed(35, 7, named)
    for seed in (0, 5):
        order = np.random.default_rng(seed).permutation(7)
        for part in range(3):
            chosen = sorted(order[2 * part : 2 * part + 2].tolist())
            share = part_of_classes(images, part, 3, seed=seed)
            assert share.classes == 2 and share.rows.tolist() == [
                row for row in range(35) if row % 7 in chosen
            ]
            assert share.targets().tolist() == [chosen.index(row % 7) for row in share.rows]
            assert share.class_names == (
                tuple("abcdefgh"[label] for label in chosen) if named else ()
            )
    default = part_of_classes(images, 0, 3)
    assert default.rows.tolist() == part_of_classes(images, 0, 3, seed=0).rows.tolist()


@pytest.mark.parametrize(("part", "parts"), [(-1, 3), (3, 3), (0, 4)])
def test_a_share_that_is_not_there_or_has_one_class_is_refused(part: int, parts: int) -> None:
    with pytest.raises(DataError, match=f"cannot give part {part} of {parts} of 7 classes"):
        part_of_classes(listed(35, 7), part, parts)


def blocks(*parts: tuple[np.ndarray, list[int]]) -> Any:
    return lambda: iter([(pixels, np.array(labels)) for pixels, labels in parts])


def test_a_cache_entry_holds_all_blocks_and_is_made_once(tmp_path: Path) -> None:
    halves = blocks((PIXELS[:5], [0, 1, 2, 3, 4]), (PIXELS[5:], [5, 6, 7, 8]))
    made = load_or_decode(tmp_path, "name", {"a": 1}, 9, 4, halves)
    assert (made.pixels == PIXELS).all() and made.labels.tolist() == list(range(9))
    again = load_or_decode(tmp_path, "name", {"a": 1}, 9, 4, None)  # type: ignore[arg-type]
    assert again.checksum == made.checksum and (again.pixels == PIXELS).all()
    [entry] = tmp_path.iterdir()
    assert (
        entry.name.startswith("name-")
        and json.loads((entry / "meta.json").read_text())["count"] == 9
    )
    relabelled = load_or_decode(tmp_path, "name", {"a": 2}, 9, 4, blocks((PIXELS, [0] * 9)))
    assert relabelled.checksum != made.checksum, "labels count"
    with pytest.raises(TypeError):
        load_or_decode(tmp_path, "name", {"a": 1}, 8, 4, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        load_or_decode(tmp_path, "name", {"a": 1}, 9, 2, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        load_or_decode(tmp_path, "name", {"b": 1}, 9, 4, None)  # type: ignore[arg-type]


def test_an_entry_is_found_again_whatever_the_order_in_which_its_source_is_told(
    tmp_path: Path,
) -> None:
    made = load_or_decode(tmp_path, "name", {"a": 1, "b": 2}, 9, 4, blocks((PIXELS, [0] * 9)))
    assert load_or_decode(tmp_path, "name", {"b": 2, "a": 1}, 9, 4, None).checksum == made.checksum  # type: ignore[arg-type]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_the_terminal_alone_and_never_among_results(
    terminal: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache.sys.stderr, "isatty", lambda: terminal)
    load_or_decode(tmp_path, "pictures", {}, 9, 4, blocks((PIXELS, [0] * 9)))
    shown = capsys.readouterr()
    assert shown.out == "" and ("pictures" in shown.err) == terminal


def test_a_source_that_holds_another_number_than_it_announced_leaves_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="announced 9 images and held 5"):
        load_or_decode(tmp_path, "name", {}, 9, 4, blocks((PIXELS[:5], [0] * 5)))
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_decode_the_same_the_second_takes_the_firsts_entry(
    tmp_path: Path,
) -> None:
    def raced() -> Any:
        load_or_decode(
            tmp_path, "name", {}, 9, 4, blocks((PIXELS, [0] * 9))
        )  # the other process was quicker
        yield PIXELS, np.zeros(9, np.int64)

    found = load_or_decode(tmp_path, "name", {}, 9, 4, raced)
    assert (found.pixels == PIXELS).all() and len(list(tmp_path.iterdir())) == 1


def test_a_disk_without_room_is_one_sentence_with_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match=r"^3 MiB .* \(No space left on device\): make room"):
        load_or_decode(tmp_path, "name", {}, 1, 1024, blocks())
    monkeypatch.delattr(cache.os, "posix_fallocate")
    assert (
        load_or_decode(tmp_path, "name", {}, 9, 4, blocks((PIXELS, [0] * 9))).pixels == PIXELS
    ).all()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def parquet(
    path: Path, pixels: np.ndarray, labels: list[int] | None, names: list[str] | None = None
) -> None:
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": png(image), "path": None} for image in pixels])
    }
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    table = pa.table(columns)
    if names:
        meta = json.dumps({"info": {"features": {"label": {"names": names}}}})
        table = table.replace_schema_metadata({"huggingface": meta})
    pq.write_table(table, path)


ROWS = RNG.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)


def test_rows_are_read_and_counted_block_by_block_over_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 2)
    parquet(tmp_path / "train-0.parquet", ROWS[:5], [0, 1, 2, 0, 1])
    parquet(tmp_path / "train-1.parquet", ROWS[5:], [2, 5, 0])
    options: dict[str, Any] = {"size": 4, "cache": str(tmp_path / "cache")}
    images = sources.parquet(str(tmp_path), "train", **options)
    assert (images.batch(slice(None)).numpy() == ROWS.transpose(0, 3, 1, 2)).all()
    assert images.targets().tolist() == [0, 1, 2, 0, 1, 2, 5, 0] and images.classes == 6, (
        "one more than the greatest"
    )
    assert images.name == f"{tmp_path.stem}-train" and images.class_names == ()
    parquet(tmp_path / "test.parquet", ROWS, [0, 0, 0, 0, 0, 9, 0, 0], ["a", "b"])
    with pytest.raises(
        DataError, match=r"test\.parquet, row 5: the label 9 is not a class number from 0 to 1"
    ):
        sources.parquet(str(tmp_path), "test", **options)
    parquet(tmp_path / "val-0.parquet", ROWS[:4], [0, 1, 2, 0])
    parquet(tmp_path / "val-1.parquet", ROWS[4:], None)
    unlabelled = sources.parquet(str(tmp_path), "val", **options)
    assert unlabelled.labels is None and unlabelled.classes == 0 and len(unlabelled) == 8, (
        "of some rows is of none"
    )


def test_a_parquet_file_that_changed_is_decoded_anew(tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": 4, "cache": str(tmp_path / "cache")}
    parquet(tmp_path / "train.parquet", ROWS, [0] * 8)
    first = sources.parquet(str(tmp_path), "train", **options)
    parquet(tmp_path / "train.parquet", ROWS[::-1].copy(), [0] * 8)
    second = sources.parquet(str(tmp_path), "train", **options)
    assert first.checksum != second.checksum
    assert (second.batch(slice(None)).numpy() == ROWS[::-1].transpose(0, 3, 1, 2)).all()
    other = sources.parquet(str(tmp_path), "train", **options, resize="bilinear", grey="repeat")
    assert other.checksum == second.checksum and len(list((tmp_path / "cache").iterdir())) == 3


def test_a_folder_is_read_in_order_block_by_block_with_what_lies_deeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 3)
    places = [
        ("b", "1.png"),
        ("a", "deep/2.png"),
        ("a", "1.png"),
        ("b", "3.JPG"),
        ("b", ".hidden.png"),
        ("b", "x.txt"),
    ]
    for number, (label, name) in enumerate(places):
        path = tmp_path / "top" / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(ROWS[number]))
    (tmp_path / "top" / ".cache").mkdir()
    options: dict[str, Any] = {"size": 4, "cache": str(tmp_path / "cache")}
    images = sources.folder(str(tmp_path / "top"), **options)
    assert (
        images.class_names == ("a", "b")
        and images.classes == 2
        and images.targets().tolist() == [0, 0, 1, 1]
    )
    assert (images.batch(slice(None)).numpy() == ROWS[[2, 1, 0, 3]].transpose(0, 3, 1, 2)).all()
    few = sources.folder(str(tmp_path / "top"), **options, limit=2)
    order = np.random.default_rng(0).permutation(4)[:2]
    assert (few.batch(slice(None)).numpy() == images.batch(order).numpy()).all()
    assert few.targets().tolist() == images.targets()[order].tolist()


def test_drawn_images_are_the_same_in_blocks_and_labelled_by_their_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 3)
    drawn = shapes.draw(np.arange(8), seed=0, split="train", domain="plain", size=8)
    options: dict[str, Any] = {"domain": "plain", "count": 8, "size": 8, "cache": str(tmp_path)}
    kinds = sources.shapes("train", task="kind", **options)
    textures = sources.shapes("train", task="texture", **options)
    assert (kinds.batch(slice(None)).numpy() == drawn.pixels).all()
    assert kinds.targets().tolist() == drawn.kind.tolist() and kinds.classes == len(shapes.KINDS)
    assert textures.targets().tolist() == drawn.texture.tolist() and textures.classes == len(
        shapes.TEXTURES
    )
    assert sources.shapes("train", task="kind", **options, seed=1).checksum != kinds.checksum
    with pytest.raises(DataError, match="tasks kind and texture, not 'colour'"):
        sources.shapes("train", task="colour", **options)


def opened(mode: str, width: int, height: int) -> Image.Image:
    image = Image.new(mode, (width, height))
    image.putdata(
        [number % 250 for number in range(width * height)]
        if mode != "RGB"
        else [(9, 8, 7)] * width * height
    )
    return image


def test_an_image_is_changed_only_in_the_ways_that_are_allowed() -> None:
    padded = fit(opened("RGB", 3, 4), "here", 6, "pad", "refuse")
    assert (
        padded.shape == (3, 6, 6)
        and (padded[:, 1:5, 1:4] == np.array([9, 8, 7])[:, None, None]).all()
    )
    assert padded.sum() == 3 * 4 * 24
    grown = fit(opened("L", 4, 4), "here", 8, "bilinear", "repeat")
    expected = np.asarray(opened("L", 4, 4).resize((8, 8), Image.Resampling.BILINEAR))
    assert (np.abs(grown.astype(int) - expected) <= 1).all() and (grown[0] == grown[2]).all()
    assert fit(opened("1", 4, 4), "here", 4, "none", "repeat").shape == (3, 4, 4)
    assert fit(opened("RGB", 6, 6), "here", 6, "none", "refuse").dtype == np.uint8
    for image, resize, grey, match in [
        (opened("RGB", 6, 5), "none", "repeat", "the image is 6x5, not 6x6"),
        (opened("RGB", 6, 7), "pad", "repeat", "the image is 6x7, not 6x6"),
        (opened("RGB", 7, 6), "pad", "repeat", "the image is 7x6, not 6x6"),
        (opened("L", 6, 6), "none", "refuse", "is L, not RGB"),
        (Image.new("RGBA", (6, 6)), "none", "repeat", "is RGBA, not RGB"),
    ]:
        with pytest.raises(DataError, match=f"^here: .*{match}"):
            fit(image, "here", 6, resize, grey)
    with pytest.raises(DataError, match="^here: the image cannot be decoded"):
        decode(None, "here", 6, "none", "refuse")


def test_labels_lie_within_the_classes_or_above_zero_where_these_are_not_known() -> None:
    assert (
        check_labels([0, 3], 4, ["a", "b"]).tolist() == [0, 3]
        and check_labels([7], 0, ["a"]).dtype == np.int64
    )
    for label, classes in ((4, 4), (-1, 4), (None, 4), (-1, 0), (None, 0)):
        with pytest.raises(DataError, match="^b: the label"):
            check_labels([0, label], classes, ["a", "b"])
    assert decoding.BLOCK == sources.BLOCK
