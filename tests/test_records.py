"""Exports and recordings, row by row, and the file that a ledger is: what is written, read back,
locked and refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving import noise
from test_books import IMAGES, NAMES, answers, reserve, source, store

from stealing.errors import DataError, LedgerError, TargetError
from stealing.queries import inspection
from stealing.queries.answers import check_consistency, read_memory, write_memory
from stealing.queries.database import SQLite, connect
from stealing.queries.digests import digests
from stealing.queries.import_answers import record, source_name
from stealing.queries.inspection import export, find_faults, rows, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.schema import marks
from stealing.targets.wire import encode_image


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger.sqlite"))


@pytest.mark.parametrize("page", [1, 4, 6, 2000])
def test_an_export_holds_every_stored_answer_with_where_it_is_from(
    page: int, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "PAGE", page)
    first, second, open_ = reserve(ledger, slice(0, 5), slice(5, 9), slice(9, 11))
    before = datetime.now(UTC)
    store(ledger, first, second)
    of = source(ledger, "b", "u")
    [beside] = reserve(
        ledger, slice(3, 6), of=of, purpose="evaluation", repeat=2, view="v", price=2.0
    )
    ledger.store(of, [(beside, answers(beside, 1).half())], None)
    assert [row["id"] for row in rows(ledger)] == list(range(1, 15)) and len(open_.digests) == 2
    assert export(ledger, tmp_path / "deep" / "all.parquet") == 12
    table = pq.read_table(tmp_path / "deep" / "all.parquet")
    assert table.schema.names == list(inspection.EXPORTED)
    found = table.to_pylist()
    for place, row in enumerate(found):
        late = place >= 9
        image = place - 6 if late else place
        expected = {
            "target": "u" if late else "t",
            "defense": "none",
            "account": "b" if late else "a",
            "codec": "",
            "size": 8,
            "digest": NAMES[image],
            "repeat": 2 if late else 0,
            "view": "v" if late else "raw",
            "purpose": "evaluation" if late else "attack",
            "cost": 2.0 if late else 0.5,
            "vector": (IMAGES[image].flatten()[:5].float() + late).tolist(),
        }
        moment = row.pop("stored")
        assert row == expected and before <= moment <= datetime.now(UTC)
    assert len(found) == 12


def test_a_recording_is_a_source_whose_answers_cost_nothing(ledger: Ledger, tmp_path: Path) -> None:
    images = noise(1203, seed=3)
    names, vectors = digests(images), np.arange(1203 * 3, dtype=np.float32).reshape(1203, 3)
    columns: dict[str, Any] = {"digest": [*names, names[0]], "size": [8] * 1204}
    columns["vector"] = [*vectors.tolist(), vectors[0].tolist()]
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    assert record(ledger, tmp_path / "r.parquet", "mine", None) == 1203, (
        "an image that comes again is passed over"
    )
    of = ledger.source(source_name("mine"), "recorded", "recorded", "", 8)
    assert np.array_equal(ledger.read(of, names, 0).numpy(), vectors)
    assert ledger.database.read("SELECT width FROM sources WHERE target = 'recording/mine'") == [
        (3,)
    ]
    kinds = "SELECT DISTINCT view, purpose, state, charged, cost, precision, repeat FROM queries"
    assert ledger.database.read(kinds) == [("raw", "attack", "stored", 0, 0.0, "float32", 0)]
    assert ledger.spent("recording/mine", "attack") == 0 and find_faults(ledger) == []
    [row] = spendings(ledger)
    assert (row.purpose, row.total, row.spent, row.stored, row.cost) == (
        "attack",
        None,
        0,
        1203,
        0.0,
    )
    [(stored,)] = ledger.database.read("SELECT max(stored) FROM queries")
    assert abs(stored - ledger.database.now()) < 60
    with pytest.raises(DataError, match="There is a recording mine already"):
        record(ledger, tmp_path / "r.parquet", "mine", None)
    assert record(ledger, tmp_path / "r.parquet", "another", None) == 1203


@pytest.mark.parametrize("struct", [True, False])
def test_a_recording_of_files_is_found_by_their_pixels(
    struct: bool, ledger: Ledger, tmp_path: Path
) -> None:
    files: list[Any] = [encode_image(image, "png") for image in IMAGES[:6]]
    if struct:
        files = [{"bytes": file, "path": None} for file in files]
    pq.write_table(
        pa.table({"image": files, "vector": [[float(row)] for row in range(6)]}),
        tmp_path / "r.parquet",
    )
    with pytest.raises(DataError, match="by --size"):
        record(ledger, tmp_path / "r.parquet", "r", None)
    with pytest.raises(DataError, match=r"r\.parquet, row 0"):
        record(ledger, tmp_path / "r.parquet", "r", 16)
    assert record(ledger, tmp_path / "r.parquet", "r", 8) == 6
    of = ledger.source("recording/r", "recorded", "recorded", "", 8)
    assert ledger.read(of, NAMES[:6], 0).tolist() == [[0], [1], [2], [3], [4], [5]]


GOOD: dict[str, Any] = {
    "digest": NAMES[:3],
    "size": [8, 8, 8],
    "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"vector": [[1.0, 2.0], [3.0], [5.0, 6.0]]},
            "row 1 has a vector of width 1, and .*row 0 2",
        ),
        (
            {"vector": [[1.0, 2.0], [3.0, float("nan")], [5.0, 6.0]]},
            "row 1: the vector has numbers that are null or not",
        ),
        (
            {"vector": [[1.0, 2.0], [3.0, 4.0], [float("inf"), 6.0]]},
            "row 2: the vector has numbers that are null or not",
        ),
        ({"vector": None}, "needs a column vector, and"),
        ({"size": None}, "the columns digest and size: add them"),
        ({"digest": None}, "the columns digest and size: add them"),
    ],
)
def test_a_file_that_is_no_recording_leaves_nothing(
    change: dict[str, Any], sentence: str, ledger: Ledger, tmp_path: Path
) -> None:
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=sentence):
        record(ledger, tmp_path / "r.parquet", "r", None)
    assert (
        ledger.database.read("SELECT * FROM sources")
        == []
        == ledger.database.read("SELECT * FROM queries")
    )
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(DataError, match="text is not a Parquet file"):
        record(ledger, tmp_path / "text", "r", None)


def test_batches_of_another_size_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    names = digests(noise(1001, seed=4))
    columns = {"digest": names, "size": [8] * 1000 + [16], "vector": [[1.0]] * 1001}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="row 1000 has an image of size 16, and .*row 0 8"):
        record(ledger, tmp_path / "r.parquet", "r", None)
    assert ledger.database.read("SELECT count(*) FROM queries") == [(0,)]


def test_single_statements_do_what_they_say(ledger: Ledger) -> None:
    one, other = source(ledger), source(ledger, "b")
    assert (marks([]), marks([1]), marks("abc")) == ("", "?", "?, ?, ?")
    with ledger.database.transaction() as execute:
        assert read_memory(execute, one) is None
        write_memory(execute, one, b"1")
        write_memory(execute, other, b"2")
        write_memory(execute, one, b"3")
        assert (read_memory(execute, one), read_memory(execute, other)) == (b"3", b"2")
        check_consistency(execute, one, 5, None)
        check_consistency(execute, one, 5, None)
        check_consistency(execute, other, 6, "v")
        for width, version in ((6, None), (5, "v")):
            with pytest.raises(
                TargetError,
                match=f"An answer has {width} numbers and is of version {version}, and",
            ):
                check_consistency(execute, one, width, version)
    found = ledger.database.read("SELECT width, version FROM sources ORDER BY id")
    assert found == [(5, None), (6, "v")]


def test_a_transaction_is_whole_or_nothing_and_errors_are_told_apart(tmp_path: Path) -> None:
    database = connect(
        str(tmp_path / "a" / "deep" / "file"), "CREATE TABLE IF NOT EXISTS x (a INTEGER UNIQUE); "
    )
    assert isinstance(database, SQLite) and (tmp_path / "a" / "deep" / "file").exists()

    def twice() -> None:
        with database.transaction() as execute:
            execute("INSERT INTO x VALUES (?)", (1,))
            execute("INSERT INTO x VALUES (1)")

    def wrong() -> None:
        with database.transaction() as execute:
            execute("INSERT INTO x VALUES (2)")
            execute("INSERT INTO nothing VALUES (2)")

    failing: list[tuple[type[Exception], Callable[[], object]]] = [
        (LedgerError, twice),
        (LedgerError, wrong),
        (LedgerError, lambda: database.read("SELECT * FROM nothing")),
    ]
    for kind, deed in failing:
        with pytest.raises(kind):
            deed()
        assert database.read("SELECT * FROM x") == []
    with database.transaction() as execute:
        assert execute("INSERT INTO x VALUES (?) RETURNING a", (4,)) == [(4,)]
    assert connect(str(tmp_path / "a" / "deep" / "file"), "").read(
        "SELECT a FROM x WHERE a = ?", (4,)
    ) == [(4,)]
    settings = {
        name: database.read(f"PRAGMA {name}")
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert settings == {
        "journal_mode": [("wal",)],
        "synchronous": [(2,)],
        "foreign_keys": [(1,)],
    }, "durable"


def test_an_owner_lives_until_it_lets_go(tmp_path: Path) -> None:
    one, other = (connect(str(tmp_path / "file"), "") for _ in range(2))
    assert one.owner != other.owner and one.is_alive(one.owner) and one.is_alive(other.owner)
    assert not one.is_alive("nobody")
    other.close()
    assert not one.is_alive(other.owner) and one.is_alive(one.owner)
    (tmp_path / "file.owners" / "dead").touch()
    assert not one.is_alive("dead") and not (tmp_path / "file.owners" / "dead").exists()
    assert abs(one.now() - datetime.now(UTC).timestamp()) < 5
