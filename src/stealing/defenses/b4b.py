"""Bucks for Buckets (B4B): features and account in, noisy features in the account's own space out.

The noise grows with the share of the feature space that the account has seen.

Shape letters: B images, D feature width.
"""

import math

import numpy as np
import torch
from torch import Tensor

from stealing.defenses.chain import QueryBatch, StatefulDefense
from stealing.defenses.coverage import Coverage
from stealing.defenses.keyed import Purpose, Secret
from stealing.errors import ConfigError
from stealing.numbers import LEAST, check_integer, check_number

MAX_SIGMA = 1e6
"""Greatest deviation of the noise: the formula has no bound, and float32 has one."""

LEAST_LAMBDA = 1e-100
"""Smallest lambda: alpha / lambda has to be a finite number."""

MOST_PLANES = 20
MOST_TABLES = 1000
"""Each account has a bit for each of 2^planes buckets in each table: 125 MB of these."""

KINDS = ("affine", "pad", "shuffle", "binary")


def sigma(coverage: float, *, lambda_: float, alpha: float, beta: float) -> float:
    """Return the deviation of the noise at a coverage.

    It is lambda (exp(ln(alpha / lambda) coverage / beta) - 1). It stays near zero for long, reaches
    alpha - lambda at `beta`, and then grows without bound.

    Args:
        coverage: in [0, 1].
        lambda_: how flat the beginning is; below alpha.
        alpha: the deviation at which answers are useless, in the features' own unit.
        beta: the coverage at which that is reached.

    Source: B4B (arXiv:2310.08571), equation 1; 1e-6, 1 and 0.8 for SimSiam.
    """
    exponent = math.log(alpha / lambda_) * coverage / beta
    return lambda_ * math.expm1(min(exponent, 200.0))  # exp overflows a float beyond 709


class B4B(StatefulDefense):
    """Noise that grows with what the account has seen.

    Coverage is measured after each image, in the order of asking, so that it does not depend on
    how images were cut into requests. An image that is asked about again at once gets the same
    noise. Once the account has seen more, it gets independent noise, because two answers with one
    noise at two strengths would reveal the true answer.

    Args:
        lambda_: how flat the noise begins; above 0 and at most alpha.
        alpha: deviation of the noise at the coverage `beta`, in the features' own unit.
        beta: coverage at which the noise reaches alpha, above 0.
        planes: random hyperplanes that cut the space into buckets, for each table.
        tables: ways to cut the space; coverage is their mean.
        secret: environment variable with the key of planes and noise, or None for a public key.

    Raises:
        ConfigError: a setting is out of range.

    Source: B4B (arXiv:2310.08571), section 3; stapaw/b4b-active-encoder-defense at 6e29f88.
    Departure: coverage is measured online, while the released code computes it beforehand and
    replays it each epoch; noise depends on content and coverage, while that code draws anew for
    each answer.
    """

    def __init__(
        self,
        lambda_: float,
        alpha: float,
        beta: float,
        planes: int,
        tables: int,
        secret: str | None,
    ) -> None:
        check_number("defense.b4b.alpha", alpha, LEAST_LAMBDA)
        check_number("defense.b4b.lambda_", lambda_, LEAST_LAMBDA, alpha)
        check_number("defense.b4b.beta", beta, LEAST)
        check_integer("defense.b4b.planes", planes, 1, MOST_PLANES)
        check_integer("defense.b4b.tables", tables, 1, MOST_TABLES)
        self.settings = {"lambda_": lambda_, "alpha": alpha, "beta": beta}
        self._secret = Secret(secret)
        self.private = self._secret.hash
        self.coverage = Coverage(planes, tables, self._secret)

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features with noise, (B, D)."""
        coverage_B = self.coverage.after(asked.account, features_BD).tolist()
        sigmas = list[float]()
        purposes = list[Purpose]()
        for digest, share in zip(asked.digests, coverage_B, strict=True):
            sigmas.append(min(sigma(share, **self.settings), MAX_SIGMA))
            purposes.append(("noise", digest, str(share)))
        sigma_B1 = torch.tensor(sigmas, dtype=torch.float64).float()[:, None]
        noise_BD = self._secret.normal(purposes, features_BD.shape[1])
        return features_BD + sigma_B1 * noise_BD

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace the coverage of one account."""
        self.coverage.load(account, memory)

    def dump(self, account: str) -> bytes:
        """Return the coverage of one account."""
        return self.coverage.dump(account)


class Transform:
    """A space of each account's own, so that answers to several accounts cannot be combined.

    Args:
        kinds: in their order, of `affine` (each number times a factor plus a shift, both uniform
            in [-1, 1]), `pad` (as many fixed numbers appended), `shuffle`, and `binary` (on which
            side of twice as many random hyperplanes the answer lies).
        secret: environment variable with the key of the transforms, or None for a public key.

    Raises:
        ConfigError: a kind is unknown.

    Source: B4B (arXiv:2310.08571), section 3.3; kinds as in its code at 6e29f88.
    """

    def __init__(self, kinds: list[str], secret: str | None) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f"defense.transform.kinds has {kind}, which is not known: choose from "
                    f"{', '.join(KINDS)}."
                )
        self.kinds = kinds
        self._secret = Secret(secret)
        self.private = self._secret.hash

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the transformed features, (B, D); `pad` and `binary` double the width."""
        for place, kind in enumerate(self.kinds):
            draws = self._secret.generator("transform", asked.account, place)
            features_BD = _transform(kind, features_BD, draws)
        return features_BD


def _transform(kind: str, features_BD: Tensor, draws: np.random.Generator) -> Tensor:
    """Apply one transform whose parameters come from a generator."""
    width = features_BD.shape[1]
    if kind == "affine":
        drawn_2D = draws.uniform(-1, 1, (2, width)).astype(np.float32)
        factors_2D = torch.from_numpy(drawn_2D)
        return features_BD * factors_2D[0] + factors_2D[1]
    if kind == "pad":
        padding_D = torch.from_numpy(draws.standard_normal(width, np.float32))
        padding_BD = padding_D.expand(len(features_BD), -1)
        return torch.cat([features_BD, padding_BD], 1)
    if kind == "shuffle":
        order_D = torch.from_numpy(draws.permutation(width))
        return features_BD[:, order_D]
    planes = torch.from_numpy(draws.standard_normal((width, 2 * width)))
    sides: Tensor = features_BD.double() @ planes > 0
    return sides.float()
