"""Shortened answers: features in; their largest numbers, fewer decimals or directions out.

Shape letters: B images, D feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.defenses.chain import QueryBatch
from stealing.errors import ConfigError
from stealing.numbers import check_integer

ORDERS = ("value", "magnitude")

MOST_DECIMALS = 30
"""Beyond, in either direction, rounding changes nothing or everything."""


class TopK:
    """Keeps the k largest numbers of each answer and sets the others to zero.

    Args:
        k: numbers to keep; with k >= D, nothing is lost.
        by: `value`, or `magnitude`, which keeps large negative numbers too.

    Raises:
        ConfigError: a setting is out of range.

    Source: top-k features of StolenEncoder (arXiv:2201.05889); its parameters could not be read.
    RDA's code keeps 5 of an L2-normalised answer (ShuchiWu/RDA at 85e285b): here
    `defense=[unit,topk]`.
    """

    def __init__(self, k: int, by: str) -> None:
        check_integer("defense.topk.k", k, 1)
        if by not in ORDERS:
            raise ConfigError(
                f"defense.topk.by={by} is not one of {', '.join(ORDERS)}: choose one."
            )
        self.k = k
        self.by = by

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features with at most k numbers a row that are not zero, (B, D)."""
        size_BD = features_BD if self.by == "value" else features_BD.abs()
        places_BK = size_BD.topk(min(self.k, features_BD.shape[1]), dim=1).indices
        values_BK = features_BD.gather(1, places_BK)
        return torch.zeros_like(features_BD).scatter(1, places_BK, values_BK)


class Rounding:
    """Rounds each number to a number of decimals.

    Args:
        decimals: negative ones round to tens and hundreds. None leaves the answer as it is, and so
            does a number beyond the precision of float32.

    Raises:
        ConfigError: a setting is out of range.

    Source: feature rounding of StolenEncoder (arXiv:2201.05889); its parameters could not be read.
    RDA's code rounds an L2-normalised answer to 1 decimal (ShuchiWu/RDA at 85e285b): here
    `defense=[unit,rounding]`.
    """

    def __init__(self, decimals: int | None) -> None:
        if decimals is not None:
            check_integer("defense.rounding.decimals", decimals, -MOST_DECIMALS, MOST_DECIMALS)
        self.decimals = decimals

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the rounded features, (B, D); each number moves by at most half a step."""
        if self.decimals is None:
            return features_BD
        scale = 10.0**self.decimals
        # in float64, as the scaled number would lose its last digits in float32
        rounded_BD = (features_BD.double() * scale).round() / scale
        return rounded_BD.to(features_BD.dtype)


class Unit:
    """Scales each answer to length 1; its place in `defense=[...]` decides before which defense."""

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return features of length 1, (B, D); an answer of zeros stays zero."""
        return F.normalize(features_BD.double(), dim=1).to(features_BD.dtype)
