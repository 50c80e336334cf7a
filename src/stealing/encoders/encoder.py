"""What everything here trains, asks or steals: float images in [0, 1] in, feature vectors out; saved and loaded.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stealing.artefacts import write_whole
from stealing.errors import CheckpointError


class Encoder(nn.Module):
    """Normalises with its own mean and standard deviation, then applies the backbone: (B, 3, H, W) -> (B, D).

    Args:
        backbone: maps normalised images to features (B, D) and states its width as `feature_dim`.
        mean: one value a channel; (0, 0, 0) with std (1, 1, 1) leaves images as they are.
        std: one value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of float images in [0, 1]."""
        features: Tensor = self.backbone((images_BCHW - self.mean) / self.std)
        return features

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and buffers: equal fingerprints answer equally on the same machine."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_encoder(arch: dict[str, Any], seed: int) -> Encoder:
    """Return a freshly initialised encoder, a function of (arch, seed).

    The global generator stays as it was.

    Args:
        arch: a resolved node of `conf/arch`.
        seed: of the weights; `stealing.seeds.weights_seed` gives each owner one of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = instantiate(arch, _convert_="all")
    assert isinstance(encoder, Encoder)
    return encoder


def save_encoder(encoder: Encoder, path: Path, *, arch: dict[str, Any], size: int, provenance: dict[str, Any]) -> None:
    """Write `path` (safetensors) and, beside it, the JSON that says how to build the network and where it is from."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    write_whole(path, save(weights))
    card = {"arch": arch, "size": size, "feature_dim": encoder.feature_dim, "provenance": provenance}
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=1).encode())


def load_encoder(path: Path) -> tuple[Encoder, dict[str, Any]]:
    """The encoder saved at `path`, in eval mode, and its card.

    Raises:
        CheckpointError: a file is absent or broken, or the weights do not fit the architecture name by name.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is not a safetensors file: save your encoder with stealing.encoders.save_encoder."
        )
    for file in (path, path.with_suffix(".json")):
        if not file.exists():
            raise CheckpointError(f"{file} does not exist: an encoder is a .safetensors file with its .json beside it.")
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        encoder, weights = build_encoder(card["arch"], seed=0), load_file(path)
    except (SafetensorError, json.JSONDecodeError, KeyError, InstantiationException) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read ({why}): fetch or make the file again.") from None
    ours = encoder.state_dict()
    wrong = sorted(set(ours) ^ set(weights)) or [n for n in ours if ours[n].shape != weights[n].shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit its architecture at '{wrong[0]}': mend the name or the .json's arch."
        )
    encoder.load_state_dict(weights)
    return encoder.eval(), card
