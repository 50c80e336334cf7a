"""The bank's files, digests, the order of selection, the pace and the bar, each against a plain
computation."""

import hashlib
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.errors import DataError
from stealing.queries import shards as files
from stealing.queries.bank import Bank
from stealing.queries.digests import digests, digests_of
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.progress import QueryProgress
from stealing.queries.selection import select

PIXELS = torch.randint(0, 256, (2500, 3, 2, 2), dtype=torch.uint8, generator=generator("shards"))
NAMES = digests(PIXELS)
FEATURES = torch.randn(2500, 5, generator=generator("shards' features"))


def shards(folder: Path) -> list[int]:
    return [shard["rows"] for shard in json.loads((folder / "index.json").read_text())["shards"]]


def test_a_bank_has_and_reads_what_was_added_in_the_order_asked_for(tmp_path: Path) -> None:
    bank = Bank(tmp_path, "ledger")
    assert not bank.has(NAMES[:3]).any() and len(bank.has([])) == 0
    bank.add(NAMES[:600], FEATURES[:600])
    bank.add(NAMES[500:1300], FEATURES[500:1300].half())
    bank.add(NAMES[:1300], FEATURES[:1300] + 1)  # nothing of it is new
    order = [*range(1299, -1, -3), 0, 0, 700]
    for each in (bank, Bank(tmp_path, "ledger")):
        assert each.has(NAMES[1290:1310]).tolist() == [True] * 10 + [False] * 10
        read = each.read([NAMES[place] for place in order])
        expected = torch.where(
            torch.arange(1300)[:, None] < 600, FEATURES[:1300], FEATURES[:1300].half().float()
        )
        assert read.dtype == torch.float32 and torch.equal(read, expected[order])


def test_shards_are_as_few_as_a_logarithm_and_no_file_is_left_over(tmp_path: Path) -> None:
    bank = Bank(tmp_path, "ledger")
    for count in range(1, 20):
        bank.add(NAMES[10 * count : 10 * count + 10], FEATURES[10 * count : 10 * count + 10])
        rows = shards(tmp_path)
        assert sum(rows) == 10 * count and len(rows) <= math.log2(count) + 1
        after = [sum(rows[place + 1 :]) for place in range(len(rows))]
        assert all(size > rest for size, rest in zip(rows, after, strict=True)), (
            "a larger one is not written again"
        )
        files = [path for path in tmp_path.iterdir() if path.suffix in (".digests", ".features")]
        assert len(files) == 2 * len(rows)
    assert torch.equal(bank.read(NAMES[10:200]), FEATURES[10:200])
    sizes = Bank(tmp_path / "b", "ledger")
    for cut in (slice(0, 100), slice(100, 150)):
        sizes.add(NAMES[cut], FEATURES[cut])
    assert shards(tmp_path / "b") == [100, 50]
    sizes.add(NAMES[150:200], FEATURES[150:200])
    assert shards(tmp_path / "b") == [200], "no larger than all after it"
    for cut in (slice(200, 300), slice(300, 310)):
        sizes.add(NAMES[cut], FEATURES[cut])
    assert shards(tmp_path / "b") == [200, 100, 10], "each larger than all after it"
    assert torch.equal(sizes.read(NAMES[:310]), FEATURES[:310])


def test_a_bank_sees_what_another_process_added_when_it_adds_itself(tmp_path: Path) -> None:
    one, other = Bank(tmp_path, "ledger"), Bank(tmp_path, "ledger")
    one.add(NAMES[:30], FEATURES[:30])
    assert not other.has(NAMES[:30]).any()
    other.add(NAMES[20:40], FEATURES[20:40] + 1)
    expected = torch.cat([FEATURES[:30], FEATURES[30:40] + 1])
    assert torch.equal(other.read(NAMES[:40]), expected) and sum(shards(tmp_path)) == 40


@pytest.mark.parametrize("damage", ["index", "ledger", "digests", "features", "short", "key"])
def test_a_bank_that_is_damaged_or_of_another_ledger_is_empty_and_can_be_filled_again(
    damage: str, tmp_path: Path
) -> None:
    Bank(tmp_path, "ledger").add(NAMES[:30], FEATURES[:30])
    index = tmp_path / "index.json"
    [digest_file], [feature_file] = tmp_path.glob("*.digests"), tmp_path.glob("*.features")
    if damage == "index":
        index.write_text("{")
    elif damage == "key":
        index.write_text('{"shards": []}')
    elif damage == "short":
        digest_file.write_bytes(digest_file.read_bytes()[:-16])
    elif damage in ("digests", "features"):
        (digest_file if damage == "digests" else feature_file).unlink()
    bank = Bank(tmp_path, "another" if damage == "ledger" else "ledger")
    assert not bank.has(NAMES[:30]).any()
    bank.add(NAMES[5:20], FEATURES[5:20] + 2)
    assert torch.equal(bank.read(NAMES[5:20]), FEATURES[5:20] + 2) and not bank.has(NAMES[:5]).any()


