"""Look into a ledger: what was spent on which target, whether every row is as it was written, all of it as Parquet."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stealing.queries.ledger import Ledger
from stealing.queries.tables import checksum

PAGE = 2000
"""Rows in memory at a time."""


EXPORTED: dict[str, pa.DataType] = {
    **dict.fromkeys(("target", "defense", "account", "codec"), pa.string()),
    **{"size": pa.int32(), "digest": pa.binary(16), "repeat": pa.int32(), "view": pa.string(), "purpose": pa.string()},
    **{"cost": pa.float64(), "stored": pa.timestamp("us", "UTC"), "vector": pa.list_(pa.float32())},
}
"""Columns of an export."""


@dataclass(frozen=True)
class Spending:
    """One target's line for one purpose.

    Attributes:
        total: most images that may ever be counted, or None.
        spent: images counted.
        stored: with an answer; those of an import were never counted.
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
    """Every target and purpose that the ledger knows."""
    found, read = [], ledger.database.read
    of = "FROM queries JOIN sources ON sources.id = queries.source WHERE sources.target = ? AND queries.purpose = ?"
    pairs = read(
        "SELECT target, purpose FROM budgets UNION "
        "SELECT sources.target, queries.purpose FROM queries JOIN sources ON sources.id = queries.source ORDER BY 1, 2"
    )
    for target, purpose in pairs:
        pair = (target, purpose)
        budget = read("SELECT total, spent FROM budgets WHERE target = ? AND purpose = ?", pair)
        total, spent = budget[0] if budget else (None, 0)
        [(stored, failed, cost)] = read(
            "SELECT count(CASE WHEN state = 'stored' THEN 1 END), "
            f"count(CASE WHEN state = 'failed' OR charged > 1 THEN 1 END), coalesce(sum(cost), 0) {of}",
            pair,
        )
        moments = read(f"SELECT stored {of} AND stored IS NOT NULL", pair)
        days = Counter(datetime.fromtimestamp(moment, UTC).date().isoformat() for (moment,) in moments)
        doubt, by_day = ledger.in_doubt(target, purpose), dict(sorted(days.items()))
        found.append(Spending(*pair, total, spent, int(stored), doubt, int(failed), float(cost), by_day))
    return found


def faults(ledger: Ledger) -> list[str]:
    """What is wrong with the ledger, one sentence each: damaged pages or answers, and counts that do not add up."""
    wrong = [f"The database is damaged: {said}." for said in [ledger.database.check()] if said]
    counted: Counter[tuple[str, str]] = Counter()
    for row in rows(ledger):
        counted[row["target"], row["purpose"]] += row["charged"]
        name = f"Row {row['id']} ({row['digest'].hex()})"
        if row["state"] == "stored":
            width = len(row["answer"] or b"") // np.dtype(row["precision"] or "float32").itemsize
            if checksum(row["answer"] or b"") != row["checksum"]:
                wrong.append(f"{name} holds an answer that is not as it was stored.")
            elif width != row["width"]:
                wrong.append(f"{name} holds {width} numbers where its source has {row['width']}.")
            if row["open"]:
                wrong.append(f"{name} is answered and its request is still open.")
        elif row["state"] == "reserved" and not row["open"]:
            wrong.append(f"{name} is reserved and its request is closed.")
    for target, purpose, spent in ledger.database.read("SELECT target, purpose, spent FROM budgets"):
        if counted[target, purpose] != spent:
            said = counted[target, purpose]
            wrong.append(f"{spent} images were counted for {purpose} of {target} and its rows say {said}.")
    return wrong


def export(ledger: Ledger, path: Path) -> int:
    """Write every stored answer, with where it is from and its vector, as Parquet; the number of answers."""
    schema = pa.schema([pa.field(name, kind) for name, kind in EXPORTED.items()])
    count, page = 0, list[dict[str, Any]]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for row in rows(ledger):
            if row["state"] == "stored":
                vector = np.frombuffer(row["answer"], row["precision"]).astype(np.float32)
                row |= {"stored": datetime.fromtimestamp(row["stored"], UTC), "vector": vector}
                page.append({name: row[name] for name in schema.names})
                count += 1
            if len(page) == PAGE:
                writer.write_table(pa.Table.from_pylist(page, schema))
                page = []
        writer.write_table(pa.Table.from_pylist(page, schema))
    return count


def rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Every query with its source, in the order of reservation, a page in memory at a time."""
    names: tuple[str, ...] = ("id", "digest", "repeat", "view", "purpose", "state", "charged", "cost")
    names += ("precision", "answer", "checksum", "stored")
    others = ("target", "defense", "account", "codec", "size", "width")
    sql = (
        f"SELECT {', '.join(f'queries.{name}' for name in names)}, {', '.join(f'sources.{name}' for name in others)}, "
        "requests.images IS NOT NULL FROM queries JOIN sources ON sources.id = queries.source "
        "JOIN requests ON requests.id = queries.request WHERE queries.id > ? ORDER BY queries.id LIMIT ?"
    )
    last = 0
    while page := ledger.database.read(sql, (last, PAGE)):
        for values in page:
            yield dict(zip((*names, *others, "open"), values, strict=True))
        last = page[-1][0]
