"""Weighted nearest neighbours: features and labels in, predictions out, without any training.

Shape letters: N labelled rows, M rows to classify, D feature width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1000
"""Rows that are classified at once; this bounds the memory for (BLOCK, N) similarities."""


def knn_predict(
    bank_ND: Tensor,
    labels_N: Tensor,
    queries_MD: Tensor,
    *,
    classes: int,
    k: int,
    temperature: float,
) -> Tensor:
    """Classify each row by its k nearest labelled rows, weighted by exp(cosine / temperature).

    Args:
        bank_ND: features with labels, (N, D); L2-normalised here.
        labels_N: int64 in [0, classes).
        queries_MD: features to classify, (M, D); L2-normalised here.
        classes: number of classes K.
        k: number of neighbours; at most N are used.
        temperature: > 0; with a smaller one the nearest neighbours count for more.

    Returns:
        Predictions, int64 (M,).

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4. RDA and BadEncoder monitor by it too.
    """
    bank = F.normalize(bank_ND.float(), dim=1)
    predictions = torch.empty(len(queries_MD), dtype=torch.int64, device=queries_MD.device)
    for start in range(0, len(queries_MD), BLOCK):
        block = F.normalize(queries_MD[start : start + BLOCK].float(), dim=1)
        similarity, nearest = (block @ bank.T).topk(min(k, len(bank)))
        # Minus 1 is a common factor of all weights. It keeps the greatest weight at most 1.
        weights = ((similarity - 1) / temperature).exp()
        scores = weights.new_zeros(len(block), classes)
        scores.scatter_add_(1, labels_N[nearest], weights)
        predictions[start : start + BLOCK] = scores.argmax(1)
    return predictions
