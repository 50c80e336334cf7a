"""Residual backbones: normalised images (B, 3, H, W) in, average-pooled features (B, D) out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import resnet
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


class CifarResNet(nn.Module):
    """torchvision's ResNet-18 or -34 with the CIFAR stem: 3x3, stride 1, padding 1, no max-pool, no classifier.

    Source: StolenEncoder's released code (liu00222/StolenEncoder at a9447c4), SimCLR's appendix B.9 for the stem.

    Args:
        depth: 18 or 34.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}[depth]
        network = resnet.ResNet(BasicBlock, blocks)
        self.feature_dim = int(network.fc.in_features)
        network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
        network.fc = nn.Identity()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, 512) of normalised images."""
        return torch.flatten(self.network(images_BCHW), 1)
