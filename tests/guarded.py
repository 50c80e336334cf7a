"""Two processes ask a local target with a stateful defense and are killed; the last one finishes.

Usage: python guarded.py FOLDER KILLS     (0 kills is the run that nothing interrupts)

Prints the number of kills. Everything heavy is imported once, before the forks.
"""

import os
import random
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import torch
from serving import Trivial, noise

from stealing.defenses.b4b import B4B
from stealing.defenses.chain import Chain
from stealing.defenses.noise import Noise
from stealing.encoders import Encoder
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.targets.local import LocalTarget

FOLDER, KILLS = Path(sys.argv[1]), int(sys.argv[2])
IMAGES = noise(4000)  # more than are answered before the last kill, on a fast machine too
ACCOUNTS = ("attacker/0", "attacker/1")


def door(ledger: Ledger) -> MeteredTarget:
    chain = Chain(
        {"b4b": B4B(1e-6, 1.0, 0.02, 8, 4, None), "noise": Noise(0.1, "gaussian", True, None)}
    )
    target = LocalTarget(Encoder(Trivial(16), [0.5] * 3, [0.25] * 3), chain, "both", 8)
    target.images_a_request = 8  # type: ignore[misc]
    return MeteredTarget(target, ledger, FOLDER / "banks", Budget(2 * len(IMAGES), 0))


def ask(account: str) -> None:
    torch.set_num_threads(1)
    with closing(Ledger(str(FOLDER / "ledger.sqlite"))) as ledger:
        torch.save(
            door(ledger).ask(IMAGES, account, "attack"), FOLDER / f"{account.replace('/', '-')}.pt"
        )


def forked(account: str) -> int:
    process = os.fork()
    if process == 0:
        ask(account)
        os._exit(0)
    return process


if __name__ == "__main__":
    random.seed(0)
    killed = 0
    while True:
        processes = [forked(account) for account in ACCOUNTS]
        if killed < KILLS:
            time.sleep(random.uniform(0.02, 0.12))
            for process in processes:
                os.kill(process, signal.SIGKILL)
                killed += 1
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        if codes == [0, 0]:
            break
    print(killed)
