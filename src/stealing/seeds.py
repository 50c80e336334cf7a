"""Seeds of their own for every purpose: a seed and a purpose in, another seed out.

An attacker cannot know the numbers that a target began with. So the weights, batches and views of
target, surrogate and control come from different seeds, even if a user gives all of them seed 0.
"""

import hashlib
from typing import Literal

Owner = Literal["target", "surrogate", "control"]
"""What is trained. Each owner has a seed of its own, from which all its randomness derives."""

Part = Literal["encoder", "head", "adapter"]
"""What has initial weights: the encoder, SimCLR's projection head, the map between two widths."""


def derive_seed(*key: int | str) -> int:
    """Return 63 bits that are a pure function of the key; different keys give unrelated numbers."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def owner_seed(seed: int, owner: Owner) -> int:
    """Return the seed of one owner: of its batches and views, and of its weights by `weights_seed`."""
    return derive_seed(seed, "owner", owner)


def weights_seed(seed: int, owner: Owner, part: Part = "encoder") -> int:
    """Return the seed of the initial weights of one part of an owner."""
    return derive_seed(owner_seed(seed, owner), "weights", part)