def test_large_shards_are_let_go_of_and_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGE", 1000)
    bank = Bank(tmp_path, "ledger")
    bank.add(NAMES, FEATURES)
    order = torch.randperm(2500, generator=generator("order")).tolist()
    assert torch.equal(bank.read([NAMES[place] for place in order]), FEATURES[order])
    shutil.rmtree(tmp_path)


def test_a_digest_is_blake2b_of_shape_and_pixels_alike_for_a_batch_and_a_list(
    tmp_path: Path,
) -> None:
    expected = [
        hashlib.blake2b(b"(3, 2, 2)" + image.numpy().tobytes(), digest_size=16).digest()
        for image in PIXELS
    ]
    assert expected == NAMES, "banks and ledgers of before hold these"
    rows = np.random.default_rng(0).permutation(2500)
    listed = Images("x", PIXELS.numpy(), None, 0, rows, "sum")
    assert digests_of(listed) == [NAMES[row] for row in rows]
    assert digests_of(listed.part(np.arange(0))) == [] and digests_of(
        listed.part(np.array([4]))
    ) == [NAMES[rows[4]]]


def test_selection_takes_distinct_images_in_the_seeds_order_that_are_not_excluded() -> None:
    twice = Images("x", PIXELS[:60].repeat(2, 1, 1, 1).numpy(), None, 0, np.arange(120), "sum")
    excluded = set(NAMES[:10])
    wanted = list[bytes]()
    for place in np.random.default_rng(5).permutation(120):
        name = NAMES[place % 60]
        if name not in excluded and name not in wanted:
            wanted.append(name)
    for count in (0, 1, 20, 50):
        assert digests_of(select(twice, count, 5, excluded)) == wanted[:count]
    assert excluded == set(NAMES[:10])
    with pytest.raises(DataError, match=r"budget is 51 images and x has 50 distinct"):
        select(twice, 51, 5, excluded)


@pytest.mark.parametrize(
    ("pace", "apart"),
    [
        (Pace(), [0, 0]),
        (Pace(images=10), [0.4, 0.1]),
        (Pace(requests=5), [0.2, 0.2]),
        (Pace(10, 5), [0.4, 0.2]),
    ],
)
def test_a_request_starts_when_the_images_and_the_requests_before_it_have_had_their_time(
    pace: Pace, apart: list[float], tmp_path: Path
) -> None:
    with Ledger(str(tmp_path / "l")).database.transaction() as execute:
        assert pace.book(execute, "t", 4, 100.0) == 100.0
        assert pace.book(execute, "t", 1, 100.0) == pytest.approx(100 + apart[0])
        assert pace.book(execute, "t", 1, 100.0) == pytest.approx(100 + sum(apart))
        assert pace.book(execute, "other", 1, 100.0) == 100.0
        assert pace.book(execute, "t", 1, 200.0) == 200.0, "what was not used is not saved up"
        rows = execute("SELECT count(*) FROM turns WHERE target = 't'")
    assert rows == [(0 if pace == Pace() else 1,)]


def test_elsewhere_than_on_a_terminal_a_line_each_half_minute_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with QueryProgress("attack", 300, 0.5) as bar:
        for seconds, images, requests in (
            (1029.9, 10, 1),
            (1030.0, 60, 3),
            (1059.0, 90, 2),
            (1060.0, 120, 4),
        ):
            now[0] = seconds
            bar.update(images, requests)
        now[0] = 1090.0
        bar.update(120, 6)
        told: list[Any] = capsys.readouterr().err.splitlines()
    assert told == [
        "query (attack): 60/300 answered, 3 requests in flight, "
        "2 images/s, cost 30.00, 2.0 min left",
        "query (attack): 120/300 answered, 4 requests in flight, "
        "2 images/s, cost 60.00, 1.5 min left",
        "query (attack): 120/300 answered, 6 requests in flight, "
        "1 images/s, cost 60.00, 2.2 min left",
    ]
    with QueryProgress("attack", 300, 0.5) as bar:
        now[0] += 31
        bar.update(0, 2)
    assert (
        "0/300 answered, 2 requests in flight, 0 images/s, cost 0.00, time left unknown"
        in capsys.readouterr().err
    )


def test_a_bank_keeps_rows_of_any_type_apart(tmp_path: Path) -> None:
    def kept(rows: Tensor) -> str:
        folder = tmp_path / str(rows.dtype)
        Bank(folder, "ledger").add(NAMES[:4], rows[:4])
        return str(json.loads((folder / "index.json").read_text())["shards"][0]["precision"])

    assert kept(FEATURES.half()) == "float16" and kept(FEATURES) == "float32"
