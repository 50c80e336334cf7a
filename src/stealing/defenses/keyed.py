"""Keyed randomness: a secret and a purpose in, numbers that nobody else can guess out.

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
"""What numbers are for. Different purposes get independent numbers."""

PUBLIC = b"a public key: fit for measuring, not for serving"


class Secret:
    """A key that is read from the environment, so that no configuration and no result holds it.

    Args:
        variable: name of the environment variable. None means a public key, which is good enough
            to measure a defense and not to deploy it.

    Raises:
        ConfigError: the variable is not set.
    """

    def __init__(self, variable: str | None) -> None:
        content = PUBLIC
        if variable is not None:
            text = os.environ.get(variable)
            if not text:
                raise ConfigError(
                    f"A defense takes its secret from ${variable}, which is empty: export it."
                )
            content = text.encode()
        self._key = hashlib.blake2b(content, digest_size=32).digest()

    @property
    def hash(self) -> str:
        """Hash that differs between two secrets and reveals neither."""
        return hashlib.blake2b(b"fingerprint", key=self._key, digest_size=8).hexdigest()

    def generator(self, *purpose: str | bytes | int) -> np.random.Generator:
        """Return a generator whose numbers are a function of the secret and the purpose."""
        text = b""
        for part in purpose:
            content = part if isinstance(part, bytes) else str(part).encode()
            text += len(content).to_bytes(4, "little") + content  # ("ab", "c") is not ("a", "bc")
        seed = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(seed, "little")))

    def normal(self, rows: Sequence[Purpose], width: int) -> Tensor:
        """Draw standard normal numbers, float32 (B, D), each row only by its purpose."""
        draws = [self.generator(*row).standard_normal(width, np.float32) for row in rows]
        return torch.from_numpy(np.stack(draws))

    def laplace(self, rows: Sequence[Purpose], width: int) -> Tensor:
        """Draw Laplace numbers of variance 1, float32 (B, D), each row only by its purpose."""
        scale = 0.5**0.5  # the variance is twice the squared scale
        draws = [self.generator(*row).laplace(0.0, scale, width) for row in rows]
        return torch.from_numpy(np.stack(draws).astype(np.float32))
