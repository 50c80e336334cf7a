"""Distances between surrogate features and the target's answers: a batch of each in, a scalar out.

Shape letters: B images in the batch, D feature width. Losses compute in float32. The gradient goes
only to the surrogate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def l2(surrogate_BD: Tensor, target_BD: Tensor, *, reduction: str) -> Tensor:
    """Return the Euclidean distance between L2-normalised rows, not squared.

    A row's distance is 0 if both vectors point the same way, and 2 if they point opposite ways.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; normalised here.
        target_BD: banked answers to the same images, (B, D); normalised here.
        reduction: `sum` over the batch, as in the released code, or `mean`.

    Source: StolenEncoder (arXiv:2201.05889); models/surrogate_model.py at a9447c4.
    """
    # float: under autocast, features may arrive in 16 bits
    surrogate = F.normalize(surrogate_BD.float())
    target = F.normalize(target_BD.float())
    rows_B: Tensor = torch.linalg.vector_norm(surrogate - target, dim=1)
    return rows_B.sum() if reduction == "sum" else rows_B.mean()


def mse(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return the mean squared error over all B x D entries, without normalisation.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient.
        target_BD: banked answers to the same images, (B, D).

    Source: the conventional attack of Cont-Steal (arXiv:2201.07513); normal_steal.py at 49233dd.
    """
    return F.mse_loss(surrogate_BD.float(), target_BD.float())
