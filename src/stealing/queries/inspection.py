"""Look into a ledger: a ledger in; what was spent, what is damaged, or all as Parquet out."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stealing.artefacts import unfinished
from stealing.errors import LedgerError, StorageError
from stealing.queries import shards
from stealing.queries.answers import vector_of
from stealing.queries.ledger import Ledger

PAGE = 2000
"""Rows in memory at a time."""

EXPORTED: dict[str, pa.DataType] = {
    "target": pa.string(),
    "defense": pa.string(),
    "account": pa.string(),
    "codec": pa.string(),
    "size": pa.int32(),
    "digest": pa.binary(16),
    "repeat": pa.int32(),
    "view": pa.string(),
    "purpose": pa.string(),
    "cost": pa.float64(),
    "stored": pa.timestamp("us", "UTC"),
    "vector": pa.list_(pa.float32()),
}
"""Columns of an export."""

QUERY_COLUMNS = (
    "id",
    "digest",
    "repeat",
    "view",
    "purpose",
    "state",
    "charged",
    "cost",
    "precision",
    "answer",
    "checksum",
    "stored",
)

SOURCE_COLUMNS = ("target", "defense", "account", "codec", "size", "width")


@dataclass(frozen=True)
class Spending:
    """One target's line for one purpose.

    Attributes:
        total: most images that may ever be counted, or None.
        spent: images counted.
        stored: images with an answer; those of an import were never counted.
        in_doubt: counted, neither answered nor given up, by a process that is gone.
        failed: given up at least once.
        cost: of all that was counted.
        days: answers on each day, by date.
    """

    target: str
    purpose: str
    total: int | None
    spent: int
    stored: int
    in_doubt: int
    failed: int
    cost: float
    days: dict[str, int]


def spendings(ledger: Ledger) -> list[Spending]:
    """Return a line for every target and purpose that the ledger knows."""
    pairs = ledger.database.read(
        "SELECT target, purpose FROM budgets UNION "
        "SELECT sources.target, queries.purpose FROM queries "
        "JOIN sources ON sources.id = queries.source ORDER BY 1, 2"
    )
    return [_spending(ledger, target, purpose) for target, purpose in pairs]


def _spending(ledger: Ledger, target: str, purpose: Any) -> Spending:
    pair = (target, purpose)
    read = ledger.database.read
    rows = read("SELECT total, spent FROM budgets WHERE target = ? AND purpose = ?", pair)
    total, spent = rows[0] if rows else (None, 0)  # an import counts nothing
    queries = (
        "FROM queries JOIN sources ON sources.id = queries.source "
        "WHERE sources.target = ? AND queries.purpose = ?"
    )
    # an image that was charged twice was given up once, and then sent anew
    [(stored, failed, cost)] = read(
        "SELECT count(CASE WHEN state = 'stored' THEN 1 END), "
        "count(CASE WHEN state = 'failed' OR charged > 1 THEN 1 END), "
        f"coalesce(sum(cost), 0) {queries}",
        pair,
    )
    days = Counter[str]()
    for (moment,) in read(f"SELECT stored {queries} AND stored IS NOT NULL", pair):
        days[datetime.fromtimestamp(moment, UTC).date().isoformat()] += 1
    return Spending(
        target,
        purpose,
        total,
        spent,
        int(stored),
        ledger.in_doubt(target, purpose),
        int(failed),
        float(cost),
        dict(sorted(days.items())),
    )


def find_faults(ledger: Ledger) -> list[str]:
    """Return what is wrong with the ledger, one sentence each.

    Looked for are damaged pages, damaged answers, and counts that do not add up.
    """
    faults = list[str]()
    damage = ledger.database.find_damage()
    if damage is not None:
        faults.append(f"The database is damaged: {damage}.")
    charged = Counter[tuple[str, str]]()
    for row in rows(ledger):
        charged[row["target"], row["purpose"]] += row["charged"]
        faults += _row_faults(row)
    budgets = ledger.database.read("SELECT target, purpose, spent FROM budgets")
    for target, purpose, spent in budgets:
        by_rows = charged[target, purpose]
        if by_rows != spent:
            faults.append(
                f"{spent} images were counted for {purpose} of {target} and its rows say {by_rows}."
            )
    return faults


def _row_faults(row: dict[str, Any]) -> list[str]:
    """Return what is wrong with one row of `rows`."""
    name = f"Row {row['id']} ({row['digest'].hex()})"
    if row["state"] == "reserved" and not row["open"]:
        return [f"{name} is reserved and its request is closed."]
    if row["state"] != "stored":
        return []
    faults = list[str]()
    vector = _vector(row)
    if vector is None:
        faults.append(f"{name} holds an answer that is not as it was stored.")
    elif len(vector) != row["width"]:
        faults.append(f"{name} holds {len(vector)} numbers where its source has {row['width']}.")
    if row["open"]:
        faults.append(f"{name} is answered and its request is still open.")
    return faults


def bank_faults(banks: Path, identity: str) -> list[str]:
    """Return what is damaged of the banks that are copies of a ledger, one sentence each."""
    faults = list[str]()
    for folder in sorted(banks.glob("*")):
        faults += shards.find_damage(folder, identity)
    return faults


def export(ledger: Ledger, path: Path) -> int:
    """Write every stored answer as Parquet, with its source and vector; return their number.

    The file is there whole or not at all. A file that was there before stays until then.

    Raises:
        LedgerError: an answer is not as it was stored.
        StorageError: the file cannot be written.
    """
    # under another name, and renamed once it is whole
    partial = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = _export(ledger, partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror}): make room, or name another file."
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink()
    return count


def _export(ledger: Ledger, path: Path) -> int:
    """Write the file of `export`."""
    schema = pa.schema([pa.field(name, kind) for name, kind in EXPORTED.items()])
    count = 0
    page = list[dict[str, Any]]()
    with pq.ParquetWriter(path, schema) as writer:
        for row in rows(ledger):
            if row["state"] != "stored":
                continue
            vector = _vector(row)
            if vector is None:
                raise LedgerError(
                    f"Row {row['id']} of {ledger.place} is not as it was stored: python -m "
                    "stealing.queries verify names all such rows; restore the ledger from a copy."
                )
            row["stored"] = datetime.fromtimestamp(row["stored"], UTC)
            row["vector"] = vector.astype(np.float32)
            page.append({name: row[name] for name in EXPORTED})
            count += 1
            if len(page) == PAGE:
                writer.write_table(pa.Table.from_pylist(page, schema))
                page = []
        writer.write_table(pa.Table.from_pylist(page, schema))
    return count


def rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield every query with its source, in the order of reservation, a page in memory at a time.

    Each is a dictionary of `QUERY_COLUMNS`, `SOURCE_COLUMNS`, and `open`: whether its request is.

    Raises:
        LedgerError: they are in no order, as on a damaged page; reading them would not end.
    """
    columns = [f"queries.{name}" for name in QUERY_COLUMNS]
    columns += [f"sources.{name}" for name in SOURCE_COLUMNS]
    columns.append("requests.images IS NOT NULL")
    names = (*QUERY_COLUMNS, *SOURCE_COLUMNS, "open")
    sql = (
        f"SELECT {', '.join(columns)} FROM queries "
        "JOIN sources ON sources.id = queries.source "
        "JOIN requests ON requests.id = queries.request "
        "WHERE queries.id > ? ORDER BY queries.id LIMIT ?"
    )
    last = 0
    while True:
        page = ledger.database.read(sql, (last, PAGE))
        if not page:
            return
        for values in page:
            if values[0] <= last:
                raise LedgerError(
                    f"The rows of {ledger.place} are in no order: restore the ledger from a copy."
                )
            # a page begins after the last number: rows that are added meanwhile move nothing
            last = values[0]
            yield dict(zip(names, values, strict=True))


def _vector(row: dict[str, Any]) -> Any:
    """Return the answer (D,) in a row of `rows`, or None if it is not as it was stored."""
    return vector_of(row["digest"], row["precision"], row["answer"], row["checksum"])
