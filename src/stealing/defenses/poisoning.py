"""Poisoned answers, which turn the gradient of a model that is trained on them.

Shape letters: B images, D feature width, P weights of the stand-in.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from stealing.defenses.chain import QueryBatch
from stealing.defenses.keyed import Purpose, Secret
from stealing.defenses.noise import orthogonal
from stealing.numbers import check_integer, check_number

WIDTHS = (8, 16)
"""Channels of the stand-in for the attacker's network.

Its last layer maps 2 x 2 of the second to the answer.
"""

SIDE = 32
"""Height and width of the images that the stand-in sees."""

MOST_STEPS = 1000
"""Most steps of the projected gradient, which every answer takes."""


class Poisoning:
    """Moves each answer by epsilon of its length, to turn the gradient of a model trained on it.

    A stand-in takes the place of the attacker's model, which the defender does not know. With
    r = f - y the stand-in's residual and J its Jacobian in its weights, squared error gives the
    gradient J'r for the true answer and J'(r - d) for the given one. The angle between both is
    maximised over `|d| = epsilon |y|` by projected gradient steps, from a random direction.

    Args:
        epsilon: length of the change, in lengths of the answer; 0 for none.
        steps: of the projected gradient, at most 1,000.
        secret: environment variable with the key of stand-in and start, or None for a public key.

    Raises:
        ConfigError: a setting is out of range.

    Source: prediction poisoning (Orekondy et al., arXiv:1906.10908), section 4, which StolenEncoder
    (arXiv:2201.05889) adapts to features; how, could not be read.
    Departure: features need not stay on a simplex; the stand-in is a small untrained network, not
    a ResNet.
    """

    def __init__(self, epsilon: float, steps: int, secret: str | None) -> None:
        check_integer("defense.poisoning.steps", steps, high=MOST_STEPS)
        check_number("defense.poisoning.epsilon", epsilon)
        self.epsilon = epsilon
        self.steps = steps
        self._secret = Secret(secret)
        self.private = self._secret.hash
        self._weights: dict[int, Tensor] = {}  # of the stand-in, by feature width

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the moved features, (B, D)."""
        if self.epsilon == 0:
            return features_BD
        exact_BD = features_BD.double()
        length_B1 = vector_norm(exact_BD, dim=1, keepdim=True)
        length_B1 = length_B1.clamp(min=1e-30)  # an answer of zeros has no direction
        unit_BD = (exact_BD / length_B1).float()
        start_BD = self.epsilon * self._start(asked, unit_BD)
        pixels = asked.images.float() / 255 - 0.5
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        ascend = torch.vmap(self._ascent(features_BD.shape[1]))
        change_BD = ascend(pixels, unit_BD, start_BD)
        moved_BD: Tensor = exact_BD + change_BD.double() * length_B1
        return moved_BD.to(features_BD.dtype)

    def _start(self, asked: QueryBatch, unit_BD: Tensor) -> Tensor:
        """Return a random direction (B, D) at right angles to each answer."""
        purposes: list[Purpose] = [("start", digest) for digest in asked.digests]
        return orthogonal(self._secret.normal(purposes, unit_BD.shape[1]), unit_BD)

    def _ascent(self, width: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return a function that improves the change to one answer.

        It takes the image, the answer scaled to length 1 (D,) and a first change (D,). It is
        written for one image because `torch.vmap` runs it for all at once.
        """
        weights_P = self.stand_in_weights(width)

        def ascend(image: Tensor, unit_D: Tensor, change_D: Tensor) -> Tensor:
            def forward(weights_P: Tensor) -> Tensor:
                return stand_in(image, weights_P, width)

            output_D, pull_back = torch.func.vjp(forward, weights_P)[:2]  # pull_back(v) is J'v
            true_P = _with_length(pull_back(output_D - unit_D)[0], 1)
            for _ in range(self.steps):
                given_P = pull_back(output_D - unit_D - change_D)[0]
                length = vector_norm(given_P).clamp(min=1e-20)
                direction_P = given_P / length
                # slope of the cosine of both gradients, in the given gradient
                cosine = true_P @ direction_P
                slope_P = (true_P - cosine * direction_P) / length
                # J slope is minus the slope of the cosine in d: along it, the cosine falls
                uphill_D = torch.func.jvp(forward, (weights_P,), (slope_P,))[1]
                change_D = change_D + _with_length(uphill_D, self.epsilon)
                change_D = _with_length(change_D, self.epsilon)
            return change_D

        return ascend

    def stand_in_weights(self, width: int) -> Tensor:
        """Return the stand-in's weights (P,) for answers of this width, by He's initialisation."""
        if width not in self._weights:
            draws = self._secret.generator("stand-in", width)
            parts = []
            for shape in _shapes(width):
                fan_in = math.prod(shape[1:])
                deviation = (2 / fan_in) ** 0.5
                parts.append(draws.standard_normal(math.prod(shape)) * deviation)
            weights = np.concatenate(parts).astype(np.float32)
            self._weights[width] = torch.from_numpy(weights)
        return self._weights[width]


class AdditivePoisoning:
    """Moves each answer by epsilon of its length at right angles, which needs no stand-in.

    If the attacker's last layer is linear and still returns zero, the gradient of squared error in
    that layer turns by exactly arctan(epsilon).

    Args:
        epsilon: length of the change, in lengths of the answer; 0 for none.
        secret: environment variable with the key of the directions, or None for a public key.

    Raises:
        ConfigError: epsilon is out of range.
    """

    def __init__(self, epsilon: float, secret: str | None) -> None:
        check_number("defense.additive.epsilon", epsilon)
        self.epsilon = epsilon
        self._secret = Secret(secret)
        self.private = self._secret.hash

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the moved features, (B, D)."""
        purposes: list[Purpose] = [("additive", digest) for digest in asked.digests]
        drawn_BD = self._secret.normal(purposes, features_BD.shape[1])
        change_BD = self.epsilon * orthogonal(drawn_BD, features_BD)
        return features_BD + change_BD.to(features_BD.dtype)


def stand_in(image: Tensor, weights_P: Tensor, width: int) -> Tensor:
    """Return the answer (D,) of a small network to one image (3, 32, 32)."""
    shapes = _shapes(width)
    parts = torch.split(weights_P, [math.prod(shape) for shape in shapes])
    first = parts[0].view(shapes[0])
    second = parts[1].view(shapes[1])
    last = parts[2].view(shapes[2])
    hidden = F.conv2d(image[None], first, stride=2, padding=1).relu()
    hidden = F.conv2d(hidden, second, stride=2, padding=1).relu()
    hidden = F.avg_pool2d(hidden, 4)
    output_D: Tensor = last @ hidden.flatten()
    return output_D


def _shapes(width: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the stand-in's two convolutions and its linear layer."""
    first, second = WIDTHS
    return (first, 3, 3, 3), (second, first, 3, 3), (width, 4 * second)


def _with_length(vector: Tensor, length: float) -> Tensor:
    """Scale a vector to a length."""
    scaled: Tensor = length * vector / vector_norm(vector).clamp(min=1e-20)
    return scaled
