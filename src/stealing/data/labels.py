"""Labels of Parquet files: a column `label` and the hub's metadata in, class numbers and names out.

Shape letters: n rows of one file.
"""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stealing.data.parquet import read_batches
from stealing.errors import DataError
from stealing.reading import LARGEST_JSON

PAGE = 2**16
"""Labels that are read at a time."""

MOST = 2**20
"""Most classes. A greater label is an identifier; a head would have an output for each number below
it."""

Labelled = tuple[Path, pq.ParquetFile]
"""A file with a column `label`."""


def read_labels(files: Sequence[Labelled]) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Return the labels of each file and the class names.

    Labels are numbers from 0, or text. Text is numbered by the class names of the files' metadata
    or, if there are none, in sorted order.

    Returns:
        The labels of each file, int64 (n,), with -1 for none; and the class names, empty if they
        are not known.

    Raises:
        DataError: Files contradict each other, a column is of another type, or a label is not
            a class; with file and row.
    """
    columns = [(file, _column(file, table)) for file, table in files]
    names = _common_names(files) or _names_from_text(columns)
    return [_numbers(file, column, names) for file, column in columns], names


def _column(file: Path, table: pq.ParquetFile) -> "pa.ChunkedArray[Any]":
    """Return the labels as they are written: integers, booleans, floats, text or nulls."""
    kind = table.schema_arrow.field("label").type
    # In pages: a damaged column may state more rows than memory holds.
    chunks = [batch.column(0) for batch in read_batches(file, table, PAGE, ["label"])]
    column = pa.chunked_array(chunks, kind)
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    kind = column.type
    if not (_is_number(kind) or _is_text(column) or pa.types.is_null(kind)):
        raise DataError(
            f"{file} has a column 'label' of {kind}: write class numbers from 0, or class names."
        )
    return column


def _is_number(kind: pa.DataType) -> bool:
    is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return bool(is_whole or pa.types.is_floating(kind))


def _is_text(column: "pa.ChunkedArray[Any]") -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _common_names(files: Sequence[Labelled]) -> tuple[str, ...]:
    """Return the class names in the metadata; all files that have some must have the same."""
    first_file: Path | None = None
    first_names: tuple[str, ...] = ()
    for file, table in files:
        names = _class_names(table)
        if not names:
            continue
        if first_file is None:
            first_file = file
            first_names = names
        pairs = zip_longest(first_names, names, fillvalue="no class")
        for label, (name, other) in enumerate(pairs):
            if name != other:
                raise DataError(
                    f"Label {label} is {name!r} in {first_file} and {other!r} in {file}: "
                    "write the files with the same class names in the same order."
                )
    return first_names


def _class_names(table: pq.ParquetFile) -> tuple[str, ...]:
    """Return the class names in the hub's metadata; empty if there are none in the known form."""
    text = (table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    # Arrow holds the text already. What JSON makes of it may be thirty times as large.
    if len(text) > LARGEST_JSON:
        return ()
    try:
        node: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    for name in ("info", "features", "label", "names"):
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        return ()
    is_unique = len(set(node)) == len(node)
    return tuple(node) if is_unique else ()


def _names_from_text(columns: "Sequence[tuple[Path, pa.ChunkedArray[Any]]]") -> tuple[str, ...]:
    """Return the class names of labels that are text, sorted; empty for numbers."""
    with_text: list[Path] = []
    with_numbers: list[Path] = []
    names = set[str | None]()
    for file, column in columns:
        if _is_text(column):
            with_text.append(file)
            names.update(_texts(file, column.unique()))
        elif not pa.types.is_null(column.type):  # a column of only nulls fits both
            with_numbers.append(file)
    if with_text and with_numbers:
        raise DataError(
            f"{with_text[0]} has labels of text and {with_numbers[0]} numbers: write both alike."
        )
    return tuple(sorted(name for name in names if name is not None))


def _texts(file: Path, column: Any) -> list[str | None]:
    """Return the text of a column, with None for null."""
    try:
        texts: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"{file} has labels that are not UTF-8: write them as UTF-8.") from None
    return texts


def _numbers(
    file: Path,
    column: "pa.ChunkedArray[Any]",
    names: Sequence[str],
) -> NDArray[np.int64]:
    """Return class numbers, int64 (n,), -1 for none.

    Raises:
        DataError: A label is a fraction, a number that is not a class, or not among the class
            names; with the row.
    """
    if _is_text(column):
        numbers: dict[str | None, float] = {None: -1}
        for number, name in enumerate(names):
            numbers[name] = number
        texts = _texts(file, column)
        values = np.array([numbers.get(text, np.nan) for text in texts], np.float64)
    else:
        # As float64, so that a fraction is seen and not cut off.
        values = np.asarray(column.cast(pa.float64(), safe=False), np.float64).copy()
        values[np.isnan(values)] = -1  # null, or the NaN that pandas writes for null
    most = len(names) or MOST
    is_class = (values >= -1) & (values < most) & (values == np.floor(values))
    if not is_class.all():
        row = int(np.argmin(is_class))
        label = column[row].as_py()
        if isinstance(label, str):
            expected = "among the class names"
        elif names and float(label).is_integer():
            expected = f"a class number from 0 to {len(names) - 1}"
        else:
            expected = f"a whole number from 0 to {MOST - 1}"
        raise DataError(
            f"{file}, row {row}: the label {label!r} is not {expected}; "
            "correct it in the column 'label', or correct the class names."
        )
    return values.astype(np.int64)
