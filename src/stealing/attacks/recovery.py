"""Recovery of features from defended answers: an account's answers in, better features out.

Shape letters: N images, S images that both accounts sent, D and E feature widths.
"""

import torch
from torch import Tensor

ROUNDS = 30
"""Rounds of the completion: fit, then fill in. More rounds change little."""

RIDGE = 1e-3
"""Ridge penalty, per image, of the map between two accounts' standardised answers."""

CONSTANT = 1e-6
"""A feature counts as constant if its deviation is below this share of its largest value."""


def completed(answers_ND: Tensor, rank: int) -> Tensor:
    """Fill in the zeros of truncated answers by a matrix of low rank.

    Features of many images have few directions, so a fit of low rank predicts the entries that
    top-k cut off. Each of them lies between the least entry of all answers and the least entry of
    its own row. Both bounds need answers that keep the largest entries by value, or features that
    are never negative.

    Args:
        answers_ND: what top-k features let through.
        rank: of the fit to the centred answers.

    Source: iterated singular value thresholding of a fixed rank ("hard impute"; Mazumder et al.
    2010, section 5).
    """
    is_known = answers_ND != 0
    known_only = answers_ND.masked_fill(~is_known, torch.inf)
    # a row without any known entry has the ceiling 0
    ceiling = known_only.amin(1, keepdim=True).nan_to_num(posinf=0.0)
    floor = answers_ND.min()
    filled = torch.where(is_known, answers_ND, (ceiling + floor) / 2)
    for _ in range(ROUNDS):
        mean = filled.mean(0)
        left, values, right = torch.linalg.svd(filled - mean, full_matrices=False)
        fitted = (left[:, :rank] * values[:rank]) @ right[:rank] + mean
        bounded = torch.minimum(fitted.clamp(min=floor), ceiling)
        filled = torch.where(is_known, answers_ND, bounded)
    return filled


def standardised(answers_ND: Tensor) -> Tensor:
    """Undo an unknown affine map of each feature: the result starts at zero and has unit deviation.

    The long tail of each feature points upwards, as after a ReLU: that fixes the sign of the map.

    Args:
        answers_ND: of one account; the service scaled, turned and shifted each feature.

    Returns:
        (N, D), the same for every such map. Exceptions: the sign of a feature that is equally
        skewed both ways is arbitrary, and a constant feature is zero.
    """
    centred = answers_ND.double() - answers_ND.double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    # an affine map of a constant leaves rounding errors, which must not be scaled up to unit
    # deviation
    varies = deviation > CONSTANT * answers_ND.abs().amax(0)
    scores = torch.where(varies, centred / deviation, 0.0)
    upright = scores * torch.where(scores.pow(3).mean(0) < 0, -1.0, 1.0)
    return (upright - upright.amin(0)).float()


def remapped(source_ND: Tensor, source_shared_SD: Tensor, destination_shared_SE: Tensor) -> Tensor:
    """Map one account's answers into another account's representation.

    The map is linear and is learned on images that both accounts sent.

    Args:
        source_ND: the answers to map.
        source_shared_SD: the same account's answers to the shared images.
        destination_shared_SE: the other account's answers to the shared images.

    Returns:
        (N, E).

    Source: the sybil attack against B4B (arXiv:2310.08571, section 4.4), there 10,000 shared
    queries an account.
    """
    source_mean = source_shared_SD.mean(0)
    destination_mean = destination_shared_SE.mean(0)
    deviation = source_shared_SD.std(0)
    # a feature that is constant on the shared images predicts nothing there, and would be scaled up
    # elsewhere
    varies = deviation > CONSTANT * source_shared_SD.abs().amax(0)
    scale = torch.where(varies, deviation, torch.inf)
    inputs = ((source_shared_SD - source_mean) / scale).double()
    identity = torch.eye(inputs.shape[1], dtype=torch.float64)
    penalised = inputs.T @ inputs + RIDGE * len(inputs) * identity
    outputs = (destination_shared_SE - destination_mean).double()
    slope = torch.linalg.solve(penalised, inputs.T @ outputs)
    mapped: Tensor = ((source_ND - source_mean) / scale).double() @ slope
    return mapped.float() + destination_mean
