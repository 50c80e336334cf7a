"""What a service does to its answers: features and who asked for them in, the features that leave the service out.

A defense is a class with `answer`. One that remembers has `load` and `dump` too, one that holds a secret or reads a
file says so by `private`, and one that was made for an encoder has `check`.

Shape letters: B images asked, D feature width.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

VERSION = 2
"""Raised when a defense of equal settings answers otherwise than before, so that no bank or result mixes the two."""


@dataclass(frozen=True)
class Asked:
    """What a defense may look at.

    Attributes:
        account: who asks, such as `attacker/0` or `honest/cifar10`.
        digests: one content hash an image, so that the same image can get the same answer.
        images: uint8 (B, 3, H, W).
        seconds: the moment, by a clock of the service's own.
    """

    account: str
    digests: list[bytes]
    images: Tensor
    seconds: float = 0.0


class Defense(Protocol):
    """One way to make answers less useful to a thief."""

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """The features that leave the service, one row an image.

        Raises:
            stealing.errors.Refused: there is no answer for this account now, or ever.
        """


@runtime_checkable
class Remembering(Protocol):
    """A defense whose answer to an account depends on what that account asked before.

    Its memory is of one account alone and is kept by whoever keeps the answers, in the same transaction: `load` comes
    before an answer and `dump` after it. So answers do not depend on crashes, and, where each image is judged by those
    before it, not on how images were cut into requests; the guard judges an account between requests.

    Attributes:
        remembers: False where its settings leave nothing to remember.
    """

    remembers: bool

    def load(self, account: str, memory: bytes | None) -> None:
        """Know of this account what was dumped, or nothing yet."""

    def dump(self, account: str) -> bytes:
        """All that is known of this account."""


@runtime_checkable
class Private(Protocol):
    """A defense whose answers depend on more than its settings.

    Attributes:
        private: hash of the secret or file; part of the fingerprint, so that banks never mix.
    """

    private: str


@runtime_checkable
class Fitted(Protocol):
    """A defense that was made for one encoder."""

    def check(self, encoder: str) -> None:
        """Refuse to defend another.

        Args:
            encoder: fingerprint of the one whose answers it will get.

        Raises:
            stealing.errors.ConfigError: it is of another.
        """


class Chain:
    """Defenses in the order of their names' appearance in the configuration; none of them is no defense.

    Args:
        defenses: by name.
    """

    def __init__(self, defenses: Mapping[str, Defense]) -> None:
        self.defenses = dict(defenses)
        self._memories = {
            name: defense
            for name, defense in self.defenses.items()
            if isinstance(defense, Remembering) and defense.remembers
        }

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on the account's earlier ones."""
        return bool(self._memories)

    @property
    def private(self) -> dict[str, str]:
        """By name, what the settings do not say."""
        return {name: defense.private for name, defense in self.defenses.items() if isinstance(defense, Private)}

    def check(self, encoder: str) -> None:
        """See `Fitted`."""
        for defense in self.defenses.values():
            if isinstance(defense, Fitted):
                defense.check(encoder)

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """Each defense sees what the one before it let through."""
        for defense in self.defenses.values():
            features_BD = defense.answer(features_BD, asked)
        return features_BD

    def settle(self, features_BD: Tensor, asked: Asked, memory: bytes | None) -> tuple[Tensor, bytes]:
        """The answer, and the account's memory after it, given the memory before it."""
        self.load(asked.account, memory)
        return self.answer(features_BD, asked), self.dump(asked.account)

    def load(self, account: str, memory: bytes | None) -> None:
        """See `Remembering`."""
        parts: dict[str, str] = json.loads(memory) if memory else {}
        for name, defense in self._memories.items():
            defense.load(account, base64.b64decode(parts[name]) if name in parts else None)

    def dump(self, account: str) -> bytes:
        """See `Remembering`; empty where nothing is remembered."""
        parts = {name: base64.b64encode(defense.dump(account)).decode() for name, defense in self._memories.items()}
        return json.dumps(parts).encode() if parts else b""


def cost(chain: Chain, features_BD: Tensor, asked: Asked, repeats: int = 5) -> dict[str, float]:
    """What a chain costs its owner.

    Args:
        chain: asked as a new account, again and again.
        features_BD: undefended answers.
        asked: the images they belong to.
        repeats: of which the fastest counts, as whatever else the machine does only adds to it.

    Returns:
        `milliseconds` an answer, and `bytes` of memory that the account has after this request.
    """
    seconds, memory = list[float](), b""
    for _ in range(repeats):
        start = time.perf_counter()
        _, memory = chain.settle(features_BD, asked, None)
        seconds.append(time.perf_counter() - start)
    return {"milliseconds": 1000 * min(seconds) / len(features_BD), "bytes": float(len(memory))}
