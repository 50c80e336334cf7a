"""A backbone with a linear layer behind it: normalised images in, features of another width out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

from torch import Tensor, nn

WIDEST_ADAPTER = 2**14
"""Most features behind the layer: no target gives more."""


class Adapted(nn.Module):
    """A surrogate's network with its adapter, as one network.

    Args:
        backbone: the network; its `feature_dim` is the width before the layer.
        width: D, of the features behind the layer.
    """

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = nn.Linear(int(backbone.feature_dim), width)  # type: ignore[arg-type]
        # The weights do not show what the network inside computes.
        self.variant = str(getattr(backbone, "variant", ""))
        self.feature_dim = width

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images."""
        features: Tensor = self.adapter(self.backbone(images_BCHW))
        return features
