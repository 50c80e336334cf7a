"""A backbone that takes images of any size: normalised images in, features out.

Shape letters: B images, C = 3 channels, H and W pixels, S the network's side, D feature width.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from stealing.encoders.arguments import SMALLEST_CROP, is_crop
from stealing.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic")
"""Both with antialiasing, as Pillow and torchvision resize."""


class Resized(nn.Module):
    """A network behind the resizing and the centre crop that it was trained for.

    The shorter side is scaled to `size / crop_share` pixels, rounded down, and the middle S x S
    pixels are taken, as timm and torchvision evaluate. Images that have S x S pixels pass as they
    are, bit by bit. The images are normalised already: interpolation is linear, so the order does
    not matter but for rounding. Pillow clips bicubic overshoot to 0 to 255, and this does not.

    Args:
        backbone: the network; its `feature_dim` is D.
        size: S, in pixels; null leaves all images as they are.
        interpolation: `bilinear` or `bicubic`.
        crop_share: side of the crop as a share of the shorter side, from 0.1 to 1.

    Raises:
        ConfigError: A value is out of its range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        size: int | None,
        interpolation: str = "bicubic",
        crop_share: float = 1.0,
    ) -> None:
        super().__init__()
        if interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation={interpolation} is not bilinear or bicubic.")
        if not is_crop(crop_share):
            raise ConfigError(
                f"crop_share={crop_share} has to be a number from {SMALLEST_CROP} to 1."
            )
        if size is not None and size < 1:
            raise ConfigError(f"size={size} has to be 1 pixel or more.")
        self.backbone = backbone
        self.size = size
        self.interpolation = interpolation
        self.crop_share = crop_share
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        # The weights do not show how images are resized.
        inner = str(getattr(backbone, "variant", ""))
        self.variant = f"resized {size} {interpolation} {crop_share:g} {inner}"

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images of any height and width."""
        features: Tensor = self.backbone(self.resize(images_BCHW))
        return features

    def resize(self, images_BCHW: Tensor) -> Tensor:
        """Return the images (B, 3, S, S) that the network sees."""
        size = self.size
        # Whole numbers also while the network is traced, where the parts of a shape are tensors.
        height = int(images_BCHW.shape[2])
        width = int(images_BCHW.shape[3])
        if size is None or (height, width) == (size, size):
            return images_BCHW
        # As timm rounds; int(256.0 - rounding) would give 255.
        shorter = math.floor(size / self.crop_share + 1e-6)
        least = min(height, width)
        sides = (height * shorter // least, width * shorter // least)
        scaled = images_BCHW
        if sides != (height, width):
            scaled = F.interpolate(images_BCHW, sides, mode=self.interpolation, antialias=True)
        top = round((sides[0] - size) / 2)
        left = round((sides[1] - size) / 2)
        return scaled[..., top : top + size, left : left + size]
