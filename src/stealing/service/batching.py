"""Requests of many clients in, one forward pass and one transaction for all of them, each one's answer out.

One thread computes; while it does, requests that arrive become the next batch.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stealing.defenses.chain import Asked, Chain
from stealing.errors import Refused
from stealing.queries.database import Execute
from stealing.service.accounts import Books, book, kept, recall, remember
from stealing.service.errors import Denied

Outcome = Tensor | Denied


@dataclass
class Job:
    """One request.

    Attributes:
        account: whose.
        idempotency: its key, or None.
        body: hash of the request, so that a key cannot be used for two.
        images: uint8 (B, 3, H, W).
        digests: one an image.
        done: gets the features (B, D).
    """

    account: str
    idempotency: str | None
    body: bytes
    images: Tensor
    digests: list[bytes]
    done: "asyncio.Future[Tensor]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """The one who computes.

    Args:
        encode: features (B, D) of uint8 images.
        defense: of the service.
        version: of encoder and defense; what another version remembers of an account is left alone.
        books: where answers and bills are kept.
        most: images a forward pass.
        window: seconds that a batch with room waits for more.
        queue: images that may wait.
        threads: of the forward pass.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], defense: Chain, version: str, books: Books, *, most: int,
        window: float, queue: int, threads: int,
    ) -> None:  # fmt: skip
        self.encode, self.defense, self.version, self.books = encode, defense, version, books
        self.most, self.window, self.room, self.waiting = most, window, queue, 0
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self.sizes: Callable[[int], None] = lambda images: None

    async def answer(self, job: Job) -> Tensor:
        """The features (B, D), billed.

        Raises:
            Denied: too many images wait, or the job's own reason.
        """
        if self.waiting + len(job.images) > self.room and self.waiting:
            raise Denied(503, "Too many images wait to be answered: ask again later.", 1.0)
        self.waiting += len(job.images)
        self._queue.put_nowait(job)
        return await asyncio.shield(job.done)  # who goes away is billed all the same: the answer is kept under its key

    async def run(self) -> None:
        """Compute batch after batch, until cancelled."""
        loop = asyncio.get_running_loop()
        carried: Job | None = None
        while True:
            jobs, carried = [carried or await self._queue.get()], None
            count, until = len(jobs[0].images), loop.time() + self.window
            while count < self.most and carried is None:
                try:
                    async with asyncio.timeout_at(until):
                        job = await self._queue.get()
                except TimeoutError:
                    break
                if count + len(job.images) > self.most:
                    carried = job
                else:
                    jobs.append(job)
                    count += len(job.images)
            self.sizes(count)
            try:
                outcomes = await loop.run_in_executor(self._pool, self._answered, jobs)
            except Exception as error:
                outcomes = [Denied(503, "The service cannot answer now: ask again later.", 5.0)] * len(jobs)
                print(f"A batch failed: {type(error).__name__}: {error}", flush=True)
            for job, outcome in zip(jobs, outcomes, strict=True):
                self.waiting -= len(job.images)
                if isinstance(outcome, Denied):
                    job.done.set_exception(outcome)
                    job.done.exception()  # looked at, should nobody wait for it
                else:
                    job.done.set_result(outcome)

    def close(self) -> None:
        """Wait for the batch in the making."""
        self._pool.shutdown()

    def _answered(self, jobs: list[Job]) -> list[Outcome]:
        """All that a batch does to the books, in one transaction; each job stands for itself."""
        with self.books.database.transaction() as execute:
            before = [self._kept(execute, job) for job in jobs]
            fresh = [job for job, outcome in zip(jobs, before, strict=True) if outcome is None]
            features = torch.split(
                self.encode(torch.cat([job.images for job in fresh])), [len(job.images) for job in fresh]
            ) if fresh else ()  # fmt: skip
            computed = {id(job): part for job, part in zip(fresh, features, strict=True)}
            for place, job in enumerate(jobs):
                if before[place] is None:  # unless one of this very batch was the same request
                    again = self._kept(execute, job)
                    before[place] = self._served(execute, job, computed[id(job)]) if again is None else again
            return [outcome for outcome in before if outcome is not None]

    def _kept(self, execute: Execute, job: Job) -> Outcome | None:
        try:
            return None if job.idempotency is None else kept(execute, job.account, job.idempotency, job.body)
        except Denied as denied:
            return denied

    def _served(self, execute: Execute, job: Job, features_BD: Tensor) -> Outcome:
        """Defended, billed and kept."""
        try:
            memory = recall(execute, job.account, self.version)
            asked = Asked(job.account, job.digests, job.images, time.time())
            answer, after = self.defense.settle(features_BD, asked, memory)
            book(execute, job.account, job.idempotency, job.body, answer)
            if after != (memory or b""):
                remember(execute, job.account, self.version, after)
            return answer
        except Refused as refused:
            if refused.retry_after is None:
                return Denied(403, str(refused), stopped=True)
            return Denied(429, str(refused), refused.retry_after)
        except Denied as denied:
            return denied
