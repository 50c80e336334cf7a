"""First contact with a service: three queries that tell whether its answers mean anything, before the rest are paid."""

import sys

import torch
from torch import Tensor

from stealing.errors import TargetError
from stealing.queries.door import MeteredTarget

ALIKE = 1 - 1e-6
"""Cosine of the answers to two images that have nothing in common, from which on the images were not looked at."""


def introduce(door: MeteredTarget, account: str) -> float:
    """Ask about one image twice and about a very different one; the queries are counted, and kept like any.

    Returns:
        How far the two answers to one image are apart, relative to their length; 0 for a service that repeats itself.

    Raises:
        TargetError: two very different images got nearly equal vectors, as from a server that takes a picture for text.
    """
    light, noise = pictures(door.size)
    first = door.ask(light, account, "evaluation", view="contact")[0]
    again = door.ask(light, account, "evaluation", view="contact", repeat=1)[0]
    other = door.ask(noise, account, "evaluation", view="contact")[0]
    if float(torch.cosine_similarity(first, other, dim=0)) > ALIKE:
        raise TargetError(
            "The service gives nearly equal vectors for two images that have nothing in common: it may take them for "
            "text (a modality to set in target.remote.wire.body), or answers nothing; no other image was sent."
        )
    apart = float((first - again).norm() / first.norm().clamp_min(1e-30))
    if apart > 0:
        print(f"The service repeats itself only to {apart:.1e}, relative, for the same image.", file=sys.stderr)
    return apart


def pictures(size: int) -> tuple[Tensor, Tensor]:
    """Two images (1, 3, size, size) with nothing in common: a plain slope, and noise."""
    slope = torch.linspace(120, 250, size).to(torch.uint8).expand(1, 3, size, size).contiguous()
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return slope, noise
