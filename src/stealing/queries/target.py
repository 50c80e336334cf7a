"""What the door needs of a target: uint8 images and an account in, features out.

Shape letters: B images, D feature width.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from stealing.queries.pace import Pace


class Target(Protocol):
    """An encoder that answers, in this process or behind an API. It owns its defense.

    Attributes:
        fingerprint: names encoder, endpoint and version.
        defense_fingerprint: names the defense.
        codec: how pixels are changed on their way to the target; empty if they are not.
        version: what the target reports as its version, or None.
        size: height and width of the images that it takes.
        images_a_request: most images in a request.
        in_flight: most requests at a time.
        deadline: seconds within which a request ends, without the waits for a busy service.
        pace: how fast it may be asked.
        is_known: True if its answers need no sanity check: a local target or a recording.
    """

    fingerprint: str
    defense_fingerprint: str
    codec: str
    version: str | None
    size: int
    images_a_request: int
    in_flight: int
    deadline: float
    pace: Pace
    is_known: bool

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Return features (B, D), float32 or float16, of uint8 images (B, 3, size, size).

        Args:
            images_uint8: what is sent.
            account: who asks.
            idempotency: key of the request. A service that honours it bills a request once,
                however often it is sent.

        Raises:
            stealing.queries.waiting.NotServed: the request was surely not served, so it need not
                be counted.
            stealing.queries.waiting.Busy: it has to be sent again later, under the same key.
        """


@runtime_checkable
class InProcessTarget(Protocol):
    """A target in this process.

    A request to it ends with the process, and nobody bills it. So a request that a crash left open
    is taken back and asked anew. The target gets the digests that the door made of the images.
    """

    def answer_digested(self, images_uint8: Tensor, digests: list[bytes], account: str) -> Tensor:
        """Return what `answer` returns.

        Args:
            images_uint8: what is sent.
            digests: one an image.
            account: who asks.
        """


@runtime_checkable
class CachingTarget(Protocol):
    """A target that keeps what it computed until there is enough for a file."""

    def flush(self) -> None:
        """Write what is worth a file; the door calls this when a purchase has ended."""


@runtime_checkable
class StatefulTarget(Protocol):
    """A target in this process whose answers depend on what the account asked before.

    `answer` computes what does not depend on earlier questions; several requests may do so at the
    same time. `settle` then decides the answer, within the transaction that stores it: requests of
    an account follow each other, and no crash comes between an answer and the state after it.

    Attributes:
        remembers: False if the defense has no state; `settle` is not called then.
    """

    remembers: bool

    def settle(
        self,
        features_BD: Tensor,
        images_uint8: Tensor,
        digests: list[bytes],
        account: str,
        memory: bytes | None,
    ) -> tuple[Tensor, bytes]:
        """Return the answers (B, D), and the account's state after them.

        Args:
            features_BD: what `answer` returned.
            images_uint8: the images that they belong to.
            digests: one an image.
            account: who asks.
            memory: the account's state before, or None for a new account.

        Raises:
            stealing.errors.Refused: this account gets no more answers.
            stealing.queries.waiting.NotServed: there is no answer that could be stored.
        """


@runtime_checkable
class RenamedTarget(Protocol):
    """A target whose fingerprint in earlier versions could stand for other targets, too.

    Attributes:
        former: that fingerprint; equal to the present one if it did not change.
    """

    former: str
