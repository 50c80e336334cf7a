"""Four processes that spend one budget at a real service, killed again and again; prints JSON.

Usage: python buyers.py LEDGER URL TOTAL KILLS FOLDER     (the key is in STEALING_KEY)

Everything heavy is imported once, before the forks; no connection is open while one is made.
"""

import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import torch
from serving import noise, remote, wires

from stealing.errors import BudgetExceeded
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger

PLACE = sys.argv[1]
URL = sys.argv[2]
TOTAL = int(sys.argv[3])
KILLS = int(sys.argv[4])
FOLDER = Path(sys.argv[5])
POOL = noise(TOTAL * 5 // 4)
ASK = 512


def buy(number: int) -> None:
    """Ask about images of the pool, in an order of its own, until the budget is spent.

    Then ask once more about all that the ledger knows, so that no request stays open.
    """
    torch.set_num_threads(1)
    target = remote(URL, wires(64)["raw"], width=16)
    with closing(Ledger(PLACE)) as ledger:
        (FOLDER / f"{os.getpid()}.owner").write_text(ledger.database.owner)
        door = MeteredTarget(
            target, ledger, FOLDER / "banks", Budget(len(POOL), 0, images_total=TOTAL)
        )
        order = torch.randperm(len(POOL), generator=torch.Generator().manual_seed(number))
        place = 0
        size = ASK
        while size and place < len(POOL):
            try:
                door.ask(POOL[order[place : place + size]], "attacker/0", "attack")
                place += size
            except BudgetExceeded:
                size //= 2
        source = ledger.source(target.fingerprint, target.defense_fingerprint, "attacker/0", "", 8)
        known = ledger.states(source, digests(POOL), 0)
        rows = [row for row, digest in enumerate(digests(POOL)) if digest in known]
        door.ask(POOL[rows], "attacker/0", "attack")


def forked(number: int) -> int:
    """A process that buys."""
    process = os.fork()
    if process == 0:
        try:
            buy(number)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process


def seen(owner: str = "") -> tuple[int, int]:
    """Images counted so far, and requests that this owner left open."""
    connection: Any = psycopg.connect(PLACE) if "://" in PLACE else sqlite3.connect(PLACE, 60)
    with closing(connection):
        [(spent,)] = connection.execute("SELECT coalesce(sum(spent), 0) FROM budgets").fetchall()
        sql = f"SELECT count(*) FROM requests WHERE images IS NOT NULL AND owner = '{owner}'"
        [(left,)] = connection.execute(sql).fetchall()
        return int(spent), int(left)


def main() -> None:
    """Kill whenever another share of the budget is spent, and start the killed one again."""
    with closing(Ledger(PLACE)):
        pass  # makes the tables
    dice, live = random.Random(0), {forked(number): number for number in range(4)}
    killed = doubtful = most = 0
    start = time.monotonic()
    while live:
        spent, _ = seen()
        most = max(most, spent)
        if killed < KILLS and spent >= killed * TOTAL / (KILLS + 4):
            time.sleep(dice.random() * 0.05)
            victim = dice.choice(
                [each for each in live if (FOLDER / f"{each}.owner").exists()] or list(live)
            )
            owner = FOLDER / f"{victim}.owner"
            for _ in range(
                50 * (killed % 3 > 0)
            ):  # two of three while a request of theirs is on its way
                if owner.exists() and seen(owner.read_text())[1]:
                    break
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            number = live.pop(victim)
            killed += 1
            doubtful += owner.exists() and seen(owner.read_text())[1] > 0
            live[forked(number)] = number
        for process in list(live):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                assert status == 0, f"process {process} ended with {status}"
                del live[process]
        time.sleep(0.005)
    seconds = time.monotonic() - start
    print(json.dumps({"killed": killed, "in_doubt": doubtful, "most": most, "seconds": seconds}))


if __name__ == "__main__":
    main()
