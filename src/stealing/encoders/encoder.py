"""The class of all targets, surrogates and controls: float images in [0, 1] in, features out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

import hashlib

import torch
from torch import Tensor, nn

from stealing.errors import ConfigError


class Encoder(nn.Module):
    """A backbone behind its own normalisation: images (B, 3, H, W) to features (B, D).

    Args:
        backbone: maps normalised images to features (B, D); its `feature_dim` is D.
        mean: one value a channel; (0, 0, 0) with std (1, 1, 1) leaves images as they are.
        std: one value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean: list[float],
        std: list[float],
    ) -> None:
        super().__init__()
        if not hasattr(backbone, "feature_dim"):
            name = type(backbone).__name__
            raise ConfigError(
                f"{name} has no feature_dim: set self.feature_dim to the width of its features."
            )
        self.backbone = backbone
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        # Buffers, so that they are saved with the weights and no caller can normalise twice.
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of float images in [0, 1]."""
        features: Tensor = self.backbone((images_BCHW - self.mean) / self.std)
        return features

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and buffers: equal fingerprints mean equal features on one machine.

        Two backbones may have the same names and shapes of weights and compute something else. Such
        a backbone has an attribute `variant`, which is part of the hash.
        """
        variant = str(getattr(self.backbone, "variant", ""))
        digest = hashlib.blake2b(variant.encode(), digest_size=16)
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            # Bytes and not numbers, so that every type counts, bfloat16 too.
            flat = tensor.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
