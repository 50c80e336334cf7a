"""A residual backbone for CPUs: normalised images in, average-pooled features out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class NarrowResNet(nn.Module):
    """A residual network that a CPU can train.

    It has few channels at full resolution, and most of its blocks at half of it and below.

    Args:
        stem: channels of the 3x3, stride-1 stem at full resolution.
        widths: channels of each stage; every stage halves the resolution.
        blocks: number of basic blocks of each stage.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(True),
        ]
        channels = stem
        for width, count in zip(widths, blocks, strict=True):
            layers.append(BasicBlock(channels, width, 2, _shortcut(channels, width)))
            for _ in range(count - 1):
                layers.append(BasicBlock(width, width))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.feature_dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # As torchvision initialises its own residual networks.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images."""
        features: Tensor = self.layers(images_BCHW)
        return features.mean((2, 3))


def _shortcut(inputs: int, outputs: int) -> nn.Module:
    """Return the shortcut of a block that halves the resolution."""
    convolution = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
