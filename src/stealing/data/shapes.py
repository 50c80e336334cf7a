"""Pictures that the package draws itself: indices in, images with two labels (kind of shape, texture) out.

Everything about a picture is a hash of (seed, split, domain, index), so it is the same alone, in any batch and on any
machine: sines are taken in float64, since those of float32 round otherwise with AVX-512 than without. Kind and texture
are independent of each other and of the nuisance: colour, count, place, scale, rotation, clutter, light and noise. The
two domains share the labels and differ in all the rest.

Shape letters: N pictures, S pixels a side; coordinates run from -1 to 1.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stealing.errors import DataError

Plane = NDArray[np.floating]

VERSION = 2  # raised when the pictures change, so that no cache or result mixes two
KINDS = ("disc", "square", "triangle", "ring", "cross", "chevron", "star", "half")
TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "zigzag")
SPLITS = ("train", "test")
DOMAINS = ("plain", "scene")
BLOCK = 256  # pictures drawn at once: their planes stay in the processor's cache


@dataclass(frozen=True)
class Drawing:
    """Pixels uint8 (N, 3, S, S); kind and texture int64 (N,), places in KINDS and TEXTURES."""

    pixels: NDArray[np.uint8]
    kind: NDArray[np.int64]
    texture: NDArray[np.int64]


@dataclass(frozen=True)
class _Look:
    """How strongly a domain varies what is not a label."""

    saturation: float
    clutter: int
    backdrop: float
    light: float
    noise: float
    contrast: float


_LOOKS = {"plain": _Look(0.30, 2, 0.0, 0.10, 0.03, 0.35), "scene": _Look(0.12, 5, 0.14, 0.30, 0.06, 0.25)}


def draw(indices: NDArray[np.int64], *, seed: int, split: str, domain: str, size: int) -> Drawing:
    """Draw the pictures of these indices.

    Args:
        indices: which pictures, each >= 0.
        seed: another seed, other pictures.
        split: `train` or `test`.
        domain: `plain` (flat, saturated) or `scene` (busy, muted).
        size: S, at least 8; the same index shows the same scene at every size.

    Raises:
        DataError: an argument out of range.
    """
    if split not in SPLITS or domain not in DOMAINS:
        raise DataError(
            f"shapes has the splits {SPLITS} and domains {DOMAINS}, not {split!r} in {domain!r}: choose these."
        )
    if size < 8 or (len(indices) and int(indices.min()) < 0):
        raise DataError(f"shapes draws from index 0 on and from 8 pixels up: size={size} or an index is too small.")
    stream = zlib.crc32(f"1/{seed}/{split}/{domain}".encode())  # of VERSION 1 too: 2 only rounds otherwise
    parts = [_draw(indices[at : at + BLOCK], stream, _LOOKS[domain], size) for at in range(0, len(indices), BLOCK)]
    empty = Drawing(np.zeros((0, 3, size, size), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    columns = zip(*[(p.pixels, p.kind, p.texture) for p in parts or [empty]], strict=True)
    return Drawing(*(np.concatenate(column) for column in columns))


class _Dice:
    """Uniform numbers in [0, 1) that depend on the picture and on how many were drawn before, by splitmix64."""

    def __init__(self, stream: int, indices: NDArray[np.int64]) -> None:
        self.state = _mix(_mix(indices.astype(np.uint64)) + np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15))
        self.drawn = 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Plane:
        """One number a picture, (N, 1, 1)."""
        self.drawn += 1
        bits = _mix(self.state + np.uint64(self.drawn) * np.uint64(0xD1B54A32D192ED03)) >> np.uint64(40)
        return (low + (high - low) * (bits.astype(np.float32) / 2**24))[:, None, None]

    def pixels(self, size: int) -> Plane:
        """One number a pixel, (N, S, S)."""
        places = np.arange(size * size, dtype=np.uint64) * np.uint64(0xA0761D6478BD642F)
        bits = _mix(self.state[:, None] ^ places) >> np.uint64(40)
        return (bits.astype(np.float32) / 2**24).reshape(-1, size, size)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draw(indices: NDArray[np.int64], stream: int, look: _Look, size: int) -> Drawing:
    with np.errstate(over="ignore"):
        dice = _Dice(stream, indices)
        kind = (dice()[:, 0, 0] * len(KINDS)).astype(np.int64)
        texture = (dice()[:, 0, 0] * len(TEXTURES)).astype(np.int64)
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
        x, y = axis[None, None, :], axis[None, :, None]
        ground = dice(0.2, 0.8)
        figure = np.where(ground < 0.5, ground + look.contrast, ground - look.contrast) + dice(-0.05, 0.05)
        canvas = _tint(dice(), look.saturation, ground + _backdrop(dice, x, y, look.backdrop))
        for _ in range(look.clutter):
            cover = _line(dice, x, y, size)[:, None]
            canvas = canvas * (1 - cover) + cover * _tint(dice(), look.saturation, ground + dice(-0.3, 0.3))
        cover = _figures(dice, kind, x, y, size)[:, None]
        tone = figure + (_texture(dice, texture, x, y) - 0.5) * 0.36
        canvas = canvas * (1 - cover) + cover * _tint(dice(), look.saturation, tone)
        angle = dice(0, 2 * np.pi)
        light = 1 + look.light * dice() * (_cos(angle) * x + _sin(angle) * y)
        noise = (dice.pixels(size) - 0.5) * (look.noise * 3.46)  # standard deviation look.noise
        pixels = np.clip(canvas * light[:, None] + noise[:, None], 0, 1) * 255
    return Drawing(np.round(pixels).astype(np.uint8), kind, texture)


def _tint(hue: Plane, saturation: float, tone: Plane) -> Plane:
    """Colour (N, 3, S, S) of this hue around a grey tone."""
    turns = np.arange(3, dtype=np.float32)[None, :, None, None] / 3
    return tone[:, None] + saturation * _cos(2 * np.pi * (hue[:, None] + turns))


def _backdrop(dice: _Dice, x: Plane, y: Plane, strength: float) -> Plane:
    waves: Plane = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for _ in range(2 if strength else 0):
        waves = waves + _sin(dice(-5, 5) * x + dice(-5, 5) * y + dice(0, 6.3))
    return strength * waves


def _line(dice: _Dice, x: Plane, y: Plane, size: int) -> Plane:
    """A thin, short stroke that is of no kind."""
    angle, length, width = dice(0, np.pi), dice(0.15, 0.5), dice(0.02, 0.05)
    u, v = _turned(x - dice(-1, 1), y - dice(-1, 1), angle)
    return _cover(np.maximum(np.abs(u) - length, np.abs(v) - width), size)


def _figures(dice: _Dice, kind: NDArray[np.int64], x: Plane, y: Plane, size: int) -> Plane:
    """How much of each pixel the one to three copies of the kind cover, (N, S, S)."""
    count, angle = dice(0.5, 3.5), dice(0, 2 * np.pi)
    orbit = np.where(count < 1.5, dice(0, 0.35), 0.55)  # several copies stand around the middle, apart from each other
    shift_x, shift_y = dice(-0.1, 0.1), dice(-0.1, 0.1)
    cover = np.zeros((len(kind), size, size), np.float32)
    for copy in range(3):
        scale = np.where(count < 1.5, dice(0.5, 0.75), dice(0.3, 0.44))
        place = angle + copy * 2 * np.pi / np.maximum(np.round(count), 1)
        turn = dice(0, 2 * np.pi)
        shown = np.flatnonzero(np.round(count)[:, 0, 0] > copy)
        u, v = _turned(x - shift_x - orbit * _cos(place), y - shift_y - orbit * _sin(place), turn)
        for number, name in enumerate(KINDS):
            rows = shown[kind[shown] == number]
            distance = _distance(name, u[rows] / scale[rows], v[rows] / scale[rows]) * scale[rows]
            cover[rows] = np.maximum(cover[rows], _cover(distance, size))
    return cover


def _sin(x: Plane) -> Plane:
    rounded: Plane = np.sin(x, dtype=np.float64).astype(np.float32)
    return rounded


def _cos(x: Plane) -> Plane:
    rounded: Plane = np.cos(x, dtype=np.float64).astype(np.float32)
    return rounded


def _length(u: Plane, v: Plane) -> Plane:
    length: Plane = np.sqrt(u * u + v * v)  # np.hypot is as exact as the C library that it finds
    return length


def _turned(x: Plane, y: Plane, angle: Plane) -> tuple[Plane, Plane]:
    c, s = _cos(angle), _sin(angle)
    return x * c + y * s, y * c - x * s


def _cover(distance: Plane, size: int) -> Plane:
    """Share of the pixel inside, from the signed distance to the edge: a soft edge one pixel wide."""
    cover: Plane = np.clip(0.5 - distance * (size / 2), 0, 1)
    return cover


def _distance(kind: str, u: Plane, v: Plane) -> Plane:
    """Signed distance (nearly) to a shape of radius about 1; negative inside."""
    r, a, b = _length(u, v), np.abs(u), np.abs(v)
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


def _texture(dice: _Dice, texture: NDArray[np.int64], x: Plane, y: Plane) -> Plane:
    """The fill, 0 to 1 and about 0.5 on average, (N, S, S); its direction, spacing and phase are nuisance."""
    u, v = _turned(x, y, dice(0, 2 * np.pi))
    spacing = dice(9, 13)
    u, v = u * spacing + dice(0, 6.3), v * spacing + dice(0, 6.3)
    flat = np.broadcast_to(dice(), u.shape)
    zig = 4 * np.abs(v / 6.283 - np.floor(v / 6.283) - 0.5)
    waves = [
        flat * 2 - 1,
        _sin(u) * 1.5,
        _sin(u) * _sin(v) * 3,
        (_cos(u) + _cos(v)) * 1.5 - 1.2,
        _sin(_length(x - dice(-0.3, 0.3), y - dice(-0.3, 0.3)) * spacing * 1.3) * 1.5,
        _sin(u + zig * 2.2) * 1.5,
    ]
    return np.clip(np.choose(texture[:, None, None], waves) * 0.5 + 0.5, 0, 1)
