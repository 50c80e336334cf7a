"""First contact with a service: three queries in, an error if its answers are unusable.

The check runs before the budget is spent.
"""

import math
import sys

import torch
from torch import Tensor

from stealing.errors import TargetError
from stealing.queries.door import MeteredTarget

SAME_COSINE = 1 - 1e-6
"""Cosine of the answers to two unrelated images above which the service ignores the images."""

NOISE_RATIO = 1.1
"""Largest ratio of two distances that noise explains: between the answers to two unrelated images,
and between two answers to one image."""

ADVICE = (
    "the budget of the attack was not used; after the correction, add "
    "target.remote.version=corrected, as the wrong answers are stored under the present version"
)


def check_first_answers(door: MeteredTarget, account: str) -> float:
    """Send one image twice and an unrelated one once; all three queries are counted.

    Returns:
        Distance of the two answers to one image, relative to the length of the first; 0 if they
        are equal.

    Raises:
        TargetError: a vector is zero or too long for float32, or the vectors do not depend on the
            image, as those of a server that reads an image as text.
    """
    slope, noise = contact_images(door.size)
    first = _vector(door.ask(slope, account, "evaluation", view="contact"))
    again = _vector(door.ask(slope, account, "evaluation", view="contact", repeat=1))
    other = _vector(door.ask(noise, account, "evaluation", view="contact"))
    distance_repeat = float((first - again).norm())
    distance_other = float((first - other).norm())
    # to unit length first: torch's cosine is too small for vectors shorter than 1e-8
    cosine = torch.cosine_similarity(first / first.norm(), other / other.norm(), dim=0)
    if float(cosine) > SAME_COSINE:
        raise TargetError(
            "The service gives nearly equal vectors for two images that have nothing in common: it "
            "may read them as text (set the modality in target.remote.wire.body), or ignore them; "
            f"{ADVICE}."
        )
    if distance_other <= NOISE_RATIO * distance_repeat:
        raise TargetError(
            "The service's vectors for two images that have nothing in common differ no more than "
            "two for the same image, so they do not depend on the image: correct "
            f"target.remote.wire or the service; {ADVICE}."
        )
    repeat_distance = distance_repeat / float(first.norm())
    if repeat_distance > 0:
        print(
            f"Two answers of the service to one image differ by {repeat_distance:.1e} of their "
            "length.",
            file=sys.stderr,
        )
    return repeat_distance


def _vector(features_BD: Tensor) -> Tensor:
    """Return the one vector of an answer.

    Raises:
        TargetError: it is zero, or its length is more than float32 holds.
    """
    vector = features_BD[0]
    length = float(vector.norm())
    if not 0 < length < math.inf:
        kind = "all zero" if length == 0 else "no finite numbers, or larger than float32 can sum"
        raise TargetError(
            f"The service's vector for a test image is {kind}: correct "
            f"target.remote.wire or the service; {ADVICE}."
        )
    return vector


def contact_images(size: int) -> tuple[Tensor, Tensor]:
    """Return two unrelated uint8 images (1, 3, size, size): a grey slope, and noise."""
    shape = (1, 3, size, size)
    slope = torch.linspace(120, 250, size).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return slope.expand(shape).contiguous(), noise
