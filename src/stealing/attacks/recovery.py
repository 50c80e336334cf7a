"""Counter-moves to a defense, made of answers alone: what was truncated is completed, what was turned is turned back.

Shape letters: N images, S images that both accounts asked about, D and E feature widths.
"""

import torch
from torch import Tensor

ROUNDS = 30
"""Of filling in and truncating again; more change little."""

RIDGE = 1e-3
"""Of the map between two accounts' standardised answers, an image."""


def completed(answers_ND: Tensor, rank: int) -> Tensor:
    """Fill in the zeros of truncated answers by a matrix of low rank, as features of many images have few directions.

    An entry that was cut off is no greater than the least that was kept of its row, and no less than the least of all;
    so these are to be the largest by value, or features that are never negative.

    Args:
        answers_ND: what top-k features let through.
        rank: of the fit to the centred answers.

    Source: iterated singular value thresholding of a fixed rank ("hard impute"; Mazumder et al. 2010, section 5).
    """
    known = answers_ND != 0
    ceiling = answers_ND.masked_fill(~known, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
    floor = answers_ND.min()
    filled = torch.where(known, answers_ND, (ceiling + floor) / 2)
    for _ in range(ROUNDS):
        mean = filled.mean(0)
        left, values, right = torch.linalg.svd(filled - mean, full_matrices=False)
        fitted = (left[:, :rank] * values[:rank]) @ right[:rank] + mean
        filled = torch.where(known, answers_ND, torch.minimum(fitted.clamp(min=floor), ceiling))
    return filled


def standardised(answers_ND: Tensor) -> Tensor:
    """Undo an affine map of each feature: from zero upwards, of unit deviation, its long tail up as after a ReLU.

    Args:
        answers_ND: of one account, each feature scaled, turned and shifted in a way that nobody told.

    Returns:
        (N, D), the same for every such map, but for a feature that is as skewed one way as the other; a constant
        feature is zero.
    """
    centred = answers_ND.double() - answers_ND.double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    # an affine map of a constant leaves rounding errors, which must not be blown up to unit deviation
    varies = deviation > 1e-6 * answers_ND.abs().amax(0)
    scores = torch.where(varies, centred / deviation, 0.0)
    upright = scores * torch.where(scores.pow(3).mean(0) < 0, -1.0, 1.0)
    return (upright - upright.amin(0)).float()


def remapped(theirs_ND: Tensor, theirs_shared_SD: Tensor, mine_shared_SE: Tensor) -> Tensor:
    """One account's answers (N, E) in another's representation, by a linear map learned on images that both asked.

    Args:
        theirs_ND: to be mapped.
        theirs_shared_SD: the same account's answers to the shared images.
        mine_shared_SE: the other account's answers to them.

    Source: the sybil attack against B4B (arXiv:2310.08571, section 4.4), there 10,000 shared queries an account.
    """
    before, after = theirs_shared_SD.mean(0), mine_shared_SE.mean(0)
    deviation = theirs_shared_SD.std(0)
    # a feature that never moved on the shared images says nothing of mine, and would be blown up where it does move
    moves = deviation > 1e-6 * theirs_shared_SD.abs().amax(0)
    scale = torch.where(moves, deviation, torch.inf)
    inputs = ((theirs_shared_SD - before) / scale).double()
    ridge = inputs.T @ inputs + RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(ridge, inputs.T @ (mine_shared_SE - after).double())
    mapped: Tensor = ((theirs_ND - before) / scale).double() @ slope
    return mapped.float() + after
