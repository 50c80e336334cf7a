"""Measure how fast images are bought, with a durable ledger, beside a plain client.

    python benchmarks/querying.py            # on an idle machine; prints a table and what it ran on

The encoder is trivial, so that the rate is that of the wire and the ledger. Both clients take turns
within one run and send the same requests, 64 images each, 16 at a time. The plain client makes its
bodies before, and drops the answers.
"""

import os
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import torch

from stealing.provenance import provenance
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving import noise, remote, save_trivial, served, wires

BATCH = 64
"""Images a request."""

FLIGHT = 16
"""Requests at a time."""

IMAGES = 6400
ROUNDS = 5
SIZE = 32
WIDTH = 512
WIRES = ("raw", "openai base64", "open inference binary", "openai float")
UNLIMITED = Budget(10**9, 0)


def smooth(count: int, seed: int) -> torch.Tensor:
    """Return distinct images that compress as photographs do: to two thirds as PNG."""
    coarse = noise(count, seed, SIZE // 4).float()
    large = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return (large + noise(count, seed + 1, SIZE) / 32).clamp(0, 255).to(torch.uint8)


def plain(url: str, wire: Any, images: torch.Tensor) -> float:
    """Return the images a second of a client that only sends and receives."""
    messages = [wire.request(batch, "x") for batch in images.split(BATCH)]
    headers = {"authorization": f"Bearer {os.environ['STEALING_KEY']}"}
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(FLIGHT) as pool:

        def send(message: Any) -> None:
            # a key, as the metered client has: the service then does the same work
            key = {"idempotency-key": uuid.uuid4().hex}
            answer = client.post(
                message.path, content=message.content, headers=message.headers | headers | key
            )
            assert answer.status_code == 200, answer.text

        start = time.perf_counter()
        list(pool.map(send, messages))
        return len(images) / (time.perf_counter() - start)


def metered(url: str, wire: Any, images: torch.Tensor, folder: Path) -> float:
    """Return the images a second through the door: digests, ledger, requests, checks."""
    target = remote(url, wire, in_flight=FLIGHT, size=SIZE)
    ledger = Ledger(str(folder / "ledger.sqlite"))
    door = MeteredTarget(target, ledger, folder / "banks", UNLIMITED)
    start = time.perf_counter()
    door.ask(images, "attacker/0", "attack")
    seconds = time.perf_counter() - start
    ledger.close()
    return len(images) / seconds


class Instant:
    """A target that answers at once: what is left is the door's own cost."""

    fingerprint = "instant"
    defense_fingerprint = "none"
    codec = ""
    version = None
    is_known = True
    images_a_request = BATCH
    in_flight = FLIGHT
    deadline = 60.0

    def __init__(self, size: int, width: int) -> None:
        from stealing.queries.pace import Pace

        self.size = size
        self.width = width
        self.pace = Pace()

    def answer(
        self, images_uint8: torch.Tensor, account: str, idempotency: str = ""
    ) -> torch.Tensor:
        """Return features (B, D) that cost nothing."""
        return torch.zeros(len(images_uint8), self.width)


def own_cost(folder: Path, width: int) -> float:
    """Return the milliseconds an image of the door itself, with answers flushed to the disk."""
    ledger = Ledger(str(folder / "own.sqlite"))
    door = MeteredTarget(Instant(SIZE, width), ledger, folder / "own", UNLIMITED)
    images = noise(6400, 99, SIZE)
    start = time.perf_counter()
    for batch in images.split(BATCH):
        door.ask(batch, "attacker/0", "attack")
    return (time.perf_counter() - start) / len(images) * 1000


def compare(url: str, kind: str, folder: Path) -> None:
    """Measure both clients by turns over one wire, and print a line."""
    wire = wires(BATCH)[kind]
    plain_rates = list[float]()
    metered_rates = list[float]()
    ratios = list[float]()
    for turn in range(ROUNDS):
        # other images each time: the service and the bank remember those that they had
        images = smooth(IMAGES, hash((kind, turn)) % 2**31)
        plain_rates.append(plain(url, wire, images))
        metered_rates.append(metered(url, wire, images, folder))
        ratios.append(metered_rates[-1] / plain_rates[-1])
    print(
        f"{kind}: images/s plain {median(plain_rates):.0f} (best {max(plain_rates):.0f}), "
        f"metered {median(metered_rates):.0f} (best {max(metered_rates):.0f}); "
        f"ratio {median(ratios):.2f}",
        flush=True,
    )


def main() -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served(folder, encoder=save_trivial(folder, WIDTH, SIZE)) as service:
            os.environ["STEALING_KEY"] = service.key
            for kind in WIRES:
                compare(service.url, kind, folder)
        costs = [own_cost(folder / str(turn), WIDTH) for turn in range(ROUNDS)]
        typical = f"{median(costs):.3f} ms an image (best {min(costs):.3f})"
        print(f"the door itself, asks of {BATCH}: {typical}")
    origin = provenance(1, 1)
    print(
        origin["date"],
        origin["commit"],
        origin["hardware"]["cpu"],
        origin["hardware"]["cores"],
        "cores",
    )


if __name__ == "__main__":
    main()
