"""How similar two encoders are without labels: features of the same images in, four figures out.

Shape letters: N images, D target width, E surrogate width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.regression import cosine_similarity

from stealing.data.sampling import generator


def fidelity(
    target_ND: Tensor,
    mapped_ND: Tensor,
    surrogate_NE: Tensor,
) -> dict[str, float]:
    """Compare features of the same N images.

    Args:
        target_ND: the target's features.
        mapped_ND: the surrogate's features in the target's space, through the adapter.
        surrogate_NE: the surrogate's own features.

    Returns:
        `cosine`: mean over images of the cosine similarity of target and mapped surrogate.
        `cosine_centred`: the same after the mean feature of each encoder is subtracted.
        `cosine_shuffled`: the same between different images. A high cosine means little if this
        is high too: features of rectified networks all point into the same orthant.
        `cka`: linear centred kernel alignment of target and surrogate, without the adapter.
        A cosine is left out if a defense changed the width of the answers, and any figure if it is
        not defined, as for vectors that are zero.
    """
    figures: dict[str, float] = {}
    if mapped_ND.shape == target_ND.shape:
        order = torch.randperm(len(mapped_ND), generator=generator("fidelity shuffle"))
        target_centred = target_ND - target_ND.mean(0)
        mapped_centred = mapped_ND - mapped_ND.mean(0)
        figures["cosine"] = _mean_cosine(target_ND, mapped_ND)
        figures["cosine_centred"] = _mean_cosine(target_centred, mapped_centred)
        figures["cosine_shuffled"] = _mean_cosine(target_ND, mapped_ND[order])
    figures["cka"] = cka(target_ND, surrogate_NE)
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def cka(first_ND: Tensor, second_NE: Tensor) -> float:
    """Return linear CKA, in [0, 1]; 1 for features that are equal up to rotation and scale.

    Source: Kornblith et al. 2019 (arXiv:1905.00414), equation 3 and section 3.
    """
    first = _centred(first_ND)
    second = _centred(second_NE)
    shared = torch.linalg.matrix_norm(second.T @ first).square()
    first_norm = torch.linalg.matrix_norm(first.T @ first)
    second_norm = torch.linalg.matrix_norm(second.T @ second)
    return float(shared / (first_norm * second_norm))


def _centred(features_ND: Tensor) -> Tensor:
    """Subtract the mean and divide by the norm of the whole matrix, in float32."""
    centred = (features_ND - features_ND.mean(0)).float()
    # CKA does not depend on the scale. At norm 1, products of large features do not overflow.
    return F.normalize(centred.flatten(), dim=0).view_as(features_ND)


def _mean_cosine(first_ND: Tensor, second_ND: Tensor) -> float:
    return float(cosine_similarity(first_ND.float(), second_ND.float(), reduction="mean"))
