"""How fast images are bought, durable ledger included, beside what a plain load generator gets from the same service.

    python benchmarks/querying.py            # on an idle machine; prints a table and what it ran on

The encoder is trivial, so that the rate is that of the wire and the books. Both clients send the same requests, 64
images each, 16 at a time, in turns within one run; the plain one made its bodies before, and throws the answers away.
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

BATCH, FLIGHT, IMAGES, ROUNDS, SIZE = 64, 16, 6400, 5, 32


def smooth(count: int, seed: int) -> torch.Tensor:
    """Distinct images that compress about as pictures do, to two thirds as PNG; noise does not compress at all."""
    coarse = noise(count, seed, SIZE // 4).float()
    large = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return (large + noise(count, seed + 1, SIZE) / 32).clamp(0, 255).to(torch.uint8)


def plain(url: str, wire: Any, images: torch.Tensor) -> float:
    """Images a second of a client that only sends and receives."""
    messages = [wire.request(batch, "x") for batch in images.split(BATCH)]
    headers = {"authorization": f"Bearer {os.environ['STEALING_KEY']}"}
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(FLIGHT) as pool:

        def send(message: Any) -> None:
            key = {"idempotency-key": uuid.uuid4().hex}  # as the metered client, so that the service does the same
            said = client.post(message.path, content=message.content, headers=message.headers | headers | key)
            assert said.status_code == 200, said.text

        start = time.perf_counter()
        list(pool.map(send, messages))
        return len(images) / (time.perf_counter() - start)


def metered(url: str, wire: Any, images: torch.Tensor, folder: Path) -> float:
    """Images a second through the door: digests, ledger, requests, checks."""
    target = remote(url, wire, in_flight=FLIGHT, size=SIZE)
    ledger = Ledger(str(folder / "ledger.sqlite"))
    door = MeteredTarget(target, ledger, folder / "banks", Budget(10**9, 0))
    start = time.perf_counter()
    door.ask(images, "attacker/0", "attack")
    seconds = time.perf_counter() - start
    ledger.close()
    return len(images) / seconds


class Instant:
    """A target that answers at once: what is left is the door's own cost."""

    fingerprint, defense_fingerprint, codec, version, is_known = "instant", "none", "", None, True
    images_a_request, in_flight, deadline = BATCH, FLIGHT, 60.0

    def __init__(self, size: int, width: int) -> None:
        from stealing.queries.pace import Pace

        self.size, self.width, self.pace = size, width, Pace()

    def answer(self, images_uint8: torch.Tensor, account: str, idempotency: str = "") -> torch.Tensor:
        """Features (B, D) that cost nothing."""
        return torch.zeros(len(images_uint8), self.width)


def own_cost(folder: Path, width: int) -> float:
    """Milliseconds an image that the door takes by itself, 32 pixels and `width` numbers, flushed to the disk."""
    ledger = Ledger(str(folder / "own.sqlite"))
    door = MeteredTarget(Instant(SIZE, width), ledger, folder / "own", Budget(10**9, 0))
    images = noise(6400, 99, SIZE)
    start = time.perf_counter()
    for batch in images.split(BATCH):
        door.ask(batch, "attacker/0", "attack")
    return (time.perf_counter() - start) / len(images) * 1000


def main() -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served(folder, encoder=save_trivial(folder, 512, SIZE)) as service:
            os.environ["STEALING_KEY"] = service.key
            for kind in ("raw", "openai base64", "open inference binary", "openai float"):
                wire, rates = wires(BATCH)[kind], {"plain": list[float](), "metered": list[float]()}
                for turn in range(ROUNDS):
                    images = smooth(IMAGES, hash((kind, turn)) % 2**31)
                    rates["plain"].append(plain(service.url, wire, images))
                    rates["metered"].append(metered(service.url, wire, images, folder))
                ratio = median(m / p for m, p in zip(rates["metered"], rates["plain"], strict=True))
                figures = ", ".join(f"{who} {median(some):.0f} (best {max(some):.0f})" for who, some in rates.items())
                print(f"{kind}: images/s {figures}; ratio {ratio:.2f}", flush=True)
        costs = [own_cost(folder / str(turn), 512) for turn in range(5)]
        print(f"the door itself, asks of {BATCH}: {median(costs):.3f} ms an image (best {min(costs):.3f})")
    origin = provenance(1, 1)
    print(origin["date"], origin["commit"], origin["hardware"]["cpu"], origin["hardware"]["cores"], "cores")


if __name__ == "__main__":
    main()
