"""A residual backbone for processors: normalised images (B, 3, H, W) in, average-pooled features (B, D) out."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class NarrowResNet(nn.Module):
    """A residual network that a CPU can train: few channels at full resolution, most blocks at half and below.

    Args:
        stem: channels of the 3x3, stride-1 stem at full resolution.
        widths: channels of each stage; every stage halves the resolution.
        blocks: basic blocks of each stage.
    """

    def __init__(self, stem: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(True)]
        channels = stem
        for width, count in zip(widths, blocks, strict=True):
            for index in range(count):
                stride = 2 if index == 0 else 1
                layers.append(BasicBlock(channels, width, stride, _shortcut(channels, width) if index == 0 else None))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.feature_dim = channels
        for module in self.modules():  # torchvision's initialisation of its own residual networks
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of normalised images."""
        features: Tensor = self.layers(images_BCHW)
        return features.mean((2, 3))


def _shortcut(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
