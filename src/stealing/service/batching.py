"""Batches: requests of many clients in, one forward pass and one transaction, each answer out.

One thread computes. Requests that arrive meanwhile become the next batch.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stealing.defenses.chain import Chain, QueryBatch
from stealing.errors import Refused
from stealing.queries.database import Execute
from stealing.service.accounts import Books, bill, load_memory, store_memory, stored_answer
from stealing.service.errors import ApiError
from stealing.text import printable

Outcome = Tensor | ApiError
"""What becomes of a request: features (B, D), or the reason why it is refused."""


@dataclass
class PendingRequest:
    """One request that waits for its answer.

    Attributes:
        account: who asks.
        idempotency: its key, or None.
        body: hash of the request, so that one key cannot be used for two requests.
        images: uint8 (B, 3, H, W).
        digests: one for each image.
        done: gets the features (B, D).
    """

    account: str
    idempotency: str | None
    body: bytes
    images: Tensor
    digests: list[bytes]
    done: "asyncio.Future[Tensor]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Collects requests into batches and answers them.

    Args:
        encode: returns features (B, D) of uint8 images.
        defense: of the service.
        version: hash of encoder and defense; memories of other versions are left alone.
        books: where answers and bills are stored.
        most: images in a forward pass.
        window: seconds that a batch with room waits for more requests.
        queue: most images that wait.
        threads: of the forward pass.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        defense: Chain,
        version: str,
        books: Books,
        *,
        most: int,
        window: float,
        queue: int,
        threads: int,
    ) -> None:
        self.encode = encode
        self.defense = defense
        self.version = version
        self.books = books
        self.most = most
        self.window = window
        self.room = queue
        self.waiting = 0
        self.sizes: Callable[[int], None] = lambda images: None
        self._queue: asyncio.Queue[PendingRequest] = asyncio.Queue()
        # torch's number of threads is a setting of each thread
        self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    async def answer(self, request: PendingRequest) -> Tensor:
        """Return the features (B, D) of a request, billed.

        Raises:
            ApiError: too many images wait, or this request is refused.
        """
        # An empty queue takes any request: otherwise one larger than the queue would never pass.
        if self.waiting and self.waiting + len(request.images) > self.room:
            raise ApiError(503, "Too many images wait to be answered: ask again later.", 1.0)
        self.waiting += len(request.images)
        self._queue.put_nowait(request)
        # A client that goes away is billed all the same: the answer is stored under its key.
        return await asyncio.shield(request.done)

    async def run(self) -> None:
        """Answer batch after batch, until cancelled."""
        loop = asyncio.get_running_loop()
        next_request: PendingRequest | None = None
        while True:
            batch, next_request = await self._collect(next_request)
            self.sizes(sum(len(request.images) for request in batch))
            try:
                outcomes = await loop.run_in_executor(self._pool, self._answer, batch)
            except Exception as error:
                line = f"A batch failed: {type(error).__name__}: {error}"
                print(printable(line), flush=True)
                message = "The service cannot answer now: ask again later."
                outcomes = [ApiError(503, message, 5.0)] * len(batch)
            for request, outcome in zip(batch, outcomes, strict=True):
                self.waiting -= len(request.images)
                if isinstance(outcome, ApiError):
                    request.done.set_exception(outcome)
                    # marks it as seen: asyncio warns of it if the client has gone away
                    request.done.exception()
                else:
                    request.done.set_result(outcome)

    async def _collect(
        self, first: PendingRequest | None
    ) -> tuple[list[PendingRequest], PendingRequest | None]:
        """Return the next batch, and a request that did not fit into it.

        Args:
            first: a request that did not fit into the batch before.
        """
        if first is None:
            first = await self._queue.get()
        batch = [first]
        count = len(first.images)
        until = asyncio.get_running_loop().time() + self.window
        while count < self.most:
            try:
                async with asyncio.timeout_at(until):
                    request = await self._queue.get()
            except TimeoutError:
                break
            if count + len(request.images) > self.most:
                return batch, request
            batch.append(request)
            count += len(request.images)
        return batch, None

    def close(self) -> None:
        """Wait for the batch that is being answered."""
        self._pool.shutdown()

    def _answer(self, batch: list[PendingRequest]) -> list[Outcome]:
        """Answer a batch in one transaction; the refusal of one request does not touch the rest."""
        with self.books.database.transaction() as execute:
            outcomes = [self._stored(execute, request) for request in batch]
            new = [place for place, outcome in enumerate(outcomes) if outcome is None]
            features = self._encode([batch[place] for place in new])
            for place, features_BD in zip(new, features, strict=True):
                request = batch[place]
                # looked up again: an earlier request of this batch may have had the same key
                outcome = self._stored(execute, request)
                if outcome is None:
                    outcome = self._serve(execute, request, features_BD)
                outcomes[place] = outcome
            return [outcome for outcome in outcomes if outcome is not None]

    def _encode(self, batch: list[PendingRequest]) -> tuple[Tensor, ...]:
        """Return undefended features (B, D) for each request, from one forward pass."""
        if not batch:
            return ()
        sizes = [len(request.images) for request in batch]
        images = torch.cat([request.images for request in batch])
        return torch.split(self.encode(images), sizes)

    def _stored(self, execute: Execute, request: PendingRequest) -> Outcome | None:
        """Return the outcome under the request's idempotency key, or None if it is new."""
        if request.idempotency is None:
            return None
        try:
            return stored_answer(execute, request.account, request.idempotency, request.body)
        except ApiError as refused:
            return refused

    def _serve(self, execute: Execute, request: PendingRequest, features_BD: Tensor) -> Outcome:
        """Defend, bill and store the features of one request."""
        if not features_BD.isfinite().all():
            return _unfit("The encoder")
        try:
            memory = load_memory(execute, request.account, self.version)
            asked = QueryBatch(request.account, request.digests, request.images, time.time())
            answer, new_memory = self.defense.settle(features_BD, asked, memory)
            if not answer.isfinite().all():
                return _unfit("The defense")
            bill(execute, request.account, request.idempotency, request.body, answer)
            if new_memory != (memory or b""):
                store_memory(execute, request.account, self.version, new_memory)
            return answer
        except Refused as refused:
            if refused.retry_after is None:
                return ApiError(403, str(refused), stopped=True)
            return ApiError(429, str(refused), refused.retry_after)
        except ApiError as refused:
            return refused


def _unfit(part: str) -> ApiError:
    """Return the refusal of a request whose answer would hold NaN or infinity; say so in the log.

    Args:
        part: of the service that computed such numbers.
    """
    print(f"{part} gives numbers that are not finite: a request got no answer.", flush=True)
    return ApiError(
        500,
        "The answer would hold numbers that are not finite, so it is not sent and not billed: "
        "remove the image, or tell the operator of the service.",
    )
