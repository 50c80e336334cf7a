"""Buy, bank and read back one million answers of 512 numbers, and print the time and memory of it.

python benchmarks/million.py             # some minutes, 6 GB of disk under the temporary folder
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from querying import Instant

from stealing.provenance import peak_memory, provenance
from stealing.queries.bank import Bank
from stealing.queries.digests import digests
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger

COUNT = 1_000_000
"""Images in all."""

ASK = 10_000
"""Images that are asked about at once."""

READ = 256
"""Answers that are read back at once."""

READS = 200
SIZE = 8
WIDTH = 512


class Recognisable(Instant):
    """A target whose answers show their image: they are its first pixels."""

    def answer(
        self, images_uint8: torch.Tensor, account: str, idempotency: str = ""
    ) -> torch.Tensor:
        """Return features (B, D)."""
        return images_uint8.flatten(1)[:, :16].float().repeat(1, self.width // 16)


def block(number: int) -> torch.Tensor:
    """Return the images of one ask, a function of its number alone."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (ASK, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def main() -> None:
    """Buy, read, and print what it took."""
    torch.set_num_threads(1)
    # what Python and torch take themselves
    base = peak_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger(f"{name}/ledger.sqlite")
        target = Recognisable(SIZE, WIDTH)
        door = MeteredTarget(target, ledger, folder / "banks", Budget(COUNT, 0))
        start = time.perf_counter()
        for number in range(COUNT // ASK):
            door.ask(block(number), "attacker/0", "attack")
            if number in (9, COUNT // ASK - 1):
                print(
                    f"after {(number + 1) * ASK} images: at most {peak_memory():.2f} GiB",
                    flush=True,
                )
        seconds = time.perf_counter() - start
        print(
            f"bought and banked: {seconds:.0f} s, {seconds / COUNT * 1000:.3f} ms an image; "
            f"{base:.2f} GiB before it"
        )
        [shards] = (folder / "banks").iterdir()
        bank = Bank(shards, ledger.identity)
        generator = torch.Generator().manual_seed(1)
        times = list[float]()
        for _ in range(READS):
            number = int(torch.randint(0, COUNT // ASK, (), generator=generator))
            images = block(number)[torch.randperm(ASK, generator=generator)[:READ]]
            names = digests(images)
            start = time.perf_counter()
            answers = bank.read(names)
            times.append(time.perf_counter() - start)
            # a wrong answer would be an answer to another image
            assert torch.equal(answers[:, :16], images.flatten(1)[:, :16].float())
        print(
            f"read back {READ} at random: {median(times) * 1000:.2f} ms; "
            f"at most {peak_memory():.2f} GiB in all"
        )
        ledger.close()
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
