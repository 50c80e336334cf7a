"""What a service does to its answers: features and who asked for them in, the features that leave the service out.

Shape letters: B images asked, D feature width.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """What a defense may look at.

    Attributes:
        account: who asks, such as `attacker/0` or `honest/cifar10`.
        digests: one content hash an image, so that the same image can get the same answer.
        images: uint8 (B, 3, H, W).
    """

    account: str
    digests: list[bytes]
    images: Tensor


class Defense(Protocol):
    """One way to make answers less useful to a thief; may raise `stealing.errors.Refused`.

    What it remembers is of one account alone, and is kept by whoever keeps the answers, in the same transaction: `load`
    comes before an answer and `dump` after it.
    """

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """The features that leave the service, one row an image."""

    def load(self, account: str, memory: bytes | None) -> None:
        """Know of this account what was dumped, or nothing yet."""

    def dump(self, account: str) -> bytes:
        """All that is known of this account; empty for a defense that remembers nothing."""


class Chain:
    """Defenses in the order of their names' appearance in the configuration; none of them is no defense.

    Args:
        defenses: by name.
    """

    def __init__(self, defenses: Mapping[str, Defense]) -> None:
        self.defenses = dict(defenses)

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """Each defense sees what the one before it let through."""
        for defense in self.defenses.values():
            features_BD = defense.answer(features_BD, asked)
        return features_BD

    def load(self, account: str, memory: bytes | None) -> None:
        """See `Defense`."""
        parts: dict[str, str] = json.loads(memory) if memory else {}
        for name, defense in self.defenses.items():
            defense.load(account, base64.b64decode(parts[name]) if name in parts else None)

    def dump(self, account: str) -> bytes:
        """See `Defense`."""
        parts = {name: base64.b64encode(defense.dump(account)).decode() for name, defense in self.defenses.items()}
        return json.dumps(parts).encode() if any(parts.values()) else b""
