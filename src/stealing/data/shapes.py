"""Images that the package draws itself: indices in, images with two labels (kind, texture) out.

Everything about an image is a hash of (seed, split, domain, index). So it is the same alone, in any
batch and on any machine. Kind of shape and texture are independent of each other and of the
nuisance: colour, count, place, scale, rotation, clutter, light and noise. The two domains have the
same labels and differ in all the rest.

Shape letters: N images, S pixels a side. Coordinates x and y run from -1 to 1 over the image; u
and v are those of a turned system. A plane is an array that broadcasts to (N, S, S).
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stealing.errors import DataError

Plane = NDArray[np.floating]

VERSION = 2
"""Raised if the images change, so that no cache and no result mixes two versions."""

KINDS = ("disc", "square", "triangle", "ring", "cross", "chevron", "star", "half")
TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "zigzag")
LEAST_SIDE = 8
"""Smallest height and width in pixels."""

SPLITS = ("train", "test")
DOMAINS = ("plain", "scene")

BLOCK = 256
"""Images drawn at once: their planes fit into the processor's cache."""


@dataclass(frozen=True)
class Drawing:
    """Images with both of their labels.

    Attributes:
        pixels: uint8 (N, 3, S, S).
        kind: int64 (N,), places in `KINDS`.
        texture: int64 (N,), places in `TEXTURES`.
    """

    pixels: NDArray[np.uint8]
    kind: NDArray[np.int64]
    texture: NDArray[np.int64]


@dataclass(frozen=True)
class _Look:
    """How strongly a domain varies what is not a label.

    Attributes:
        saturation: of all colours.
        clutter: number of strokes of no kind.
        backdrop: amplitude of the waves behind the figures.
        light: greatest change of brightness over the image.
        noise: standard deviation of each pixel.
        contrast: difference of brightness between figures and ground.
    """

    saturation: float
    clutter: int
    backdrop: float
    light: float
    noise: float
    contrast: float


_LOOKS = {
    "plain": _Look(0.30, 2, 0.0, 0.10, 0.03, 0.35),
    "scene": _Look(0.12, 5, 0.14, 0.30, 0.06, 0.25),
}


def draw(
    indices: NDArray[np.int64],
    *,
    seed: int,
    split: str,
    domain: str,
    size: int,
) -> Drawing:
    """Draw the images of these indices.

    Args:
        indices: of the images, each >= 0.
        seed: another seed gives other images.
        split: `train` or `test`.
        domain: `plain` (flat, saturated) or `scene` (busy, muted).
        size: S, at least 8; the same index shows the same scene at every size.

    Raises:
        DataError: An argument is out of range.
    """
    if split not in SPLITS or domain not in DOMAINS:
        raise DataError(
            f"shapes has the splits {SPLITS} and domains {DOMAINS}, "
            f"not {split!r} in {domain!r}: choose these."
        )
    if size < LEAST_SIDE or (len(indices) and int(indices.min()) < 0):
        raise DataError(
            "shapes draws from index 0 on and from 8 pixels up: "
            f"size={size} or an index is too small."
        )
    # The 1 is no mistake: version 2 draws the same scenes as version 1, and rounds differently.
    stream = zlib.crc32(f"1/{seed}/{split}/{domain}".encode())
    pixels = [np.zeros((0, 3, size, size), np.uint8)]  # something to concatenate without an index
    kinds = [np.zeros(0, np.int64)]
    textures = [np.zeros(0, np.int64)]
    for start in range(0, len(indices), BLOCK):
        block = _draw(indices[start : start + BLOCK], stream, _LOOKS[domain], size)
        pixels.append(block.pixels)
        kinds.append(block.kind)
        textures.append(block.texture)
    return Drawing(np.concatenate(pixels), np.concatenate(kinds), np.concatenate(textures))


class _Uniform:
    """Uniform random numbers that depend on the image and on how many were drawn before.

    The generator is splitmix64 (Steele, Lea and Flood 2014) with a state for each image.
    Products and sums overflow on purpose: it computes modulo 2**64.

    Args:
        stream: tells seeds, splits and domains apart.
        indices: of the N images.
    """

    def __init__(self, stream: int, indices: NDArray[np.int64]) -> None:
        offset = np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15)
        self.state = _mix(_mix(indices.astype(np.uint64)) + offset)
        self.drawn = 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Plane:
        """Draw one number in [low, high) for each image, (N, 1, 1)."""
        self.drawn += 1
        step = np.uint64(self.drawn) * np.uint64(0xD1B54A32D192ED03)
        unit = _to_unit(_mix(self.state + step))
        return (low + (high - low) * unit)[:, None, None]

    def pixels(self, size: int) -> Plane:
        """Draw one number in [0, 1) for each pixel, (N, S, S)."""
        places = np.arange(size * size, dtype=np.uint64) * np.uint64(0xA0761D6478BD642F)
        unit = _to_unit(_mix(self.state[:, None] ^ places))
        return unit.reshape(-1, size, size)


