"""Random views of a batch: parameters are drawn for each image on the CPU, pixels are computed for the batch.

Shape letters: B images, C = 3 channels, H and W pixels, T tries. Images are float32 in [0, 1] throughout.
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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.data.draws import Dice

TRIES = 10
"""Candidate boxes of one crop, as in torchvision's `RandomResizedCrop.get_params`."""

WIDEST = 4 / 3
"""Width over height of the widest crop, in pixels; its inverse is the narrowest's. Same source."""


class ViewParameters(NamedTuple):
    """What one view does to each of B images; every field has B rows.

    Attributes:
        box_B4: the crop's left, top, width and height in whole pixels, int64.
        flip_B: whether the crop is mirrored.
        colour_B4: factors of brightness, contrast and saturation, and the turn of the hue in circles.
        jittered_B: whether the colours change at all.
        grey_B: whether the view becomes grey.
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
            cropping off. Boxes that do not fit are drawn again, so large crops are rarer than small ones.
        flip: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation and hue.
        jitter_probability: probability that a sample's colours change at all.
        grey: probability of becoming grey.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey: float = 0.2

    def draw(self, dice: Dice, height: int, width: int) -> ViewParameters:
        """Draw the parameters of one view of each row, for images of `height` by `width` pixels.

        Rows are independent of each other, and so are the parameters of a row.
        """
        columns = [4, 1, 1, 1, 2, TRIES, TRIES]
        colour, flip, jittered, grey, place, area, ratio = torch.split(dice.uniform(sum(columns)), columns, 1)
        colour_B4 = 1 + (colour * 2 - 1) * torch.tensor(self.jitter)
        colour_B4[:, 3] -= 1
        if self.crop[0] < 1:
            box_B4 = self._boxes(place.double(), area.double(), ratio.double(), height, width)
        else:
            box_B4 = torch.tensor([0, 0, width, height]).repeat(len(colour), 1)
        return ViewParameters(
            box_B4=box_B4,
            flip_B=flip[:, 0] < self.flip,
            colour_B4=colour_B4,
            jittered_B=jittered[:, 0] < self.jitter_probability,
            grey_B=grey[:, 0] < self.grey,
        )

    def _boxes(self, place_B2: Tensor, area_BT: Tensor, ratio_BT: Tensor, height: int, width: int) -> Tensor:
        """Return crops (B, 4), in whole pixels, from uniform random numbers.

        The first of T boxes that fits is taken, at a random place. If none fits, it is the largest box
        of an allowed ratio in the centre; for a square image that is the whole image.
        """
        least, greatest = self.crop
        area_BT = height * width * (least + area_BT * (greatest - least))
        ratio_BT = torch.exp((ratio_BT * 2 - 1) * math.log(WIDEST))
        sizes_BT2 = torch.stack([area_BT * ratio_BT, area_BT / ratio_BT], 2).sqrt().round().long()
        whole = torch.tensor([width, height])
        fits_BT = ((sizes_BT2 > 0) & (sizes_BT2 <= whole)).all(2)
        first_B = fits_BT.int().argmax(1)  # argmax returns the first of equal values
        size_B2 = sizes_BT2[torch.arange(len(first_B)), first_B]
        corner_B2 = (place_B2 * (whole - size_B2 + 1)).long()

        fallback = torch.tensor([min(width, round(height * WIDEST)), min(height, round(width * WIDEST))])
        fits_B1 = fits_BT.any(1, keepdim=True)
        size_B2 = torch.where(fits_B1, size_B2, fallback)
        corner_B2 = torch.where(fits_B1, corner_B2, (whole - fallback) // 2)
        return torch.cat([corner_B2, size_B2], 1)

    def apply(self, images_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the views of these images, same shape, type and device.

        There is no matrix product in here, so that autocast leaves coordinates and pixels in float32.
        """
        box, flip, colour, jittered, grey = (part.to(images_BCHW.device) for part in parameters)
        views = _crop(images_BCHW, box, flip) if self.crop[0] < 1 else _flip(images_BCHW, flip)
        views = torch.where(jittered[:, None, None, None], _jitter(views, colour), views)
        return torch.where(grey[:, None, None, None], _luma(views).expand_as(views), views)

    def __call__(self, images_BCHW: Tensor, dice: Dice) -> Tensor:
        """Draw parameters for these images and apply them."""
        return self.apply(images_BCHW, self.draw(dice, *images_BCHW.shape[2:]))


def _flip(images: Tensor, flip_B: Tensor) -> Tensor:
    return torch.where(flip_B[:, None, None, None], images.flip(3), images)


def _crop(images: Tensor, box_B4: Tensor, flip_B: Tensor) -> Tensor:
    """Enlarge each box to the full size, bilinear, as `resized_crop` does: no pixel outside a box is seen."""
    left_B, top_B, across_B, down_B = box_B4.unbind(1)
    x_BW = _places(left_B, across_B, images.shape[3])
    x_BW = torch.where(flip_B[:, None], x_BW.flip(1), x_BW)
    y_BH = _places(top_B, down_B, images.shape[2])
    size = (len(images), images.shape[2], images.shape[3])
    grid_BHW2 = torch.stack([x_BW[:, None, :].expand(size), y_BH[:, :, None].expand(size)], 3)
    return F.grid_sample(images, grid_BHW2, padding_mode="border", align_corners=False)


def _places(start_B: Tensor, length_B: Tensor, size: int) -> Tensor:
    """Return where the `size` pixels of a view lie along one axis, as `grid_sample` counts: (B, size) in [-1, 1]."""
    start_B1 = start_B[:, None].float()
    length_B1 = length_B[:, None].float()
    centres = torch.arange(size, device=start_B.device) + 0.5
    pixels = start_B1 + centres * length_B1 / size - 0.5
    pixels = pixels.maximum(start_B1).minimum(start_B1 + length_B1 - 1)  # crop first, then resize
    return (2 * pixels + 1) / size - 1


def _luma(images: Tensor) -> Tensor:
    """Grey value (B, 1, H, W) with torchvision's weights."""
    weights = images.new_tensor([0.2989, 0.587, 0.114])[:, None, None]
    return (images * weights).sum(1, keepdim=True)


def _jitter(images: Tensor, colour_B4: Tensor) -> Tensor:
    brightness, contrast, saturation, hue = colour_B4[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images = (images * contrast + mean * (1 - contrast)).clamp(0, 1)
    images = (images * saturation + _luma(images) * (1 - saturation)).clamp(0, 1)
    return _turn_hue(images, hue[:, 0])


def _turn_hue(images: Tensor, turn_B11: Tensor) -> Tensor:
    """Turn the hue by a share of the circle, keeping value and chroma: HSV, each channel from its own trapezoid."""
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = images.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * turn_B11
    offsets = images.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    k = (offsets + sector[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
