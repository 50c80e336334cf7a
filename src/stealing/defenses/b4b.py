"""Bucks for Buckets: who sees much of the feature space gets noisy answers, and each account its own representation.

Shape letters: B images, D feature width.
"""

import math

import numpy as np
import torch
from torch import Tensor

from stealing.defenses.chain import Asked
from stealing.defenses.coverage import Coverage
from stealing.defenses.keyed import Secret
from stealing.errors import ConfigError

LOUD = 1e6
"""Greatest deviation of the noise: the cost has no bound, and numbers have."""

KINDS = ("affine", "pad", "shuffle", "binary")


def sigma(coverage: float, *, lambda_: float, alpha: float, beta: float) -> float:
    """Deviation of the noise at a coverage: lambda (exp(ln(alpha / lambda) coverage / beta) - 1).

    Almost nothing for long, then alpha - lambda at `beta`, and without bound beyond.

    Args:
        coverage: in [0, 1].
        lambda_: how flat the beginning is; below alpha.
        alpha: the deviation at which answers are to be useless, in the features' own unit.
        beta: the coverage from which on they are.

    Source: B4B (arXiv:2310.08571), equation 1; 1e-6, 1 and 0.8 for SimSiam.
    """
    return lambda_ * math.expm1(min(math.log(alpha / lambda_) * coverage / beta, 200.0))


class B4B:
    """Noise that grows with what the account has seen.

    Coverage is taken after each image, in the order of asking, so it does not matter how images were cut into requests.
    An image that is asked about again at once meets the same noise; once the account has seen more, independent noise,
    as two answers with one noise at two strengths would give the true one away.

    Args:
        lambda_, alpha, beta: see `sigma`.
        planes, tables: see `Coverage`.
        secret: environment variable with the key of planes and noise, or None for a public key.

    Source: B4B (arXiv:2310.08571), section 3; stapaw/b4b-active-encoder-defense at 6e29f88.
    Departure: coverage online, where the released code computes it beforehand and replays it each epoch; noise by
    content and coverage, where it draws anew for each answer.
    """

    remembers = True

    def __init__(self, lambda_: float, alpha: float, beta: float, planes: int, tables: int, secret: str | None) -> None:
        if not (0 < lambda_ <= alpha and beta > 0 and planes > 0 and tables > 0):
            raise ConfigError("defense.b4b needs 0 < lambda_ <= alpha and beta, planes, tables > 0: set them so.")
        self.settings = {"lambda_": lambda_, "alpha": alpha, "beta": beta}
        self._secret = Secret(secret)
        self.private, self.coverage = self._secret.hash, Coverage(planes, tables, self._secret)
        self.load, self.dump = self.coverage.load, self.coverage.dump

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D)."""
        seen = self.coverage.after(asked.account, features_BD)
        loud = np.minimum([sigma(float(share), **self.settings) for share in seen], LOUD)
        names = [("noise", digest, str(share)) for digest, share in zip(asked.digests, seen.tolist(), strict=True)]
        noise = self._secret.normal(names, features_BD.shape[1])
        return features_BD + torch.from_numpy(loud)[:, None].float() * noise


class Transform:
    """A representation of each account's own, so that what several accounts were told does not fit together.

    Args:
        kinds: in their order, of `affine` (each number by a factor and plus a shift of its own, both uniform in
            [-1, 1]), `pad` (as many fixed numbers behind), `shuffle`, and `binary` (the sides of twice as many random
            hyperplanes).
        secret: environment variable with the key of the transforms, or None for a public key.

    Source: B4B (arXiv:2310.08571), section 3.3; kinds as in its code at 6e29f88.
    """

    def __init__(self, kinds: list[str], secret: str | None) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError(f"A transform of kind {kind} is none of {', '.join(KINDS)}: choose of them.")
        self.kinds, self._secret = kinds, Secret(secret)
        self.private = self._secret.hash

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D), or (B, 2 D) after each `pad` and each `binary`."""
        for place, kind in enumerate(self.kinds):
            features_BD = self._applied(kind, features_BD, self._secret.generator("transform", asked.account, place))
        return features_BD

    def _applied(self, kind: str, features_BD: Tensor, drawn: np.random.Generator) -> Tensor:
        width = features_BD.shape[1]
        if kind == "affine":
            factors_2D = torch.from_numpy(drawn.uniform(-1, 1, (2, width)).astype(np.float32))
            return features_BD * factors_2D[0] + factors_2D[1]
        if kind == "pad":
            fixed = torch.from_numpy(drawn.standard_normal(width, np.float32))
            return torch.cat([features_BD, fixed.expand(len(features_BD), -1)], 1)
        if kind == "shuffle":
            return features_BD[:, torch.from_numpy(drawn.permutation(width))]
        planes = torch.from_numpy(drawn.standard_normal((width, 2 * width)))
        sides: Tensor = features_BD.double() @ planes > 0
        return sides.float()
