"""Defenses in a row. Input: features, and who asked for them. Output: the features that are sent.

A defense is a class with a method `answer`; it needs no base class. Three additions are optional:
`StatefulDefense` is the base class of a defense that remembers what an account asked; an attribute
`private` names what the settings do not show (`Private`); a method `check` ties a defense to one
encoder (`Fitted`).

Shape letters: B images asked, D feature width.
"""

import base64
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor

from stealing.errors import ConfigError
from stealing.moved import moved_name

VERSION = 2
"""Version of all defenses, part of their fingerprint.

It is raised when a defense with the same settings answers differently than before, so that no bank
and no result mixes the two.
"""

# Classes of users import names of earlier versions from here.
__getattr__ = partial(moved_name, __name__)


@dataclass(frozen=True)
class QueryBatch:
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
    """One way to make answers less useful to an attacker."""

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features that leave the service, one row an image.

        Args:
            features_BD: what the encoder, or the defense before this one, returned; float32 (B, D).
            asked: the images and the account.

        Raises:
            stealing.errors.Refused: this account gets no answer now, or never again.
        """


class StatefulDefense(ABC):
    """Base class of a defense whose answer to an account depends on what the account asked before.

    The store that keeps the answers also keeps the state, in the same transaction: `load` is called
    before each `answer` and `dump` after it. A crash therefore never loses a part of the state,
    and a restarted service resumes where it stopped. The state of one account must not influence
    the answers to another.

    If each image is judged by the images before it, answers do not depend on how images were cut
    into requests. (`Guard` is an exception: it judges an account between requests.)

    Attributes:
        remembers: False if the settings leave nothing to remember; `load` and `dump` are not
            called then.
    """

    remembers: bool = True

    @abstractmethod
    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features that leave the service; see `Defense.answer`."""

    @abstractmethod
    def load(self, account: str, memory: bytes | None) -> None:
        """Replace the state of one account.

        Args:
            account: whose state.
            memory: what `dump` returned, or None for an account that never asked.
        """

    @abstractmethod
    def dump(self, account: str) -> bytes:
        """Return the whole state of one account."""


@runtime_checkable
class Private(Protocol):
    """A defense whose answers depend on more than its settings.

    Attributes:
        private: hash of the secret or the file. It is part of the fingerprint, so that answers
            under two secrets are never mixed.
    """

    private: str


@runtime_checkable
class Fitted(Protocol):
    """A defense that was made for one encoder."""

    def check(self, encoder: str) -> None:
        """Refuse to defend another encoder.

        Args:
            encoder: fingerprint of the encoder whose answers are defended.

        Raises:
            stealing.errors.ConfigError: the defense was made for another encoder.
        """


class Chain:
    """Defenses that are applied in the order of the configuration; an empty chain defends nothing.

    Args:
        defenses: by name.

    Raises:
        ConfigError: a defense has `load` and `dump` and is no `StatefulDefense`.
    """

    def __init__(self, defenses: Mapping[str, Defense]) -> None:
        self.defenses = dict(defenses)
        self._stateful = dict[str, StatefulDefense]()
        for name, defense in self.defenses.items():
            if isinstance(defense, StatefulDefense):
                if defense.remembers:
                    self._stateful[name] = defense
            elif hasattr(defense, "load") and hasattr(defense, "dump"):
                # its state would be lost between two requests, and no error would show it
                raise ConfigError(
                    f"defense.{name} has load and dump, but is not a StatefulDefense: derive "
                    f"{type(defense).__name__} from stealing.defenses.chain.StatefulDefense."
                )

    @property
    def remembers(self) -> bool:
        """True if an answer depends on the account's earlier questions."""
        return bool(self._stateful)

    @property
    def private(self) -> dict[str, str]:
        """Hashes of secrets and files by the name of the defense; see `Private`."""
        hashes = dict[str, str]()
        for name, defense in self.defenses.items():
            if isinstance(defense, Private):
                hashes[name] = defense.private
        return hashes

    def check(self, encoder: str) -> None:
        """Refuse to defend an encoder that a defense was not made for; see `Fitted`."""
        for defense in self.defenses.values():
            if isinstance(defense, Fitted):
                defense.check(encoder)

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features after all defenses; each gets what the one before it returned."""
        for defense in self.defenses.values():
            features_BD = defense.answer(features_BD, asked)
        return features_BD

    def settle(
        self, features_BD: Tensor, asked: QueryBatch, memory: bytes | None
    ) -> tuple[Tensor, bytes]:
        """Return the answer and the account's state after it, given the state before it."""
        self.load(asked.account, memory)
        answer = self.answer(features_BD, asked)
        return answer, self.dump(asked.account)

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace the state of one account in every stateful defense.

        Args:
            account: whose state.
            memory: what `dump` returned; empty or None for an account that never asked.
        """
        parts: dict[str, str] = json.loads(memory) if memory else {}
        for name, defense in self._stateful.items():
            part = parts.get(name)  # absent if the defense was added to the chain later
            defense.load(account, None if part is None else base64.b64decode(part))

    def dump(self, account: str) -> bytes:
        """Return the state of one account; empty if no defense remembers."""
        if not self._stateful:
            return b""
        parts = dict[str, str]()
        for name, defense in self._stateful.items():
            parts[name] = base64.b64encode(defense.dump(account)).decode()
        return json.dumps(parts).encode()


def cost(
    chain: Chain, features_BD: Tensor, asked: QueryBatch, repeats: int = 5
) -> dict[str, float]:
    """Measure what a chain costs its owner.

    Args:
        chain: asked as a new account, again and again.
        features_BD: undefended answers.
        asked: the images that they belong to.
        repeats: measurements. The fastest counts, because other load only adds time.

    Returns:
        `milliseconds` an answer, and `bytes` of state that the account has after this request.
    """
    fastest = float("inf")
    memory = b""
    for _ in range(repeats):
        start = time.perf_counter()
        _, memory = chain.settle(features_BD, asked, None)
        fastest = min(fastest, time.perf_counter() - start)
    return {"milliseconds": 1000 * fastest / len(features_BD), "bytes": float(len(memory))}
