"""Weighted nearest neighbours: features and labels in, predictions out. No training, so no choice can flatter it.

Shape letters: N bank rows, M queries, D feature width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_predict(
    bank_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, *, classes: int, k: int, temperature: float
) -> Tensor:
    """Each query's class, by the k most cosine-similar bank rows, weighted by exp(similarity / temperature).

    Args:
        bank_ND: features with labels, (N, D); L2-normalised here.
        labels_N: int64 in [0, classes).
        queries_MD: features to classify, (M, D); L2-normalised here.
        classes: number of classes K.
        k: neighbours; at most N are used.
        temperature: > 0; smaller lets the nearest decide.

    Returns:
        Predictions, int64 (M,).

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4, as RDA's and BadEncoder's monitors use it.
    """
    bank = F.normalize(bank_ND.float(), dim=1)
    votes = torch.empty(len(queries_MD), dtype=torch.int64, device=queries_MD.device)
    for start in range(0, len(queries_MD), 1000):  # blocks bound the (M, N) similarities
        block = F.normalize(queries_MD[start : start + 1000].float(), dim=1)
        similar, nearest = (block @ bank.T).topk(min(k, len(bank)))
        weights = ((similar - 1) / temperature).exp()  # a common factor: the greatest weight is at most 1
        scores = weights.new_zeros(len(block), classes).scatter_add_(1, labels_N[nearest], weights)
        votes[start : start + 1000] = scores.argmax(1)
    return votes
