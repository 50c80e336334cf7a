"""torchvision's classifiers without their last layers: normalised images in, features out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from stealing.errors import ConfigError

STEM_PADDING = {"cifar": 1, "cont_steal": 2}
"""Padding of the 3x3 stems of stride 1 without max-pool: SimCLR's (arXiv:2002.05709, appendix B.9)
and Cont-Steal's."""


class Headless(nn.Module):
    """One of torchvision's classifiers, with initial weights, up to its global average pool.

    Sources: StolenEncoder's released code (liu00222/StolenEncoder at a9447c4) for the CIFAR stem
    and the choice of networks; Cont-Steal's (zeyangsha/Cont-Steal at 49233dd) for the stem with
    padding 2. A replaced stem has the default initialisation of `nn.Conv2d` (standard deviation
    0.111), because the released code puts it in after torchvision has initialised the network
    (surrogate_model.py). torchvision's own initialisation would give 0.059.

    Args:
        name: torchvision's name, such as `resnet50`, `vgg19_bn`, `densenet121` or `mobilenet_v2`.
        stem: `imagenet` (as in torchvision), or, only for a ResNet, `cifar` or `cont_steal`.

    Raises:
        ConfigError: This network does not take the stem.
    """

    def __init__(self, name: str, stem: str = "imagenet") -> None:
        super().__init__()
        network: Any = torchvision.models.get_model(name, weights=None)
        if stem in STEM_PADDING and isinstance(network, torchvision.models.ResNet):
            width = network.conv1.out_channels
            padding = STEM_PADDING[stem]
            network.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=padding, bias=False)
            network.maxpool = nn.Identity()
        elif stem != "imagenet":
            raise ConfigError(
                f"{name} does not take the stem {stem!r}: set stem=imagenet, or choose a ResNet."
            )
        if isinstance(network, torchvision.models.VGG):
            # VGG's own pool keeps 7x7 places for its classifier.
            network.avgpool = nn.AdaptiveAvgPool2d(1)
        head = "fc" if hasattr(network, "fc") else "classifier"
        setattr(network, head, nn.Identity())
        self.network = network
        # The weights do not distinguish this stem from `cifar`: only the padding differs.
        self.variant = stem if stem == "cont_steal" else ""
        self.feature_dim = self._width()

    @torch.no_grad()
    def _width(self) -> int:
        """Measure D: each family has its own name for the width before its last layer."""
        self.eval()
        width = self(torch.zeros(1, 3, 32, 32)).shape[1]
        self.train()
        return int(width)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images; the deepest networks need 32 pixels."""
        return torch.flatten(self.network(images_BCHW), 1)
