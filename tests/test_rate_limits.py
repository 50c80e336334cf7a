"""Rate limits slow a run and do not end it; what fails each time is not repeated; first contact
refuses the empty."""

import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embeddings import Embeddings, offered, wire
from fakes import IMAGES, SIZE, Fake, truth
from fakes import door as fake_door
from serving import noise, remote

from stealing.errors import TargetError
from stealing.queries import purchase
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.queries.waiting import Busy, NotServed, Waits, backoff
from stealing.targets.retry_after import retry_after
from stealing.targets.sanity_check import check_first_answers

MONDAY = "Mon, 02 Nov 2026 10:00:00 GMT"


def target(service: Embeddings, images: int = 8, encoding: str = "base64", **changes: Any) -> Any:
    return remote(
        service.url, wire(images, encoding), **{"credential": None, "attempts": 1, **changes}
    )


def door(folder: Path, asked: Any) -> MeteredTarget:
    return MeteredTarget(
        asked, Ledger(str(folder / "ledger.sqlite")), folder / "banks", Budget(1000, 100)
    )


def counted(meter: MeteredTarget, purpose: str = "attack") -> tuple[int, int, int]:
    """Images counted, stored and in doubt."""
    [row] = [row for row in spendings(meter._ledger) if row.purpose == purpose]
    assert find_faults(meter._ledger) == []
    return row.spent, row.stored, row.in_doubt