def _to_unit(bits: NDArray[np.uint64]) -> Plane:
    """Return numbers in [0, 1) made of the upper 24 bits, which float32 holds exactly."""
    unit: Plane = (bits >> np.uint64(40)).astype(np.float32) / 2**24
    return unit


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draw(
    indices: NDArray[np.int64],
    stream: int,
    look: _Look,
    size: int,
) -> Drawing:
    with np.errstate(over="ignore"):
        # Each call draws another number: the order of these lines decides the images.
        uniform = _Uniform(stream, indices)
        kind = (uniform()[:, 0, 0] * len(KINDS)).astype(np.int64)
        texture = (uniform()[:, 0, 0] * len(TEXTURES)).astype(np.int64)
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
        x = axis[None, None, :]
        y = axis[None, :, None]
        ground = uniform(0.2, 0.8)
        figure = np.where(ground < 0.5, ground + look.contrast, ground - look.contrast)
        figure = figure + uniform(-0.05, 0.05)
        hue = uniform()
        canvas = _tint(hue, look.saturation, ground + _backdrop(uniform, x, y, look.backdrop))
        for _ in range(look.clutter):
            cover = _stroke(uniform, x, y, size)[:, None]
            hue = uniform()
            colour = _tint(hue, look.saturation, ground + uniform(-0.3, 0.3))
            canvas = canvas * (1 - cover) + cover * colour
        cover = _figures(uniform, kind, x, y, size)[:, None]
        tone = figure + (_texture(uniform, texture, x, y) - 0.5) * 0.36
        canvas = canvas * (1 - cover) + cover * _tint(uniform(), look.saturation, tone)
        angle = uniform(0, 2 * np.pi)
        light = 1 + look.light * uniform() * (_cos(angle) * x + _sin(angle) * y)
        # The factor makes look.noise the standard deviation: that of [0, 1) is 1 / 3.46.
        noise = (uniform.pixels(size) - 0.5) * (look.noise * 3.46)
        pixels = np.clip(canvas * light[:, None] + noise[:, None], 0, 1) * 255
    return Drawing(np.round(pixels).astype(np.uint8), kind, texture)


def _tint(hue: Plane, saturation: float, tone: Plane) -> Plane:
    """Return the colour (N, 3, S, S) of a hue, in circles, around a grey tone."""
    turns = np.arange(3, dtype=np.float32)[None, :, None, None] / 3
    return tone[:, None] + saturation * _cos(2 * np.pi * (hue[:, None] + turns))


def _backdrop(
    uniform: _Uniform,
    x: Plane,
    y: Plane,
    strength: float,
) -> Plane:
    """Return two waves of random direction; a domain without a backdrop draws no numbers."""
    waves: Plane = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    if strength:
        for _ in range(2):
            waves = waves + _sin(uniform(-5, 5) * x + uniform(-5, 5) * y + uniform(0, 6.3))
    return strength * waves


def _stroke(uniform: _Uniform, x: Plane, y: Plane, size: int) -> Plane:
    """Return the cover of a thin, short stroke, which is of no kind."""
    angle = uniform(0, np.pi)
    length = uniform(0.15, 0.5)
    width = uniform(0.02, 0.05)
    u, v = _turned(x - uniform(-1, 1), y - uniform(-1, 1), angle)
    return _cover(np.maximum(np.abs(u) - length, np.abs(v) - width), size)


