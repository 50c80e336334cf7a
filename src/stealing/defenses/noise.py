"""Answers with noise: the same for the same image, or fresh each time, which an attacker averages away.

Shape letters: B images, D feature width.
"""

import torch
from torch import Tensor

from stealing.defenses.chain import Asked
from stealing.defenses.keyed import Purpose, Secret
from stealing.errors import ConfigError

KINDS = ("gaussian", "laplace")


class _Source:
    """Rows of noise by content, or by how often an account has asked.

    Args:
        use: which noise of an image it is, so that two defenses in a chain do not add the same.
        kind, fresh, secret: see `Noise`.
    """

    def __init__(self, use: str, kind: str, fresh: bool, secret: str | None) -> None:
        if kind not in KINDS:
            raise ConfigError(f"A noise of kind={kind} is none of {', '.join(KINDS)}: choose one.")
        self.use, self.kind, self.fresh, self.secret = use, kind, fresh, Secret(secret)
        self.answered: dict[str, int] = {}

    def rows(self, asked: Asked, width: int) -> Tensor:
        """Noise (B, D) of variance 1."""
        if self.fresh:
            first = self.answered.get(asked.account, 0)
            self.answered[asked.account] = first + len(asked.digests)
            names: list[Purpose] = [(f"fresh{self.use}", asked.account, first + i) for i in range(len(asked.digests))]
        else:
            # without the account: several get the same noise
            names = [(f"content{self.use}", digest) for digest in asked.digests]
        draw = self.secret.normal if self.kind == "gaussian" else self.secret.laplace
        return draw(names, width)

    def load(self, account: str, memory: bytes | None) -> None:
        self.answered[account] = int.from_bytes(memory, "little") if memory else 0

    def dump(self, account: str) -> bytes:
        return self.answered.get(account, 0).to_bytes(8, "little")


class Noise:
    """Adds independent noise of one deviation to every number.

    Args:
        sigma: standard deviation, in the features' own unit; 0 for none.
        kind: `gaussian` or `laplace`.
        fresh: other noise each time, instead of the same for the same image.
        secret: environment variable with the key of the noise, or None for a public key.

    Source: the static noise that B4B is compared with (arXiv:2310.08571, table 6), there of sigma 0.1 to 10.
    """

    def __init__(self, sigma: float, kind: str, fresh: bool, secret: str | None) -> None:
        if sigma < 0:
            raise ConfigError(f"defense.noise.sigma={sigma} is negative: set it to 0 or more.")
        self.sigma, self._source = sigma, _Source("", kind, fresh, secret)
        self.private, self.remembers = self._source.secret.hash, fresh
        self.load, self.dump = self._source.load, self._source.dump

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D)."""
        return features_BD + self.sigma * self._source.rows(asked, features_BD.shape[1])


class CosineNoise:
    """Turns each answer by the same angle in a random direction, and keeps its length.

    Args:
        cosine: between the true and the given answer, in (0, 1]; 1 for no noise.
        fresh: another direction each time, instead of the same for the same image.
        secret: environment variable with the key of the noise, or None for a public key.
    """

    def __init__(self, cosine: float, fresh: bool, secret: str | None) -> None:
        if not 0 < cosine <= 1:
            raise ConfigError(f"defense.cosine.cosine={cosine} is not in (0, 1]: set it there.")
        self.cosine, self._source = cosine, _Source(" of an angle", "gaussian", fresh, secret)
        self.private, self.remembers = self._source.secret.hash, fresh
        self.load, self.dump = self._source.load, self._source.dump

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D) at exactly this cosine; a zero answer stays zero."""
        if self.cosine == 1:
            return features_BD
        across = orthogonal(self._source.rows(asked, features_BD.shape[1]), features_BD)
        sine = (1 - self.cosine**2) ** 0.5
        turned: Tensor = (self.cosine * features_BD + sine * across).to(features_BD.dtype)
        return turned


def orthogonal(drawn_BD: Tensor, features_BD: Tensor) -> Tensor:
    """Of each drawn row, the part at right angles to the features, made as long as they are; float32 (B, D)."""
    length = torch.linalg.vector_norm(features_BD.double(), dim=1, keepdim=True)
    unit = features_BD.double() / length.clamp(min=1e-300)
    rest = drawn_BD.double() - (drawn_BD.double() * unit).sum(1, keepdim=True) * unit
    across: Tensor = (rest / torch.linalg.vector_norm(rest, dim=1, keepdim=True).clamp(min=1e-300) * length).float()
    return across