@pytest.mark.parametrize(
    "hint",
    [{"retry-after": "1"}, {"retry-after": "Mon, 02 Nov 2026 10:00:01 GMT", "date": MONDAY}, {}],
    ids=["seconds", "date", "none"],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_waited_out_apart_from_the_attempts_and_nothing_is_counted_twice(
    status: int, hint: dict[str, str], tmp_path: Path
) -> None:
    with offered(Embeddings(lambda number: (status, hint) if number == 0 else None)) as service:
        meter = door(tmp_path, target(service))
        meter.ask(noise(20), "attacker/0", "attack")
        assert counted(meter) == (20, 20, 0) and service.served == 20
        again = [
            moment
            for key, moment in zip(service.keys, service.moments, strict=True)
            if key == service.keys[0]
        ]
    assert len(service.keys) == 4 and len(again) == 2, (
        "one request was refused, and sent again under its key"
    )
    assert (1.0 if hint else 0.25) <= again[1] - again[0] < 3


def test_a_hint_is_seconds_or_a_date_by_the_services_own_clock() -> None:
    assert (
        retry_after({"retry-after": "60"}) == 60 and retry_after({"retry-after": " 0.25 "}) == 0.25
    )
    assert retry_after({"retry-after": "Mon, 02 Nov 2026 10:00:20 GMT", "date": MONDAY}) == 20
    assert retry_after({"retry-after": "Mon, 02 Nov 2026 09:00:00 GMT", "date": MONDAY}) == 0
    ahead = retry_after({"retry-after": formatdate(time.time() + 20, usegmt=True)})
    assert ahead is not None and 18 < ahead <= 20
    for said in (
        "",
        "soon",
        "-5",
        "1e3",
        "٣",
        "nan",
        "Mon, 99 Nov 2026",
        "Mon, 02 Nov 99999 10:00:00 GMT",
    ):
        assert retry_after({"retry-after": said}) is None


class Counting(Waits):
    """Waits that take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def pause(self, seconds: float, why: str) -> bool:
        self.seconds.append(seconds)
        return True


def busy(after: float | None = None, patience: float = 600.0, served: bool = False) -> Busy:
    return Busy(
        "It is busy", after=after, patience=patience, served=served, error=TargetError("Too long.")
    )


def test_without_a_hint_the_waits_double_with_jitter_up_to_a_minute_within_the_patience() -> None:
    waits = Counting()

    def refused() -> torch.Tensor:
        raise busy()

    with pytest.raises(Busy):
        waits.answered(refused)
    assert 480 < sum(waits.seconds) <= 600, "at least a minute, and no longer than it may"
    for number, seconds in enumerate(waits.seconds):
        assert min(60, 0.5 * 2**number) / 2 <= seconds <= min(60, 0.5 * 2**number)
    assert len({backoff(5) for _ in range(20)}) == 20, "requests do not come back at one moment"
    assert backoff(10**6) <= 60


def test_a_service_that_is_busy_for_longer_than_its_patience_ends_the_run_and_costs_nothing(
    tmp_path: Path,
) -> None:
    with offered(Embeddings(lambda number: (429, {"retry-after": "1"}))) as service:
        meter = door(tmp_path, target(service, patience=2))
        start = time.monotonic()
        with pytest.raises(
            TargetError, match=r"is busy \(status 429.*waits 2 s.*raise target.remote.patience"
        ):
            meter.ask(noise(3), "attacker/0", "attack")
        assert 2 <= time.monotonic() - start < 4 and len(service.keys) == 3
    assert counted(meter) == (0, 0, 0)


def test_a_long_wait_is_announced_in_one_line_however_many_requests_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    waits = Waits()
    waits.stop()  # so that none of them takes time
    threads = [
        threading.Thread(target=waits.pause, args=(seconds, "It is busy"))
        for seconds in [60.0] * 16 + [9.9]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err == "It is busy: the next request goes out in 60 s.\n"


@pytest.mark.timeout(30)
def test_a_run_that_stops_does_not_wait_for_its_busy_requests(tmp_path: Path) -> None:
    asked = Fake(
        in_flight=3, together=3, faults={0: busy(500), 1: busy(500), 2: TargetError("It broke.")}
    )
    meter = fake_door(tmp_path, asked)
    start = time.monotonic()
    with pytest.raises(TargetError, match="It broke"):
        meter.ask(IMAGES[:24], "a", "attack")
    assert time.monotonic() - start < 5
    assert counted(meter) == (8, 0, 8), "what was not served is taken back"


def test_what_may_have_been_served_before_a_refusal_stays_counted(tmp_path: Path) -> None:
    first = {0: (500, {}), 1: (429, {})}
    with offered(
        Embeddings(lambda number: first.get(number, (429, {"retry-after": "100"})))
    ) as service:
        meter = door(tmp_path, target(service, attempts=3, patience=3))
        with pytest.raises(TargetError, match="is busy"):
            meter.ask(noise(5), "attacker/0", "attack")
    assert len(service.keys) == 3 and counted(meter) == (5, 0, 5)


def test_no_request_is_adopted_while_its_owner_waits_for_a_busy_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase, "MARGIN", 0.0)
    asked = Fake(faults={0: busy(2)})
    asked.deadline = 0.6  # so long is a lease
    asking = threading.Thread(
        target=lambda: fake_door(tmp_path, asked).ask(IMAGES[:8], "a", "attack")
    )
    asking.start()
    other = Ledger(str(tmp_path / "ledger.sqlite"))
    source = other.source("fake", "none", "a", "", SIZE)
    looks = 0
    while asking.is_alive():
        assert other.adopt(source, {1}, 60) == []
        looks += 1
        time.sleep(0.05)
    assert looks > 20 and set(asked.asked.values()) == {1}
    assert other.spent("fake", "attack") == 8


def test_a_request_in_doubt_that_is_refused_when_it_is_sent_again_stays_counted(
    tmp_path: Path,
) -> None:
    first = Fake(faults={0: TargetError("It broke.")})
    with pytest.raises(TargetError):
        fake_door(tmp_path, first).ask(IMAGES[:8], "a", "attack")
    refusal = NotServed()
    refusal.__cause__ = TargetError("It said no.")
    meter = fake_door(tmp_path, Fake(faults={0: refusal}))
    with pytest.raises(TargetError, match="It said no"):
        meter.ask(IMAGES[:8], "a", "attack")
    assert counted(meter) == (8, 0, 8), "the first attempt may have been billed"
    assert torch.equal(meter.ask(IMAGES[:8], "a", "attack"), truth(IMAGES[:8])) and counted(
        meter
    ) == (8, 8, 0)


def test_lists_of_numbers_are_read_though_base64_was_asked_for(tmp_path: Path) -> None:
    with offered(Embeddings(listed=True)) as listed, offered(Embeddings()) as packed:
        answers = [
            door(tmp_path / name, target(service)).ask(noise(20), "attacker/0", "attack")
            for name, service in (("listed", listed), ("packed", packed))
        ]
    assert torch.equal(*answers) and len(listed.keys) == 3 and listed.served == 20


def misanswered(rows: Any) -> Any:
    return rows[:-1] if len(rows) > 1 else np.repeat(rows, 2, axis=0)


@pytest.mark.parametrize(
    ("service", "encoding", "requests", "words"),
    [
        (
            Embeddings(vectors=misanswered),
            "base64",
            2,
            "7 vectors came back for 8 images.*and would do so again",
        ),
        (
            Embeddings(vectors=lambda rows: rows * np.float32(np.inf)),
            "base64",
            1,
            "not finite.*and would do so again",
        ),
        (Embeddings(lambda number: (400, {})), "base64", 1, "refuses the request with status 400"),
        (Embeddings(lambda number: (501, {})), "base64", 1, "refuses the request with status 501"),
        (
            Embeddings(vectors=lambda rows: [Text("AACAPwAAAEA=")] * len(rows)),
            "float",
            1,
            "encoding=base64",
        ),
        (
            Embeddings(vectors=lambda rows: [Text("no base64")] * len(rows), listed=True),
            "base64",
            1,
            "not base64",
        ),
    ],
    ids=["count", "infinite", "400", "501", "string", "no base64"],
)
def test_what_the_same_request_brings_each_time_is_not_asked_for_again(
    service: Embeddings, encoding: str, requests: int, words: str, tmp_path: Path
) -> None:
    with offered(service):
        meter = door(tmp_path, target(service, encoding=encoding, attempts=6, in_flight=1))
        with pytest.raises(TargetError, match=words):
            meter.ask(noise(24), "attacker/0", "attack")
    assert len(service.keys) == requests and counted(meter) == (
        service.served and 8,
        0,
        service.served and 8,
    )


class Text(str):
    """A string where a vector is expected."""

    def tolist(self) -> str:
        return str(self)


def test_a_batch_that_is_answered_wrongly_each_time_is_given_up_after_half_of_the_attempts(
    tmp_path: Path,
) -> None:
    with offered(Embeddings()) as service:
        meter = door(tmp_path, target(service, attempts=6, in_flight=1))
        meter.ask(noise(8), "attacker/0", "attack")
        service.vectors = misanswered
        with pytest.raises(TargetError, match="and would do so again"):
            meter.ask(noise(16), "attacker/0", "attack")
    assert len(service.keys) == 1 + 3 and counted(meter) == (16, 8, 8)


def half(rows: Any) -> Any:
    with np.errstate(over="ignore"):
        return (rows * np.float32(1e6)).astype(np.float16).astype("<f4")


def constant(rows: Any) -> Any:
    return np.ones_like(rows)


class Unsteady:
    """Vectors that are noise alone; of this seed, two for one image differ more than two for
    different images."""

    def __init__(self) -> None:
        self.dice = np.random.default_rng(1)

    def __call__(self, rows: Any) -> Any:
        return self.dice.normal(size=rows.shape).astype("<f4") * np.float32(0.1) + np.float32(1)


@pytest.mark.parametrize(
    ("vectors", "words", "sent"),
    [
        (lambda rows: rows * np.float32(0), "all zero", 1),
        (lambda rows: rows * np.float32(1e-30), "all zero", 1),
        (lambda rows: rows * np.float32(1e30), "larger than float32 can sum", 1),
        (half, "not finite", 1),
        (constant, "nearly equal vectors", 3),
        (Unsteady(), "do not depend on the image", 3),
    ],
    ids=["zeros", "underflow", "overflow", "float16", "constant", "noise alone"],
)
def test_first_contact_refuses_answers_from_which_nothing_can_be_learnt_before_the_budget_is_spent(
    vectors: Any, words: str, sent: int, tmp_path: Path
) -> None:
    with offered(Embeddings(vectors=vectors)) as service:
        meter = door(tmp_path, target(service, attempts=6))
        with pytest.raises(TargetError, match=words):
            check_first_answers(meter, "attacker/0")
    assert service.served == sent and meter._ledger.spent(meter.fingerprint, "attack") == 0


def test_first_contact_takes_a_service_whose_answers_are_noisy_and_depend_on_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = np.random.default_rng(0)

    def noisy(rows: Any) -> Any:
        return rows + dice.normal(size=rows.shape).astype("<f4") * np.float32(0.3)

    with offered(Embeddings(vectors=noisy)) as service:
        assert 0 < check_first_answers(door(tmp_path, target(service)), "attacker/0") < 1
    assert "Two answers of the service to one image differ" in capsys.readouterr().err
