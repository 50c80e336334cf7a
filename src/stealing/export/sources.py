"""What is exported: a run's folder or an encoder's file in; its network and its facts out.

Both may be a stranger's. They are data: nothing that they hold is executed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.data import shapes as drawing
from stealing.encoders import load_encoder
from stealing.report.run_files import FinishedRun, read_arrays
from stealing.surrogates import Surrogate, load_surrogate_and_card

SHOWN = 6
"""Real images on which a written file is compared with the network that it was made from."""


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        name: of its run or file, for its card.
        module: images (B, 3, size, size) in [0, 1] to features, in eval mode on the CPU.
        arch: description of the encoder in it.
        size: height and width of the images that it takes.
        images: real images, float (N, 3, size, size) in [0, 1].
        result: `result.json` of its run; None for a file.
    """

    name: str
    module: Surrogate
    arch: dict[str, Any]
    size: int
    images: Tensor
    result: Mapping[str, Any] | None


def open_source(path: Path, trust: Sequence[str] = ()) -> Source:
    """Open a finished run's folder, or a `.safetensors` file with its card.

    Args:
        path: of either.
        trust: modules of the user's own whose classes the architecture may name.

    Raises:
        CheckpointError, DamageError: It cannot be read; the message says why.
    """
    if path.is_dir():
        surrogate, card = load_surrogate_and_card(path, trust)
        result = FinishedRun.read(path).result
        images = torch.from_numpy(read_arrays(path / "sample.safetensors")["images"][:SHOWN])
    else:
        encoder, card = load_encoder(path, trust)
        surrogate = Surrogate(encoder, nn.Identity(), encoder.feature_dim).eval()
        result = None
        images = _drawn()
    size = int(card["size"])
    shown = F.interpolate(images.float() / 255, (size, size), mode="bilinear")
    return Source(path.resolve().name, surrogate, card["arch"], size, shown, result)


def _drawn() -> Tensor:
    """Return images that the package draws: a file has no images of its own."""
    indices = np.arange(SHOWN)
    drawn = drawing.draw(indices, seed=0, split="test", domain="scene", size=64)
    return torch.from_numpy(drawn.pixels)
