"""Distances between surrogate features and the target's answers: a batch of each in, a scalar out.

Shape letters: B images in the batch, D feature width. All are computed in float32, with gradient to the surrogate only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def l2(surrogate_BD: Tensor, target_BD: Tensor, *, reduction: str) -> Tensor:
    """Un-squared Euclidean distance between L2-normalised rows: 0 where they point the same way, 2 where opposite.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; normalised here.
        target_BD: banked answers to the same images, (B, D); normalised here.
        reduction: `sum` over the batch, as the released code has it, or `mean`.

    Source: StolenEncoder (arXiv:2201.05889); models/surrogate_model.py at a9447c4.
    """
    rows_B: Tensor = torch.linalg.vector_norm(F.normalize(surrogate_BD.float()) - F.normalize(target_BD.float()), dim=1)
    return rows_B.sum() if reduction == "sum" else rows_B.mean()


def mse(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error over all B x D entries, of the features as they are.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient.
        target_BD: banked answers to the same images, (B, D).

    Source: the conventional attack of Cont-Steal (arXiv:2201.07513); normal_steal.py at 49233dd.
    """
    return F.mse_loss(surrogate_BD.float(), target_BD.float())
