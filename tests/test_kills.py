"""Nothing is lost, counted twice or paid twice, whoever is killed when: four processes, one budget,
a real service."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgres
import pytest
from conftest import ROOT
from serving import Served, load_trivial, noise, remote, save_trivial, served, wires

from stealing.defenses.chain import Chain
from stealing.queries.digests import digests
from stealing.queries.inspection import find_faults, spendings
from stealing.queries.ledger import Ledger
from stealing.targets.local import LocalTarget


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite")
    elif reason := postgres.why_not():
        pytest.skip(reason)
    else:
        with postgres.server() as url:
            yield postgres.database(url)


def bought(place: str, service: Served, folder: Path, total: int, kills: int) -> dict[str, Any]:
    line = [
        sys.executable,
        "tests/buyers.py",
        place,
        service.url,
        str(total),
        str(kills),
        str(folder),
    ]
    environment = {"PATH": "/usr/bin:/bin", "STEALING_KEY": service.key, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


def check(place: str, service: Served, encoder: Path, total: int) -> None:
    """Counted = billed = stored, and every answer is the encoder's own for that image."""
    ledger = Ledger(place)
    [row] = [row for row in spendings(ledger) if row.purpose == "attack"]
    assert (row.spent, row.stored, row.in_doubt, row.failed) == (total, total, 0, 0)
    assert service.billed() == total
    assert find_faults(ledger) == []
    target = remote(service.url, wires()["raw"])
    source = ledger.source(target.fingerprint, target.defense_fingerprint, "attacker/0", "", 8)
    pool = noise(total * 5 // 4)
    known = ledger.states(source, digests(pool), 0)
    rows = [place for place, name in enumerate(digests(pool)) if name in known]
    answers = LocalTarget(load_trivial(encoder), Chain({}), "none", 8).answer(pool[rows], "x")
    assert ledger.read(source, digests(pool[rows]), 0).equal(answers)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_sixty_kills_among_four_processes_leave_counted_billed_and_stored_equal(
    place: str, tmp_path: Path
) -> None:
    with served(
        tmp_path, "window=0.06"
    ) as service:  # so slow that kills find requests on their way, on any machine
        found = bought(place, service, tmp_path, 20_000, 60)
        assert found["killed"] == 60 and found["in_doubt"] >= 20 and found["most"] <= 20_000
        check(place, service, tmp_path / "encoder.safetensors", 20_000)


@pytest.mark.slow
def test_kills_and_a_service_that_fails_three_times_in_ten_change_no_answer(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.sqlite")
    encoder = save_trivial(tmp_path)
    with served(tmp_path, "faults=some", encoder=encoder) as service:
        bought(place, service, tmp_path, 4_000, 10)
        check(place, service, encoder, 4_000)
