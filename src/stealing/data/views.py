"""Random views of a batch: parameters are drawn per sample on the CPU, pixels are computed per batch on the device.

Shape letters: B images, C = 3 channels, H and W pixels. Images are float in [0, 1] throughout.
Source: SimCLR (arXiv:2002.05709), appendix A, with the CIFAR changes (no blur); operations as torchvision defines them.
Departure: the order of the four colour operations is fixed rather than drawn for each image.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.data.draws import Dice


class ViewParameters(NamedTuple):
    """What one view does to each of B images; every field has B rows."""

    box_B4: Tensor
    flip_B: Tensor
    colour_B4: Tensor
    jittered_B: Tensor
    grey_B: Tensor


@dataclass(frozen=True)
class Views:
    """A distribution of views.

    Attributes:
        crop: (least, greatest) share of the image's area that a crop keeps; (1, 1) switches cropping off.
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

    def draw(self, dice: Dice) -> ViewParameters:
        """Parameters of one view of each row, independent of each other."""
        u = dice.uniform(12)
        scale = self.crop[0] + u[:, 0] * (self.crop[1] - self.crop[0])
        ratio = torch.exp((u[:, 1] * 2 - 1) * math.log(4 / 3)) if self.crop[0] < 1 else torch.ones(len(u))
        width, height = (scale * ratio).sqrt().clamp(max=1.0), (scale / ratio).sqrt().clamp(max=1.0)
        left, top = u[:, 2] * (1 - width), u[:, 3] * (1 - height)
        strength = torch.tensor(self.jitter)
        colour = 1 + (u[:, 4:8] * 2 - 1) * strength
        colour[:, 3] -= 1
        return ViewParameters(
            torch.stack([left, top, width, height], 1),
            u[:, 8] < self.flip,
            colour,
            u[:, 9] < self.jitter_probability,
            u[:, 10] < self.grey,
        )

    def apply(self, images_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
        """The views of these images, float in [0, 1], same shape and device."""
        box, flip, colour, jittered, grey = (part.to(images_BCHW.device) for part in parameters)
        views = _crop(images_BCHW, box, flip) if self.crop[0] < 1 else _flip(images_BCHW, flip)
        views = torch.where(jittered[:, None, None, None], _jitter(views, colour), views)
        return torch.where(grey[:, None, None, None], _luma(views).expand_as(views), views)

    def __call__(self, images_BCHW: Tensor, dice: Dice) -> Tensor:
        """Draw and apply."""
        return self.apply(images_BCHW, self.draw(dice))


def _flip(images: Tensor, flip_B: Tensor) -> Tensor:
    return torch.where(flip_B[:, None, None, None], images.flip(3), images)


def _crop(images: Tensor, box_B4: Tensor, flip_B: Tensor) -> Tensor:
    """Resample each box to the full size, bilinear; a flip is a negative width of the sampling grid."""
    left, top, width, height = box_B4.unbind(1)
    zero = torch.zeros_like(left)
    sign = 1 - 2 * flip_B.to(width.dtype)
    across = torch.stack([width * sign, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


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
