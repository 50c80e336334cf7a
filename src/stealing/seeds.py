"""Derive independent seeds: a seed and a purpose in, another seed out.

An attacker cannot know the initial weights of a target. Target, surrogate and control therefore
take weights, batches and views from different seeds, even if a user gives seed 0 to all of them.
"""

import hashlib
from typing import Literal

Owner = Literal["target", "surrogate", "control"]
"""An encoder that is trained. All its randomness derives from a seed of its own."""

Part = Literal["encoder", "head", "adapter", "loss"]
"""A part with initial weights: encoder, projection head of a pre-training, adapter, or a loss."""


def derive_seed(*key: int | str) -> int:
    """Return 63 bits that depend only on the key; different keys give unrelated numbers."""
    # The type is part of the text, so that 1 and "1" are different keys.
    text = "/".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # torch takes seeds below 2**63.
    return int.from_bytes(digest, "little") >> 1


def owner_seed(seed: int, owner: Owner) -> int:
    """Return the seed of an owner's batches and views; `weights_seed` derives others from it."""
    return derive_seed(seed, "owner", owner)


def weights_seed(seed: int, owner: Owner, part: Part = "encoder") -> int:
    """Return the seed of the initial weights of one part of an owner."""
    return derive_seed(owner_seed(seed, owner), "weights", part)
