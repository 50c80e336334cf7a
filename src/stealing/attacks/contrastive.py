"""Contrastive losses: a surrogate's feature of an image is nearer to its answer than to the rest.

Shape letters: B images in the batch, D feature width. Losses compute in float32, also under
autocast. The gradient goes only to the surrogate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.errors import ConfigError
from stealing.numbers import LEAST, check_number


def cont_steal(surrogate_BD: Tensor, target_BD: Tensor, *, temperature: float) -> Tensor:
    """Contrast each answer with the surrogate's features of all images.

    The positive pair is an answer and the surrogate's feature of the same image. Negatives are the
    answer with the surrogate's other features, and the surrogate's features with each other. The
    positive pair is not among the terms that it is divided by, so the loss may be below 0.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; L2-normalised here. B is at least
            2.
        target_BD: banked answers to views of the same images, (B, D); L2-normalised here.
        temperature: > 0.

    Returns:
        Scalar mean over the B images, in nats.

    Raises:
        ConfigError: one image has no negatives.

    Source: Cont-Steal (arXiv:2201.07513), as Con-Steal.py of RDA has it at 85e285b. Departure:
    logsumexp, so that a small temperature does not overflow.
    """
    check_number("attack.loss.temperature", temperature, LEAST)
    # autocast would multiply the matrices in 16 bits
    with torch.autocast(surrogate_BD.device.type, enabled=False):
        surrogate = F.normalize(surrogate_BD.float(), dim=1)
        target = F.normalize(target_BD.float(), dim=1)
        between_BB = target @ surrogate.T / temperature
        within_BB = surrogate @ surrogate.T / temperature
        return discriminate(between_BB, within_BB)


def discriminate(between_BB: Tensor, within_BB: Tensor) -> Tensor:
    """Return the mean of -log(e^positive / sum of e^negative), over the rows of two matrices.

    Args:
        between_BB: similarities over temperature; the diagonal has the positive pairs, and the rest
            of a row its first negatives.
        within_BB: similarities over temperature; a row without its diagonal has the others.

    Raises:
        ConfigError: there is one row, which has no negatives.
    """
    check_negatives(len(between_BB))
    positive_B = between_BB.diagonal()
    is_own = torch.eye(len(between_BB), dtype=torch.bool, device=between_BB.device)
    others = torch.cat([between_BB, within_BB], 1).masked_fill(is_own.repeat(1, 2), -torch.inf)
    return (others.logsumexp(1) - positive_B).mean()


def check_negatives(images: int) -> None:
    """Check that a batch has negatives.

    Raises:
        ConfigError: it has one image.
    """
    if images < 2:
        raise ConfigError(
            "attack.batch_size=1 leaves this loss without negatives: set attack.batch_size=2 or "
            "more."
        )
