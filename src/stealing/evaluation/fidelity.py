"""How alike two encoders see, without labels: features of the same images in, four figures out.

Shape letters: N images, D target width, E surrogate width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.regression import cosine_similarity

from stealing.data.draws import generator


def fidelity(target_ND: Tensor, mapped_ND: Tensor, surrogate_NE: Tensor) -> dict[str, float]:
    """Compare features of the same N images.

    Args:
        target_ND: the target's.
        mapped_ND: the surrogate's in the target's space, through the adapter where the widths differ.
        surrogate_NE: the surrogate's own.

    Returns:
        `cosine`, the mean over images; `cosine_shuffled`, the same between different images, without which a cosine
        means nothing (features of rectified networks all point one way); `cosine_centred`, after each encoder's mean is
        taken off; `cka`, linear centred kernel alignment of the surrogate's own features. The cosines are left out
        where a defense changed the width of the answers, so that there is nothing to compare.
    """
    alike = {"cka": cka(target_ND, surrogate_NE)}
    if mapped_ND.shape != target_ND.shape:
        return alike
    shuffled = mapped_ND[torch.randperm(len(mapped_ND), generator=generator("fidelity shuffle"))]
    return {
        "cosine": _mean_cosine(target_ND, mapped_ND),
        "cosine_centred": _mean_cosine(target_ND - target_ND.mean(0), mapped_ND - mapped_ND.mean(0)),
        "cosine_shuffled": _mean_cosine(target_ND, shuffled),
        **alike,
    }


def cka(first_ND: Tensor, second_NE: Tensor) -> float:
    """Linear CKA in [0, 1]: 1 for features equal up to rotation and scale. Computed in float32 on feature products.

    Source: Kornblith et al. 2019 (arXiv:1905.00414), equation 3 and section 3.
    """
    first, second = (F.normalize((x - x.mean(0)).float().flatten(), dim=0).view_as(x) for x in (first_ND, second_NE))
    shared = torch.linalg.matrix_norm(second.T @ first).square()
    return float(shared / (torch.linalg.matrix_norm(first.T @ first) * torch.linalg.matrix_norm(second.T @ second)))


def _mean_cosine(first_ND: Tensor, second_ND: Tensor) -> float:
    return float(cosine_similarity(first_ND.float(), second_ND.float(), reduction="mean"))