def _figures(
    uniform: _Uniform,
    kind: NDArray[np.int64],
    x: Plane,
    y: Plane,
    size: int,
) -> Plane:
    """Return how much of each pixel one to three copies of the kind cover, (N, S, S)."""
    count = uniform(0.5, 3.5)
    angle = uniform(0, 2 * np.pi)
    is_alone = count < 1.5
    # Several copies stand on a circle around the middle, so that they do not overlap.
    orbit = np.where(is_alone, uniform(0, 0.35), 0.55)
    shift_x = uniform(-0.1, 0.1)
    shift_y = uniform(-0.1, 0.1)
    cover = np.zeros((len(kind), size, size), np.float32)
    for copy in range(3):
        scale = np.where(is_alone, uniform(0.5, 0.75), uniform(0.3, 0.44))
        place = angle + copy * 2 * np.pi / np.maximum(np.round(count), 1)
        turn = uniform(0, 2 * np.pi)
        present = np.flatnonzero(np.round(count)[:, 0, 0] > copy)
        centre_x = orbit * _cos(place)
        centre_y = orbit * _sin(place)
        u, v = _turned(x - shift_x - centre_x, y - shift_y - centre_y, turn)
        for number, name in enumerate(KINDS):
            rows = present[kind[present] == number]
            distance = _distance(name, u[rows] / scale[rows], v[rows] / scale[rows]) * scale[rows]
            cover[rows] = np.maximum(cover[rows], _cover(distance, size))
    return cover


def _sin(x: Plane) -> Plane:
    """Return the sine, in float64: float32 rounds differently with AVX-512 than without."""
    rounded: Plane = np.sin(x, dtype=np.float64).astype(np.float32)
    return rounded


def _cos(x: Plane) -> Plane:
    """Return the cosine, in float64 for the same reason."""
    rounded: Plane = np.cos(x, dtype=np.float64).astype(np.float32)
    return rounded


def _length(u: Plane, v: Plane) -> Plane:
    # Not np.hypot: its last bits depend on the C library.
    length: Plane = np.sqrt(u * u + v * v)
    return length


def _turned(x: Plane, y: Plane, angle: Plane) -> tuple[Plane, Plane]:
    """Return coordinates in a system that is turned by this angle."""
    cosine = _cos(angle)
    sine = _sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def _cover(distance: Plane, size: int) -> Plane:
    """Return the share of each pixel inside a shape whose edge is at this signed distance.

    The edge is soft, one pixel wide.
    """
    cover: Plane = np.clip(0.5 - distance * (size / 2), 0, 1)
    return cover


def _distance(
    kind: str,
    u: Plane,
    v: Plane,
) -> Plane:
    """Return nearly the signed distance to a shape of radius about 1; negative inside."""
    r = _length(u, v)
    a = np.abs(u)
    b = np.abs(v)
    distance: Plane
    match kind:
        case "disc":
            distance = r - 0.9
        case "square":
            distance = np.maximum(a, b) - 0.8
        case "triangle":
            distance = np.maximum(0.866 * a + 0.5 * v, -v) - 0.5
        case "ring":
            distance = np.abs(r - 0.72) - 0.24
        case "cross":
            distance = np.minimum(np.maximum(a - 1, b - 0.28), np.maximum(b - 1, a - 0.28))
        case "chevron":
            distance = np.maximum(a - 0.9, 0.75 * np.abs(v + 0.3 - 0.9 * a) - 0.28)
        case "star":
            distance = 0.7 * (r - 0.66 - 0.34 * _cos(5 * np.arctan2(u, v, dtype=np.float64)))
        case _:  # half
            distance = np.maximum(r - 1, v) + 0.1
    return distance


def _texture(
    uniform: _Uniform,
    texture: NDArray[np.int64],
    x: Plane,
    y: Plane,
) -> Plane:
    """Return the fill, (N, S, S) in [0, 1], about 0.5 on average.

    Its direction, spacing and phase are nuisance.
    """
    u, v = _turned(x, y, uniform(0, 2 * np.pi))
    spacing = uniform(9, 13)
    u = u * spacing + uniform(0, 6.3)
    v = v * spacing + uniform(0, 6.3)
    flat = np.broadcast_to(uniform(), u.shape)
    radius = _length(x - uniform(-0.3, 0.3), y - uniform(-0.3, 0.3))
    zigzag = 4 * np.abs(v / 6.283 - np.floor(v / 6.283) - 0.5)
    waves = [  # in the order of TEXTURES
        flat * 2 - 1,
        _sin(u) * 1.5,
        _sin(u) * _sin(v) * 3,
        (_cos(u) + _cos(v)) * 1.5 - 1.2,
        _sin(radius * spacing * 1.3) * 1.5,
        _sin(u + zigzag * 2.2) * 1.5,
    ]
    return np.clip(np.choose(texture[:, None, None], waves) * 0.5 + 0.5, 0, 1)
