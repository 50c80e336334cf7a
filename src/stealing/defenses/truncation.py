"""Answers that say less: the largest numbers alone, or fewer decimals, or directions without lengths.

Shape letters: B images, D feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.defenses.chain import Asked
from stealing.errors import ConfigError

ORDERS = ("value", "magnitude")


class TopK:
    """Keeps the k largest numbers of each answer and sets the others to zero.

    Args:
        k: from D on, nothing is lost.
        by: `value`, or `magnitude`, which keeps large negative numbers too.

    Source: top-k features of StolenEncoder (arXiv:2201.05889); its parameters could not be read. RDA's code keeps 5 of
    an L2-normalised answer (ShuchiWu/RDA at 85e285b): here `defense=[unit,topk]`.
    """

    def __init__(self, k: int, by: str) -> None:
        if k < 1:
            raise ConfigError(f"defense.topk.k={k} keeps nothing: set it to 1 or more.")
        if by not in ORDERS:
            raise ConfigError(f"defense.topk.by={by} is none of {', '.join(ORDERS)}: choose one.")
        self.k, self.by = k, by

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D) with at most k numbers a row that are not zero."""
        size = features_BD if self.by == "value" else features_BD.abs()
        kept = size.topk(min(self.k, features_BD.shape[1]), dim=1).indices
        return torch.zeros_like(features_BD).scatter(1, kept, features_BD.gather(1, kept))


class Rounding:
    """Rounds each number to so many decimals.

    Args:
        decimals: negative ones round to tens and hundreds; None leaves the answer as it is, as does what float32 cannot
            tell apart.

    Source: feature rounding of StolenEncoder (arXiv:2201.05889); its parameters could not be read. RDA's code rounds an
    L2-normalised answer to 1 decimal (ShuchiWu/RDA at 85e285b): here `defense=[unit,rounding]`.
    """

    def __init__(self, decimals: int | None) -> None:
        if decimals is not None and abs(decimals) > 30:
            raise ConfigError(f"defense.rounding.decimals={decimals} rounds nothing or all: set it between -30 and 30.")
        self.decimals = decimals

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D), each number at most half a step away from what it was."""
        if self.decimals is None:
            return features_BD
        scale = 10.0**self.decimals
        return ((features_BD.double() * scale).round() / scale).to(features_BD.dtype)


class Unit:
    """Scales each answer to length 1: before another defense in the chain, or after it, as the order says."""

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D) of length 1, or 0 where the answer is zero."""
        return F.normalize(features_BD.double(), dim=1).to(features_BD.dtype)
