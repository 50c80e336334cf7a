"""Random views of a batch: parameters are drawn image by image, pixels are computed for the batch.

Shape letters: B images, C = 3 channels, H and W pixels, T tries. Images are float32 in [0, 1].

Source: SimCLR (arXiv:2002.05709), appendix A, with the CIFAR changes (no blur by default). Crops
have the distribution of torchvision's `RandomResizedCrop`, and all operations are defined as in
torchvision.

Departures:
    - The order of the four colour operations is fixed; torchvision draws an order for each image.
    - Arithmetic is in float32; torchvision's PIL pipeline rounds to 8 bits after each operation.
    - A crop is never larger than its image, so it is only ever enlarged: torchvision's `antialias`
      filters only reductions and has no counterpart here.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.data.colours import changed, grey, jitter, solarised
from stealing.data.sampling import RandomNumbers
from stealing.errors import ConfigError
from stealing.numbers import check_number

TRIES = 10
"""Candidate boxes of one crop, as in torchvision's `RandomResizedCrop.get_params`."""

WIDEST = 4 / 3
"""Width over height of the widest crop; the narrowest crop has the inverse. Same source."""

SIGMAS = (0.1, 2.0)
"""Least and greatest standard deviation of a blur in pixels, as in SimCLR, appendix A."""

REACH = 6
"""Pixels on each side from which a blur takes light: three of its greatest deviations."""


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
        sigma_B: standard deviation of its blur in pixels; 0 for none.
        solarised_B: True if light values are inverted.
    """

    box_B4: Tensor
    flip_B: Tensor
    colour_B4: Tensor
    jittered_B: Tensor
    grey_B: Tensor
    sigma_B: Tensor
    solarised_B: Tensor


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
        widest: width over height of the widest crop, at least 1; the narrowest has the inverse.
        blur: probability of a Gaussian blur; deviations are uniform, 0.1 to 2 pixels.
        solarise: probability that values from 128 of 255 on are inverted.

    Raises:
        ConfigError: a number is not in its range, or the least crop is larger than the greatest.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey: float = 0.2
    widest: float = WIDEST
    blur: float = 0.0
    solarise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grey", "blur", "solarise"):
            check_number(f"views.{name}", getattr(self, name), high=1)
        check_number("views.widest", self.widest, low=1)
        for name in ("crop", "jitter"):
            for number in getattr(self, name):
                check_number(f"views.{name}", number, high=1)
        if len(self.crop) != 2 or self.crop[0] > self.crop[1] or len(self.jitter) != 4:
            raise ConfigError(
                "views.crop takes two numbers, the smaller one first, and views.jitter takes four: "
                "correct the one that does not fit."
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
        sigma_B, solarised_B = self._draw_blur_and_solarisation(random, grey[:, 0])
        return ViewParameters(
            box_B4=box_B4,
            flip_B=flip[:, 0] < self.flip,
            colour_B4=colour_B4,
            jittered_B=jittered[:, 0] < self.jitter_probability,
            grey_B=grey[:, 0] < self.grey,
            sigma_B=sigma_B,
            solarised_B=solarised_B,
        )

    def _draw_blur_and_solarisation(
        self, random: RandomNumbers, like_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the deviations of blurs, and which views are solarised, both (B,)."""
        nothing_B = torch.zeros_like(like_B)
        if self.blur == self.solarise == 0:
            # no number is drawn: views without both are those of versions that had neither
            return nothing_B, nothing_B.bool()
        is_blurred, share, is_solarised = random.uniform(3).unbind(1)
        least, greatest = SIGMAS
        sigma_B = least + share * (greatest - least)
        blurred_B = is_blurred < self.blur
        return torch.where(blurred_B, sigma_B, nothing_B), is_solarised < self.solarise

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
        ratio_BT = torch.exp((ratio_BT * 2 - 1) * math.log(self.widest))
        squares_BT2 = torch.stack([area_BT * ratio_BT, area_BT / ratio_BT], 2)
        sizes_BT2 = squares_BT2.sqrt().round().long()
        device = area_BT.device
        whole = _constant((width, height), device, torch.int64)
        fits_BT = ((sizes_BT2 > 0) & (sizes_BT2 <= whole)).all(2)
        first_B = fits_BT.int().argmax(1)  # of equal values argmax returns the first
        size_B2 = sizes_BT2.take_along_dim(first_B[:, None, None], 1)[:, 0]
        corner_B2 = (place_B2 * (whole - size_B2 + 1)).long()

        largest = (
            min(width, round(height * self.widest)),
            min(height, round(width * self.widest)),
        )
        fallback = _constant(largest, device, torch.int64)
        fits_B1 = fits_BT.any(1, keepdim=True)
        size_B2 = torch.where(fits_B1, size_B2, fallback)
        corner_B2 = torch.where(fits_B1, corner_B2, (whole - fallback) // 2)
        return torch.cat([corner_B2, size_B2], 1)

    def apply(self, images_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the views of these images, same shape, type and device.

        No operation here is a matrix product: autocast would compute that in lower precision.
        """
        parts = (part.to(images_BCHW.device) for part in parameters)
        box, flip, colour, is_jittered, is_grey, sigma, is_solarised = parts
        is_cropped = self.crop[0] < 1
        views = _crop(images_BCHW, box, flip) if is_cropped else _flip(images_BCHW, flip)
        views = changed(views, is_jittered, jitter, colour)
        views = changed(views, is_grey, grey)
        if self.blur > 0:
            views = _blur(views, sigma)
        if self.solarise > 0:
            views = changed(views, is_solarised, solarised)
        return views

    def __call__(self, images_BCHW: Tensor, random: RandomNumbers) -> Tensor:
        """Draw parameters for these images and apply them."""
        height, width = images_BCHW.shape[2:]
        return self.apply(images_BCHW, self.draw(random, height, width))


def quantised(images_BCHW: Tensor) -> Tensor:
    """Round images to uint8, the form in which every image is sent."""
    return (images_BCHW * 255).round().to(torch.uint8)


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
    # one plane for each axis: torch writes and reads them faster than pairs, for the same values
    places_B2HW = torch.stack([x_BW[:, None].expand(size), y_BH[..., None].expand(size)], 1)
    grid_BHW2 = places_B2HW.permute(0, 2, 3, 1)
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


def _blur(images: Tensor, sigma_B: Tensor) -> Tensor:
    """Blur each image along both axes; pixels beyond the edge have the value of the edge."""
    offsets = torch.arange(-REACH, REACH + 1, device=images.device)
    # the bound keeps 0 from being divided by 0; its weights are 1 in the centre and 0 elsewhere
    widths_B1 = sigma_B[:, None].clamp(min=1e-3)
    weights_BK = torch.exp(-(offsets**2) / (2 * widths_B1**2))
    weights_KB111 = (weights_BK / weights_BK.sum(1, keepdim=True)).T[..., None, None, None]
    for axis, padding in ((3, (REACH, REACH, 0, 0)), (2, (0, 0, REACH, REACH))):
        size = images.shape[axis]
        padded = F.pad(images, padding, mode="replicate")
        images = torch.zeros_like(images)
        for shift, weight in enumerate(weights_KB111):
            images = images + weight * padded.narrow(axis, shift, size)
    return images
