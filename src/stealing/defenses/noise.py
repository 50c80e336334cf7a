"""Noise on answers: features in, features with noise out.

An image gets the same noise each time, or fresh noise. An attacker who repeats a query averages
fresh noise away.

Shape letters: B images, D feature width.
"""

from torch import Tensor
from torch.linalg import vector_norm

from stealing.defenses.chain import QueryBatch, StatefulDefense
from stealing.defenses.keyed import Purpose, Secret
from stealing.errors import ConfigError
from stealing.numbers import LEAST, check_number

KINDS = ("gaussian", "laplace")


class _NoiseRows:
    """Rows of noise by image content, or, if fresh, by how many images the account asked about.

    Args:
        use: which noise of an image it is, so that two defenses in a chain do not add the same.
        kind, fresh, secret: see `Noise`.
    """

    def __init__(self, use: str, kind: str, fresh: bool, secret: str | None) -> None:
        if kind not in KINDS:
            raise ConfigError(
                f"A noise of kind={kind} is not one of {', '.join(KINDS)}: choose one."
            )
        self.use = use
        self.kind = kind
        self.fresh = fresh
        self.secret = Secret(secret)
        self.answered: dict[str, int] = {}  # images by account

    def draw(self, asked: QueryBatch, width: int) -> Tensor:
        """Return noise (B, D) of variance 1."""
        purposes = list[Purpose]()
        if self.fresh:
            first = self.answered.get(asked.account, 0)
            for place in range(len(asked.digests)):
                purposes.append((f"fresh{self.use}", asked.account, first + place))
            self.answered[asked.account] = first + len(asked.digests)
        else:
            # without the account: several accounts get the same noise and cannot average it away
            for digest in asked.digests:
                purposes.append((f"content{self.use}", digest))
        if self.kind == "gaussian":
            return self.secret.normal(purposes, width)
        return self.secret.laplace(purposes, width)

    def load(self, account: str, memory: bytes | None) -> None:
        self.answered[account] = int.from_bytes(memory, "little") if memory else 0

    def dump(self, account: str) -> bytes:
        return self.answered.get(account, 0).to_bytes(8, "little")


class Noise(StatefulDefense):
    """Adds independent noise of one deviation to every number.

    Args:
        sigma: standard deviation, in the features' own unit; 0 for none.
        kind: `gaussian` or `laplace`.
        fresh: True for new noise each time, False for the same noise for the same image.
        secret: environment variable with the key of the noise, or None for a public key.

    Raises:
        ConfigError: a setting is out of range.

    Source: the static noise that B4B is compared with (arXiv:2310.08571, table 6), there of sigma
    0.1 to 10.
    """

    def __init__(
        self,
        sigma: float,
        kind: str,
        fresh: bool,
        secret: str | None,
    ) -> None:
        check_number("defense.noise.sigma", sigma)
        self.sigma = sigma
        self.remembers = fresh  # noise by content needs no state
        self._rows = _NoiseRows("", kind, fresh, secret)
        self.private = self._rows.secret.hash

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features with noise, (B, D)."""
        noise_BD = self._rows.draw(asked, features_BD.shape[1])
        return features_BD + self.sigma * noise_BD

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace the count of images that the account asked about."""
        self._rows.load(account, memory)

    def dump(self, account: str) -> bytes:
        """Return the count of images that the account asked about, 8 bytes."""
        return self._rows.dump(account)


class CosineNoise(StatefulDefense):
    """Turns each answer by the same angle in a random direction, and keeps its length.

    Args:
        cosine: between the true and the given answer, 1e-6 to 1; 1 for no noise.
        fresh: True for a new direction each time, False for the same one for the same image.
        secret: environment variable with the key of the noise, or None for a public key.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        cosine: float,
        fresh: bool,
        secret: str | None,
    ) -> None:
        check_number("defense.cosine.cosine", cosine, LEAST, 1)
        self.cosine = cosine
        self.remembers = fresh  # noise by content needs no state
        self._rows = _NoiseRows(" of an angle", "gaussian", fresh, secret)
        self.private = self._rows.secret.hash

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features at exactly this cosine, (B, D); a zero answer stays zero."""
        if self.cosine == 1:
            return features_BD
        drawn_BD = self._rows.draw(asked, features_BD.shape[1])
        across_BD = orthogonal(drawn_BD, features_BD)
        sine = (1 - self.cosine**2) ** 0.5
        turned_BD: Tensor = self.cosine * features_BD + sine * across_BD
        return turned_BD.to(features_BD.dtype)

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace the count of images that the account asked about."""
        self._rows.load(account, memory)

    def dump(self, account: str) -> bytes:
        """Return the count of images that the account asked about, 8 bytes."""
        return self._rows.dump(account)


def orthogonal(drawn_BD: Tensor, features_BD: Tensor) -> Tensor:
    """Return the part of each drawn row at right angles to the features, float32 (B, D).

    It is scaled to the length of the features.
    """
    drawn_BD = drawn_BD.double()
    features_BD = features_BD.double()
    length_B1 = vector_norm(features_BD, dim=1, keepdim=True)
    unit_BD = features_BD / length_B1.clamp(min=1e-300)
    along_B1 = (drawn_BD * unit_BD).sum(1, keepdim=True)
    rest_BD = drawn_BD - along_B1 * unit_BD
    rest_length_B1 = vector_norm(rest_BD, dim=1, keepdim=True)
    across_BD: Tensor = rest_BD / rest_length_B1.clamp(min=1e-300) * length_B1
    return across_BD.float()
