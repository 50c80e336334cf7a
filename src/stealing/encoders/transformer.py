"""torchvision's vision transformers without their heads: normalised images in, features out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

from typing import Any

import torchvision
from torch import Tensor, nn

NETWORKS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
"""torchvision's names."""


class Transformer(nn.Module):
    """A vision transformer of torchvision up to its class token, after the last LayerNorm.

    Args:
        name: one of `NETWORKS`.
        size: side of the images in pixels, a multiple of the side of a patch.
    """

    def __init__(self, name: str, size: int = 224) -> None:
        super().__init__()
        network: Any = torchvision.models.get_model(name, weights=None, image_size=size)
        network.heads = nn.Identity()
        self.network = network
        self.feature_dim = int(network.hidden_dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images of the network's own size."""
        features: Tensor = self.network(images_BCHW)
        return features
