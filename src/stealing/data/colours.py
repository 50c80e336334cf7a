"""Changes of colours, on chosen images of a batch: images and factors in, images out.

Shape letters: B images, C = 3 channels, H and W pixels. Images are float in [0, 1]. All operations
are defined as in torchvision. New memory for each operation would cost a CPU more than the
arithmetic does, so that most of them work in place, on a tensor of their own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value, as in torchvision."""

CHOOSES_ROWS = frozenset({"cpu"})
"""Devices that change only the chosen rows; a GPU would wait until the CPU had counted them."""


def changed(
    images_BCHW: Tensor, chosen_B: Tensor, change: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """Return the images, of which the chosen ones are changed.

    Args:
        images_BCHW: overwritten on a CPU.
        chosen_B: True for the images to change.
        change: takes images, which it leaves as they are, and their rows of the parameters.
        parameters: one row an image.
    """
    if images_BCHW.device.type in CHOOSES_ROWS:
        # the other rows cost nothing
        rows = chosen_B.nonzero()[:, 0]
        if len(rows) == 1 < len(images_BCHW):
            # twice: torch adds up the mean of a single large image in another order
            rows = rows.repeat(2)
        own = (part.index_select(0, rows) for part in parameters)
        return images_BCHW.index_copy_(0, rows, change(images_BCHW.index_select(0, rows), *own))
    everywhere = change(images_BCHW, *parameters)
    return torch.where(chosen_B[:, None, None, None], everywhere, images_BCHW)


def grey(images: Tensor) -> Tensor:
    """Return the images in shades of grey."""
    return _luma(images).expand_as(images)


def solarised(images: Tensor) -> Tensor:
    """Invert values from 128 of 255 on, as `PIL.ImageOps.solarize` does."""
    return torch.where(images < 128 / 255, images, 1 - images)


def jitter(images: Tensor, colour_B4: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order.

    Args:
        images: to change.
        colour_B4: factors of the first three, and the turn of the hue in circles.
    """
    brightness, contrast, saturation, hue = colour_B4[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 1)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    shades = _luma(images).mul_(1 - saturation)
    images.mul_(saturation).add_(shades).clamp_(0, 1)
    return _turn_hue(images, hue[:, 0])


def _luma(images: Tensor) -> Tensor:
    """Return the grey value (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    shades = red * LUMA[0]
    shades += green * LUMA[1]
    shades += blue * LUMA[2]
    return shades[:, None]


def _turn_hue(images: Tensor, turn_B11: Tensor) -> Tensor:
    """Turn the hue by a share of the circle, in place; value and chroma stay (HSV).

    Each channel is a trapezoid over the hue, as in the formula of HSV to RGB without cases:
    value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6 and n = 5, 3, 1.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # A grey pixel has no hue; any divisor but 0 will do.
    safe = chroma.clamp(min=torch.finfo(chroma.dtype).tiny)
    from_red = (green - blue).div_(safe)
    from_green = (blue - red).div_(safe).add_(2)
    sector = (red - green).div_(safe).add_(4)
    # `lerp` with weights of 0 and 1 chooses as `where` does, ten times as fast on a CPU. The
    # channels are read no more, and become the weights: 0 where that channel is the greatest.
    torch.lerp(from_green, sector, green.ne_(value), out=sector)
    torch.lerp(from_red, sector, red.ne_(value), out=sector)
    sector += 6 * turn_B11
    for channel, place in zip((red, green, blue), (5, 3, 1), strict=True):
        torch.add(sector, place, out=channel)
    # k mod 6, faster than by `%`: a number just below a multiple may count as that multiple, and
    # the trapezoid is 0 on both sides of it
    k = images.sub_((images * (1 / 6)).floor_(), alpha=6)
    torch.minimum(k, 4 - k, out=k).clamp_(0, 1).mul_(chroma[:, None])
    return torch.sub(value[:, None], k, out=k)
