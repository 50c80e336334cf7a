"""Answers that teach the wrong thing: a change of given length that turns the gradient of whoever trains on them.

Shape letters: B images, D feature width, P weights of the stand-in.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.defenses.chain import Asked
from stealing.defenses.keyed import Secret
from stealing.defenses.noise import orthogonal
from stealing.errors import ConfigError

WIDTHS = (8, 16)
"""Channels of the stand-in for the attacker's network, whose last layer maps 2 x 2 of them to the answer."""


def _checked(epsilon: float) -> float:
    if epsilon < 0:
        raise ConfigError(f"A poisoning of epsilon={epsilon} is negative: set it to 0 or more.")
    return epsilon


class Poisoning:
    """Moves each answer by epsilon of its length, so that a model trained on it learns in another direction.

    With r = f - y the residual of a stand-in for the attacker's model and J its Jacobian in its weights, squared error
    gives the gradient J'r for the true answer and J'(r - d) for the given one: the angle between both is maximised over
    |d| = epsilon |y| by projected gradient steps, from a random direction.

    Args:
        epsilon: length of the change, in lengths of the answer; 0 for none.
        steps: of the projected gradient.
        secret: environment variable with the key of stand-in and start, or None for a public key.

    Source: prediction poisoning (Orekondy et al., arXiv:1906.10908), section 4, which StolenEncoder (arXiv:2201.05889)
    adapts to features; how, could not be read.
    Departure: features have no simplex to stay on; the stand-in is a small untrained network instead of a ResNet.
    """

    def __init__(self, epsilon: float, steps: int, secret: str | None) -> None:
        if steps < 0:
            raise ConfigError(f"defense.poisoning.steps={steps} is negative: set it to 0 or more.")
        self.epsilon, self.steps, self._secret = _checked(epsilon), steps, Secret(secret)
        self.private = self._secret.hash
        self._weights: dict[int, Tensor] = {}

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D)."""
        if self.epsilon == 0:
            return features_BD
        width = features_BD.shape[1]
        length = torch.linalg.vector_norm(features_BD.double(), dim=1, keepdim=True).clamp(min=1e-30)
        unit_BD = (features_BD.double() / length).float()
        start_BD = orthogonal(self._secret.normal([("start", digest) for digest in asked.digests], width), unit_BD)
        images = F.interpolate(asked.images.float() / 255 - 0.5, (32, 32), mode="bilinear", antialias=True)
        change_BD = torch.vmap(self._turned(width))(images, unit_BD, self.epsilon * start_BD)
        moved: Tensor = features_BD.double() + change_BD.double() * length
        return moved.to(features_BD.dtype)

    def _turned(self, width: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A function of one image, its answer of length 1 (D,) and a first change (D,): a better change."""
        weights_P = self._made(width)

        def turned(image: Tensor, unit_D: Tensor, change_D: Tensor) -> Tensor:
            def told(weights_P: Tensor) -> Tensor:
                return _stand_in(image, weights_P, width)

            said, pulled = torch.func.vjp(told, weights_P)[:2]
            true_P = _long(pulled(said - unit_D)[0], 1)
            for _ in range(self.steps):
                given_P = pulled(said - unit_D - change_D)[0]
                length = torch.linalg.vector_norm(given_P).clamp(min=1e-20)
                ahead_P = given_P / length
                slope_P = (true_P - (true_P @ ahead_P) * ahead_P) / length  # of the cosine, in the given gradient
                uphill_D = torch.func.jvp(told, (weights_P,), (slope_P,))[1]  # minus the slope of the cosine in d
                change_D = _long(change_D + _long(uphill_D, self.epsilon), self.epsilon)
            return change_D

        return turned

    def _made(self, width: int) -> Tensor:
        """Weights (P,) of the stand-in for answers of this width, by He's initialisation."""
        if width not in self._weights:
            drawn = self._secret.generator("stand-in", width)
            parts = [
                drawn.standard_normal(math.prod(shape)) * (2 / math.prod(shape[1:])) ** 0.5 for shape in _shapes(width)
            ]
            self._weights[width] = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        return self._weights[width]


class AdditivePoisoning:
    """Moves each answer by epsilon of its length at right angles: the cheap form, which needs no model.

    Where the attacker's last layer is linear and says zero yet, the gradient of squared error in that layer turns by
    exactly arctan(epsilon).

    Args:
        epsilon: length of the change, in lengths of the answer; 0 for none.
        secret: environment variable with the key of the directions, or None for a public key.
    """

    def __init__(self, epsilon: float, secret: str | None) -> None:
        self.epsilon, self._secret = _checked(epsilon), Secret(secret)
        self.private = self._secret.hash

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D)."""
        drawn = self._secret.normal([("additive", digest) for digest in asked.digests], features_BD.shape[1])
        return features_BD + (self.epsilon * orthogonal(drawn, features_BD)).to(features_BD.dtype)


def _long(vector: Tensor, length: float) -> Tensor:
    scaled: Tensor = length * vector / torch.linalg.vector_norm(vector).clamp(min=1e-20)
    return scaled


def _shapes(width: int) -> tuple[tuple[int, ...], ...]:
    first, second = WIDTHS
    return (first, 3, 3, 3), (second, first, 3, 3), (width, 4 * second)


def _stand_in(image: Tensor, weights_P: Tensor, width: int) -> Tensor:
    """The answer (D,) of a small network to one image (3, 32, 32)."""
    shapes = _shapes(width)
    parts = torch.split(weights_P, [math.prod(shape) for shape in shapes])
    first, second, last = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    hidden = F.conv2d(image[None], first, stride=2, padding=1).relu()
    hidden = F.avg_pool2d(F.conv2d(hidden, second, stride=2, padding=1).relu(), 4)
    said: Tensor = last @ hidden.flatten()
    return said
