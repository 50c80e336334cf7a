"""Losses against prototypes: the mean answer to several asked views stands for an image.

Shape letters: B images in the batch, V asked views of each, D feature width. Losses compute in
float32, also under autocast. The gradient goes only to the surrogate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.attacks.contrastive import discriminate
from stealing.numbers import LEAST, check_number

FLOOR = 1e-12
"""Least squared distance, and least 1 + cosine, whose logarithm is taken."""


def prototypes(answers: Tensor) -> Tensor:
    """Return the mean of the L2-normalised answers of each image, (B, D), float32.

    The mean is not normalised again: it is shorter the more the answers to an image differ.

    Args:
        answers: to V views of each image, (B, V, D), or one an image, (B, D).

    Source: RDA.py at 85e285b.
    """
    rows = F.normalize(answers.float(), dim=-1)
    return rows if rows.ndim == 2 else rows.mean(1)


def discriminate_and_align(surrogate_BD: Tensor, answers: Tensor, *, temperature: float) -> Tensor:
    """Push a feature away from other images' prototypes and features, and pull it to its own.

    With x the normalised surrogate feature of an image and y its prototype, the loss has two terms.
    Discriminate: -log of e^(x.y / temperature) over the sum of e^(x.y' / temperature) and
    e^(x.x' / temperature) over all other images. Align: log ||x - y||^2 - log(1 + cos(x, y)), of
    amplitude and angle.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; B is at least 2.
        answers: banked answers to V views of each image, (B, V, D), or one an image, (B, D).
        temperature: > 0.

    Returns:
        Scalar mean over the B images, in nats; below 0 if features are near their prototypes.

    Raises:
        ConfigError: one image has no negatives.

    Source: RDA (`OurLoss` of RDA.py at 85e285b, both weights 1). Departures: logsumexp, and the
    bound `FLOOR`, below which a term has no gradient.
    """
    check_number("attack.loss.temperature", temperature, LEAST)
    # autocast would multiply the matrices in 16 bits
    with torch.autocast(surrogate_BD.device.type, enabled=False):
        x_BD = F.normalize(surrogate_BD.float(), dim=1)
        y_BD = prototypes(answers)
        apart = discriminate(x_BD @ y_BD.T / temperature, x_BD @ x_BD.T / temperature)
        distance_B = (x_BD - y_BD).square().sum(1).clamp(min=FLOOR)
        angle_B = (1 + F.cosine_similarity(x_BD, y_BD)).clamp(min=FLOOR)
        return apart + (distance_B.log() - angle_B.log()).mean()
