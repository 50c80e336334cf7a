"""A target, a bar and another process that tests of the door and of buying can look into."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stealing.data.sampling import generator
from stealing.errors import Refused
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.schema import Reservation, Terms

SIZE = 2
IMAGES = torch.randint(
    0, 256, (700, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator("metering")
)
assert len(set(digests(IMAGES))) == 700


def truth(images: Tensor, times: int = 1) -> Tensor:
    return images.flatten(1).float() + 1000 * times


@dataclass
class Fake:
    """Answers with the pixels, and a thousand more each time that an image is asked about.

    Attributes:
        faults: errors to raise instead of the answers to the first requests.
        together: requests that have to be on their way before the first is answered.
    """

    images_a_request: int = 8
    in_flight: int = 1
    fingerprint: str = "fake"
    defense_fingerprint: str = "none"
    codec: str = ""
    pace: Pace = field(default_factory=Pace)
    faults: dict[int, Exception] = field(default_factory=dict)
    together: int = 1
    half: bool = False

    def __post_init__(self) -> None:
        self.version = "7"
        self.size = SIZE
        self.deadline = 50.0
        self.is_known = True
        self.asked: dict[bytes, int] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.moments: list[float] = []
        self.threads: set[int] = set()
        self.beside = self.most_beside = 0
        self.lock = threading.Lock()

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        with self.lock:
            number = len(self.requests)
            self.requests.append((account, idempotency, len(images_uint8)))
            self.moments.append(time.time())
            self.threads.add(torch.get_num_threads())
            self.beside += 1
            self.most_beside = max(self.beside, self.most_beside)
        until = time.monotonic() + 10
        while self.most_beside < self.together and time.monotonic() < until:
            time.sleep(0.01)
        with self.lock:
            self.beside -= 1
            if number in self.faults:
                raise self.faults[number]
            names = digests(images_uint8)
            for name in names:
                self.asked[name] = self.asked.get(name, 0) + 1
            times = torch.tensor([self.asked[name] for name in names])
        features = images_uint8.flatten(1).float() + 1000 * times[:, None]
        return features.half() if self.half else features


class Bar:
    """What a person would have been shown."""

    def __init__(self, purpose: str, total: int, price: float) -> None:
        self.purpose = purpose
        self.total = total
        self.price = price
        self.told: list[tuple[int, int]] = []  # images answered, requests in flight

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, answered: int, in_flight: int) -> None:
        self.told.append((answered, in_flight))


class Remembering(Fake):
    """Adds how many requests of the account it settled; refuses the fourth."""

    remembers = True

    def settle(
        self,
        features_BD: Tensor,
        images_uint8: Tensor,
        digests: list[bytes],
        account: str,
        memory: bytes | None,
    ) -> tuple[Tensor, bytes]:
        before = int(memory or 0)
        if before == 3:
            raise Refused(f"{account} had enough.")
        return features_BD + 0.25 * before, str(before + 1).encode()


def door(
    folder: Path, target: Fake, images: int = 2000, evaluation: int = 1000, **limits: Any
) -> MeteredTarget:
    ledger = Ledger(str(folder / "ledger.sqlite"))
    return MeteredTarget(target, ledger, folder / "banks", Budget(images, evaluation, **limits))


def left_open(folder: Path, count: int, alive: bool = False) -> tuple[Ledger, Reservation]:
    """A request for the first images that another process reserved."""
    other = Ledger(str(folder / "ledger.sqlite"))
    source = other.source("fake", "none", "a", "", SIZE)
    batches = [(digests(IMAGES[:count]), IMAGES[:count])]
    terms = Terms("attack", "raw", 0, 0.5)
    [open_] = other.reserve(source, batches, terms, lease=60.0, pace=Pace())
    if not alive:
        other.close()
    return other, open_
