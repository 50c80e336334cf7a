"""What arguments of architectures may be: plain values that a card has, checked before building."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

LARGEST_SIDE = 4096
"""Most pixels on a side of the images that a network takes."""

LARGEST_NORMALISATION = 1000
"""Largest mean or standard deviation of a channel; images are in [0, 1]."""

SMALLEST_CROP = 0.1
"""Smallest side of a centre crop, as a share of the image: the scaled image is larger by 1 / crop.
"""


@dataclass(frozen=True)
class Argument:
    """The values that one argument of an architecture may have.

    Attributes:
        fits: returns True for an allowed value.
        range: the same in words.
    """

    fits: Callable[[Any], bool]
    range: str


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built.

    Attributes:
        build: its class.
        arguments: by name.
        optional: names of arguments with a default; all others have to be given.
        initial: names of those that choose only initial weights. They are a user's own: no card
            keeps them, and a card that has one is refused.
    """

    build: Callable[..., nn.Module]
    arguments: Mapping[str, Argument]
    optional: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()


def whole(most: int) -> Argument:
    """Return an argument that is a whole number."""

    def fits(value: Any) -> bool:
        # Not isinstance: True is an int too.
        return type(value) is int and 1 <= value <= most

    return Argument(fits, f"a whole number from 1 to {most}")


def wholes(most: int, length: int) -> Argument:
    """Return an argument that is a list of whole numbers, not empty."""
    one = whole(most)

    # Bounds on the length too: a long list of small numbers is a large network.
    def fits(value: Any) -> bool:
        return isinstance(value, list) and 1 <= len(value) <= length and all(map(one.fits, value))

    return Argument(fits, f"at most {length} whole numbers from 1 to {most}")


def channels(least: float, words: str) -> Argument:
    """Return an argument that is a list of three numbers, one a channel."""

    def fits_one(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return bool(least <= value <= LARGEST_NORMALISATION)

    def fits(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 3 and all(map(fits_one, value))

    return Argument(fits, words)


def is_crop(value: Any) -> bool:
    """Return True for a share of an image's side that is not so small that scaling is costly."""
    return type(value) in (int, float) and SMALLEST_CROP <= value <= 1


def is_switch(value: Any) -> bool:
    """Return True for true and false."""
    return type(value) is bool


def is_text(value: Any) -> bool:
    """Return True for text that is not empty."""
    return isinstance(value, str) and value != ""


def or_null(argument: Argument) -> Argument:
    """Return an argument that may be null as well."""

    def fits(value: Any) -> bool:
        return value is None or argument.fits(value)

    return Argument(fits, f"{argument.range}, or null")


def one_of(names: Sequence[str]) -> Argument:
    """Return an argument that is one of a few names."""

    def fits(value: Any) -> bool:
        return value in names

    return Argument(fits, f"one of {', '.join(names)}")
