"""Parquet files of strangers, as images and as recorded answers: the content or one sentence."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deeds import tried
from fuzzing import FUZZ, VALUES, damaged, documents
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving import SIZE, noise

from stealing.data.images import Images
from stealing.data.sources import parquet
from stealing.queries.digests import digests
from stealing.queries.import_answers import record, source_name
from stealing.queries.ledger import Ledger
from stealing.targets.wire import encode_image

Columns = dict[str, list[Any]]
Damage = Callable[[st.DrawFn, Columns], None]

PIXELS = noise(6)
FILES = [encode_image(image, "png") for image in PIXELS]
NAMES = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}


def png(mode: str) -> bytes:
    """A picture of the right size and another mode."""
    file = io.BytesIO()
    Image.new(mode, (SIZE, SIZE)).save(file, "PNG")
    return file.getvalue()


PICTURES: list[Any] = [
    None,
    b"",
    b"x",
    FILES[0][:40],
    encode_image(noise(1, size=5)[0], "png"),
    png("L"),
    png("1"),
    png("P"),
    png("RGBA"),
    png("LA"),
    png("I;16"),
    b"BM" + bytes(60),
    b"version https://git-lfs.github.com/spec/v1\n",
]
"""Files that are no picture of the right size and mode, in whole or in part."""

NUMBERS: list[Any] = [
    None,
    -1,
    0,
    1,
    7,
    2**31,
    2**63 - 1,
    0.5,
    float("nan"),
    "0",
    "",
    b"x",
    [],
    [0],
    True,
]
VECTORS: list[Any] = [
    None,
    [],
    [1.0],
    [1.0, 2.0, 3.0],
    [float("nan"), 0.0],
    [float("inf"), 0.0],
    [1e300, 0.0],
    [None, 1.0],
    ["a", "b"],
    [[1.0], [2.0]],
    b"12345678",
    "12",
    1.0,
    {"a": 1.0},
    [True, False],
    [2**70, 0],
]
DIGESTS: list[Any] = [
    None,
    b"",
    b"short",
    bytes(16),
    bytes(32),
    "0123456789abcdef",
    5,
    [1],
    -1,
    2**40,
]

HOSTILE = {
    "image": PICTURES,
    "label": NUMBERS,
    "size": [*NUMBERS, 2**62],
    "vector": VECTORS,
    "digest": DIGESTS,
}


@st.composite
def tables(draw: st.DrawFn, columns: Columns) -> pa.Table:
    """The table with one to three cells, columns or rows damaged."""
    columns = {name: list(cells) for name, cells in columns.items()}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(columns)))
        rows = len(columns[name])
        values = HOSTILE.get(name, VALUES)
        deed = draw(
            st.sampled_from(["cell", "cell", "cell", "column", "drop", "rename", "repeat", "rows"])
        )
        if deed == "cell" and rows:
            columns[name][draw(st.integers(0, rows - 1))] = _cell(
                name, draw(st.sampled_from(values))
            )
        elif deed == "column":
            columns[name] = [_cell(name, draw(st.sampled_from(values)))] * rows
        elif deed == "drop" and len(columns) > 1:
            del columns[name]
        elif deed == "rename":
            columns[draw(st.sampled_from(["", "Label", "images", "\x00"]))] = columns.pop(name)
        elif deed == "repeat":
            columns = {each: cells * 2 for each, cells in columns.items()}
        elif deed == "rows":
            left = draw(st.integers(0, 1))
            columns = {each: cells[:left] for each, cells in columns.items()}
    return pa.table({name: _column(cells) for name, cells in columns.items()})


def _cell(name: str, value: Any) -> Any:
    """A picture stands in a struct, as the hub has it."""
    return {"bytes": value, "path": "p"} if name == "image" else value


def _column(cells: list[Any]) -> pa.Array:
    """The cells, in the type that Arrow finds for them or, if no file can have it, as text."""
    try:
        column = pa.array(cells)
        # A file has no structs without fields.
        pq.write_table(pa.table({"column": column}), io.BytesIO())
        return column
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.array([None if cell is None else repr(cell) for cell in cells])


def written(table: pa.Table, metadata: bytes = b"") -> bytes:
    """A Parquet file of the table."""
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": metadata} if metadata else None), file
    )
    return file.getvalue()


def pictured() -> Columns:
    """Six pictures with labels, as the hub has them."""
    return {"image": [{"bytes": file, "path": "p"} for file in FILES], "label": [0, 1, 2, 0, 1, 2]}


def check_images(images: Images, table: Columns) -> None:
    """Images are those of the table, row by row, and labels are those of classes."""
    pixels = images.batch(slice(None))
    assert len(images) == len(table["image"]) > 0
    for row, cell in enumerate(table["image"]):
        assert np.array_equal(pixels[row], PIXELS[FILES.index(cell["bytes"])])
    labels = tried(images.targets)  # a task needs them, a query does not
    if labels is not None:
        assert labels.min() >= 0
        assert labels.max() < images.classes < 2**20


def test_a_damaged_parquet_source_gives_its_images_or_one_sentence_and_leaves_nothing_in_the_cache(
    tmp_path: Path,
) -> None:
    path, cache = tmp_path / "train.parquet", tmp_path / "cache"
    metadata = json.dumps(NAMES).encode()
    plain = pa.table(pictured())

    def opened(content: bytes) -> Images | None:
        path.write_bytes(content)
        before = set(cache.glob("*"))
        images = tried(partial(parquet, str(path), "train", size=SIZE, cache=str(cache)), cache)
        if images is None:
            assert set(cache.glob("*")) == before
        return images

    @FUZZ
    @given(tables(pictured()), st.just(metadata) | documents(NAMES))
    def table(damage: pa.Table, names: bytes) -> None:
        images = opened(written(damage, names))
        if images is not None:
            check_images(images, damage.to_pydict())

    @FUZZ
    @given(damaged(written(plain, metadata)))
    def bits(content: bytes) -> None:
        images = opened(content)
        if images is not None:
            assert images.pixels.shape[1:] == (3, SIZE, SIZE)

    assert opened(written(plain, metadata)) is not None
    table()
    bits()


def exported() -> Columns:
    """Six answers to images that are known by their digests."""
    vectors = [[float(row), 0.5] for row in range(6)]
    return {"digest": digests(PIXELS), "size": [SIZE] * 6, "vector": vectors}


def with_pictures() -> Columns:
    """Six answers to pictures."""
    return {"image": pictured()["image"], "vector": exported()["vector"]}


def books(ledger: Ledger) -> list[int]:
    """How many rows each table has."""
    tables = ("sources", "requests", "queries", "budgets", "memories")
    return [ledger.database.read(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


def check_answers(ledger: Ledger, name: str, table: Columns) -> None:
    """The ledger holds, for each image of the table, the first vector beside it."""
    names = table.get("digest") or [
        digests(PIXELS)[FILES.index(cell["bytes"])] for cell in table["image"]
    ]
    first = dict(reversed(list(zip(names, table["vector"], strict=True))))
    size = SIZE if "image" in table else table["size"][0]
    assert type(size) is int
    assert size > 0
    of = ledger.source(source_name(name), "recorded", "recorded", "", size)
    answers = ledger.read(of, list(first), 0)
    assert answers.tolist() == np.array(list(first.values()), np.float32).tolist()
    assert answers.isfinite().all()
    assert all(len(digest) == 16 for digest in first)


@pytest.mark.parametrize(
    ("columns", "size"), [(exported(), None), (with_pictures(), SIZE)], ids=["digests", "images"]
)
def test_a_damaged_recording_is_imported_as_it_is_or_refused_without_a_change_of_the_ledger(
    columns: Columns, size: int | None, tmp_path: Path
) -> None:
    ledger, path = Ledger(str(tmp_path / "ledger.sqlite")), tmp_path / "answers.parquet"
    number = iter(range(10**9))

    def imported(content: bytes) -> str | None:
        path.write_bytes(content)
        before, name = books(ledger), str(next(number))
        count = tried(partial(record, ledger, path, name, size))
        if count is None:
            assert books(ledger) == before
            return None
        assert books(ledger)[2] - before[2] == count > 0
        return name

    @FUZZ
    @given(tables(columns))
    def table(damage: pa.Table) -> None:
        name = imported(written(damage))
        if name is not None:
            check_answers(ledger, name, damage.to_pydict())

    @FUZZ
    @given(damaged(written(pa.table(columns))))
    def bits(content: bytes) -> None:
        imported(content)

    assert imported(written(pa.table(columns))) is not None
    table()
    bits()
    ledger.close()
