"""One million answers of 512 numbers are bought, banked and read back at random, in bounded memory.

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

COUNT, ASK, SIZE, WIDTH = 1_000_000, 10_000, 8, 512


class Telling(Instant):
    """Answers that can be told apart: the first pixels of the image."""

    def answer(self, images_uint8: torch.Tensor, account: str, idempotency: str = "") -> torch.Tensor:
        """Features (B, D)."""
        return images_uint8.flatten(1)[:, :16].float().repeat(1, self.width // 16)


def block(number: int) -> torch.Tensor:
    """The images of one ask: a function of its number alone."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (ASK, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def main() -> None:
    """Buy, read, and print what it took."""
    torch.set_num_threads(1)
    base = peak_memory()
    with tempfile.TemporaryDirectory() as name:
        folder, ledger = Path(name), Ledger(f"{name}/ledger.sqlite")
        door = MeteredTarget(Telling(SIZE, WIDTH), ledger, folder / "banks", Budget(COUNT, 0))
        start = time.perf_counter()
        for number in range(COUNT // ASK):
            door.ask(block(number), "attacker/0", "attack")
            if number in (9, COUNT // ASK - 1):
                print(f"after {(number + 1) * ASK} images: at most {peak_memory():.2f} GiB", flush=True)
        seconds = time.perf_counter() - start
        print(f"bought and banked: {seconds:.0f} s, {seconds / COUNT * 1000:.3f} ms an image; {base:.2f} GiB before it")
        [shards] = (folder / "banks").iterdir()
        bank, times, generator = Bank(shards, ledger.identity), list[float](), torch.Generator().manual_seed(1)
        for _ in range(200):
            number = int(torch.randint(0, COUNT // ASK, (), generator=generator))
            images = block(number)[torch.randperm(ASK, generator=generator)[:256]]
            names = digests(images)
            start = time.perf_counter()
            found = bank.read(names)
            times.append(time.perf_counter() - start)
            assert torch.equal(found[:, :16], images.flatten(1)[:, :16].float())
        print(f"read back 256 at random: {median(times) * 1000:.2f} ms; at most {peak_memory():.2f} GiB in all")
        ledger.close()
    origin = provenance(1, 1)
    print(origin["date"], origin["commit"], origin["hardware"]["cpu"], origin["hardware"]["cores"], "cores")


if __name__ == "__main__":
    main()
