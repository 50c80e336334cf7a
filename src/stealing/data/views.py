"""Random views of a batch: parameters are drawn image by image, pixels are computed for the batch.

Shape letters: B images, C = 3 channels, H and W pixels, T tries. Images are float32 in [0, 1].

Source: SimCLR (arXiv:2002.05709), appendix A, with the CIFAR changes (no blur). Crops have the
distribution of torchvision's `RandomResizedCrop`, and all operations are defined as in torchvision.

Departures:
    - The order of the four colour operations is fixed; torchvision draws an order for each image.
    - Arithmetic is in float32; torchvision's PIL pipeline rounds to 8 bits after each operation.
    - A crop is never larger than its image, so it is only ever enlarged: torchvision's `antialias`
      filters reductions alone and has no counterpart here.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.data.sampling import RandomNumbers
from stealing.errors import ConfigError
from stealing.numbers import check_number

TRIES = 10
"""Candidate boxes of one crop, as in torchvision's `RandomResizedCrop.get_params`."""

WIDEST = 4 / 3
"""Width over height of the widest crop; the narrowest crop has the inverse. Same source."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value. Same source."""


@cache
def _constant(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return a tensor of these values, the same one each time.

    To make one in each step would copy from the CPU, and the GPU would wait for that copy.
    """
    return torch.tensor(values, dtype=dtype, device=device)


class ViewParameters(NamedTuple):
    """What one view does to each of B images.

    Attributes:
        box_B4: left, top, width and height of the crop in whole pixels, int64.
        flip_B: True if the crop is mirrored.
        colour_B4: factors of brightness, contrast and saturation, and the turn of the hue in
            circles.
        jittered_B: True if the colours change.
        grey_B: True if the view becomes grey.
    """

    box_B4: Tensor
    flip_B: Tensor
    colour_B4: Tensor
    jittered_B: Tensor
    grey_B: Tensor


@dataclass(frozen=True)
class Views:
    """A distribution of views.

    Attributes:
        crop: (least, greatest) share of the image's area that a crop aims at; (1, 1) switches
            cropping off. Boxes that do not fit are drawn again, so that large crops are rarer than
            small ones.
        flip: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation and hue.
        jitter_probability: probability that the colours of an image change.
        grey: probability of becoming grey.

    Raises:
        ConfigError: a number is not in [0, 1], or the least crop is larger than the greatest.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey: float = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grey"):
            check_number(f"views.{name}", getattr(self, name), high=1)
        for name in ("crop", "jitter"):
            for number in getattr(self, name):
                check_number(f"views.{name}", number, high=1)
        if len(self.crop) != 2 or self.crop[0] > self.crop[1] or len(self.jitter) != 4:
            raise ConfigError(
                "Views have a crop of two numbers, the smaller one first, and a jitter of four: "
                "set views.crop and views.jitter so."
            )

    def draw(
        self,
        random: RandomNumbers,
        height: int,
        width: int,
    ) -> ViewParameters:
        """Draw the parameters of one view of each image.

        Images are independent of each other, and so are the parameters of an image.

        Args:
            random: of the batch.
            height: of the images in pixels.
            width: likewise.
        """
        columns = [4, 1, 1, 1, 2, TRIES, TRIES]
        numbers = random.uniform(sum(columns))
        colour, flip, jittered, grey, place, area, ratio = torch.split(numbers, columns, 1)
        colour_B4 = 1 + (colour * 2 - 1) * _constant(tuple(self.jitter), colour.device)
        colour_B4[:, 3] -= 1
        if self.crop[0] < 1:
            box_B4 = self._boxes(place.double(), area.double(), ratio.double(), height, width)
        else:
            whole = _constant((0, 0, width, height), colour.device, torch.int64)
            box_B4 = whole.repeat(len(colour), 1)
        return ViewParameters(
            box_B4=box_B4,
            flip_B=flip[:, 0] < self.flip,
            colour_B4=colour_B4,
            jittered_B=jittered[:, 0] < self.jitter_probability,
            grey_B=grey[:, 0] < self.grey,
        )

    def _boxes(
        self,
        place_B2: Tensor,
        area_BT: Tensor,
        ratio_BT: Tensor,
        height: int,
        width: int,
    ) -> Tensor:
        """Return crops (B, 4), in whole pixels, from uniform random numbers.

        The crop is the first of T boxes that fits, at a random place. If none fits, it is the
        largest box of an allowed ratio in the centre; for a square image that is the whole image.
        """
        least, greatest = self.crop
        area_BT = height * width * (least + area_BT * (greatest - least))
        ratio_BT = torch.exp((ratio_BT * 2 - 1) * math.log(WIDEST))
        squares_BT2 = torch.stack([area_BT * ratio_BT, area_BT / ratio_BT], 2)
        sizes_BT2 = squares_BT2.sqrt().round().long()
        device = area_BT.device
        whole = _constant((width, height), device, torch.int64)
        fits_BT = ((sizes_BT2 > 0) & (sizes_BT2 <= whole)).all(2)
        first_B = fits_BT.int().argmax(1)  # of equal values argmax returns the first
        size_B2 = sizes_BT2.take_along_dim(first_B[:, None, None], 1)[:, 0]
        corner_B2 = (place_B2 * (whole - size_B2 + 1)).long()

        largest = (min(width, round(height * WIDEST)), min(height, round(width * WIDEST)))
        fallback = _constant(largest, device, torch.int64)
        fits_B1 = fits_BT.any(1, keepdim=True)
        size_B2 = torch.where(fits_B1, size_B2, fallback)
        corner_B2 = torch.where(fits_B1, corner_B2, (whole - fallback) // 2)
        return torch.cat([corner_B2, size_B2], 1)

    def apply(self, images_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the views of these images, same shape, type and device.

        No operation here is a matrix product: autocast would compute that in lower precision.
        """
        box, flip, colour, jittered, grey = (part.to(images_BCHW.device) for part in parameters)
        is_cropped = self.crop[0] < 1
        views = _crop(images_BCHW, box, flip) if is_cropped else _flip(images_BCHW, flip)
        views = torch.where(jittered[:, None, None, None], _jitter(views, colour), views)
        return torch.where(grey[:, None, None, None], _luma(views).expand_as(views), views)

    def __call__(self, images_BCHW: Tensor, random: RandomNumbers) -> Tensor:
        """Draw parameters for these images and apply them."""
        height, width = images_BCHW.shape[2:]
        return self.apply(images_BCHW, self.draw(random, height, width))


def _flip(images: Tensor, flip_B: Tensor) -> Tensor:
    return torch.where(flip_B[:, None, None, None], images.flip(3), images)


def _crop(
    images: Tensor,
    box_B4: Tensor,
    flip_B: Tensor,
) -> Tensor:
    """Enlarge each box to the full size, bilinear, as torchvision's `resized_crop` does.

    No pixel outside a box has an influence.
    """
    left_B, top_B, across_B, down_B = box_B4.unbind(1)
    x_BW = _places(left_B, across_B, images.shape[3])
    x_BW = torch.where(flip_B[:, None], x_BW.flip(1), x_BW)
    y_BH = _places(top_B, down_B, images.shape[2])
    size = (len(images), images.shape[2], images.shape[3])
    x_BHW = x_BW[:, None, :].expand(size)
    y_BHW = y_BH[:, :, None].expand(size)
    grid_BHW2 = torch.stack([x_BHW, y_BHW], 3)
    return F.grid_sample(images, grid_BHW2, padding_mode="border", align_corners=False)


def _places(
    start_B: Tensor,
    length_B: Tensor,
    size: int,
) -> Tensor:
    """Return the places of the pixels of a view along one axis, (B, size) in [-1, 1].

    -1 and 1 are the outer edges of the image's first and last pixel, as in `grid_sample`.
    """
    start_B1 = start_B[:, None].float()
    length_B1 = length_B[:, None].float()
    centres = torch.arange(size, device=start_B.device) + 0.5
    pixels = start_B1 + centres * length_B1 / size - 0.5
    # As if the image were cropped before it is resized: no place beyond the box's outer pixels.
    pixels = pixels.maximum(start_B1).minimum(start_B1 + length_B1 - 1)
    return (2 * pixels + 1) / size - 1


def _luma(images: Tensor) -> Tensor:
    """Return the grey value (B, 1, H, W)."""
    weights = _constant(LUMA, images.device, images.dtype)[:, None, None]
    return (images * weights).sum(1, keepdim=True)


def _jitter(images: Tensor, colour_B4: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order."""
    brightness, contrast, saturation, hue = colour_B4[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images = (images * contrast + mean * (1 - contrast)).clamp(0, 1)
    images = (images * saturation + _luma(images) * (1 - saturation)).clamp(0, 1)
    return _turn_hue(images, hue[:, 0])


def _turn_hue(images: Tensor, turn_B11: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; value and chroma stay (HSV).

    Each channel is a trapezoid over the hue, as in the formula of HSV to RGB without cases:
    value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6 and n = 5, 3, 1.
    """
    value = images.amax(1)
    chroma = value - images.amin(1)
    # A grey pixel has no hue; any divisor but 0 will do.
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = images.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * turn_B11
    offsets = _constant((5.0, 3.0, 1.0), images.device, images.dtype)[:, None, None]
    k = (offsets + sector[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
