"""Randomness that a service can repeat and nobody else can guess: a secret and what it is for in, numbers out.

Shape letters: B rows, D numbers a row.
"""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stealing.errors import ConfigError

Purpose = tuple[str | bytes | int, ...]
"""What numbers are for: others for each."""

PUBLIC = b"a public key: fit for measuring, not for serving"


class Secret:
    """A key that is read from the environment, so that no configuration and no result holds it.

    Args:
        variable: name of the environment variable; None for a key that everybody knows, which is fit for measuring.

    Raises:
        ConfigError: the variable is not set.
    """

    def __init__(self, variable: str | None) -> None:
        if variable is not None and not os.environ.get(variable):
            raise ConfigError(f"A defense takes its secret from ${variable}, which is empty: export it.")
        content = PUBLIC if variable is None else os.environ[variable].encode()
        self._key = hashlib.blake2b(content, digest_size=32).digest()

    @property
    def hash(self) -> str:
        """Tells two secrets apart and neither of them."""
        return hashlib.blake2b(b"fingerprint", key=self._key, digest_size=8).hexdigest()

    def generator(self, *purpose: str | bytes | int) -> np.random.Generator:
        """Numbers that are a function of the secret and the purpose."""
        parts = [part if isinstance(part, bytes) else str(part).encode() for part in purpose]
        text = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        seed = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(seed, "little")))

    def normal(self, rows: Sequence[Purpose], width: int) -> Tensor:
        """Standard normal (B, D), float32, each row a function of its own purpose alone."""
        return torch.from_numpy(np.stack([self.generator(*row).standard_normal(width, np.float32) for row in rows]))

    def laplace(self, rows: Sequence[Purpose], width: int) -> Tensor:
        """Laplace of variance 1 (B, D), float32, each row a function of its own purpose alone."""
        drawn = [self.generator(*row).laplace(0.0, 0.5**0.5, width) for row in rows]
        return torch.from_numpy(np.stack(drawn).astype(np.float32))
