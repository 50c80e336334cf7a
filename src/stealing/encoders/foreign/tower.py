"""A network of another library as a backbone: normalised images in, one tensor of features out.

Shape letters: B images, C = 3 channels, H and W pixels, D feature width.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stealing.encoders.encoder import Encoder
from stealing.encoders.foreign.loaded import ForeignTarget, Preprocessing
from stealing.encoders.resized import Resized
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import first_line


class Tower(nn.Module):
    """A network, and how its features are taken from what it returns.

    Args:
        network: of another library.
        variant: differs between networks whose weights have the same names and shapes.
        features: returns features (B, D) from the network's output; None if the output is them.
        is_graph: whether it is a TorchScript graph. Its optimised execution may change the last
            bits of the first calls.
    """

    def __init__(
        self,
        network: nn.Module,
        variant: str,
        features: Callable[[Any], Any] | None = None,
        *,
        is_graph: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.variant = variant
        self.features = features
        self.is_graph = is_graph
        # Measured by `checked`, which knows the size of the images.
        self.feature_dim = 1

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images."""
        if self.is_graph:
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                answer = self.network(images_BCHW)
        else:
            answer = self.network(images_BCHW)
        if self.features is not None:
            answer = self.features(answer)
        if not isinstance(answer, Tensor):
            raise CheckpointError(
                f"The network returns {type(answer).__name__} in place of one tensor of features: "
                "export it again with only its features."
            )
        # Some exporters keep the places of a pooled map, (B, D, 1, 1).
        return answer.flatten(1) if answer.ndim > 2 else answer


@torch.inference_mode()
def checked(tower: Tower, preprocessing: Preprocessing) -> Encoder:
    """Return an encoder around a network, after a pass that measures its width.

    Raises:
        ConfigError: the network does not take images of this size.
        CheckpointError: it does not return one vector an image.
    """
    size = preprocessing.size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tower.eval()
    try:
        features = tower(images)
    # What libraries raise for images of another size.
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"The network does not take images of {size} pixels ({first_line(error)}): "
            "set target.size=."
        ) from None
    if features.ndim != 2 or len(features) != len(images):
        raise CheckpointError(
            f"The network returns the shape {tuple(features.shape)} for {len(images)} images: "
            "export it again, with one vector an image and a batch of any length."
        )
    tower.feature_dim = features.shape[1]
    resized = Resized(tower, size, preprocessing.interpolation, preprocessing.crop)
    encoder = Encoder(resized, list(preprocessing.mean), list(preprocessing.std))
    return encoder.eval()


def import_extra(module: str, package: str, extra: str) -> Any:
    """Return a module of an optional package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"This target needs {package}: pip install 'stealing[{extra}]', or choose another."
        ) from None


def file_of(target: ForeignTarget) -> str:
    """Return the file of weights.

    Raises:
        ConfigError: none is named.
    """
    if target.weights is None:
        raise ConfigError("target.weights= names no file: name one.")
    return target.weights


def given_preprocessing(target: ForeignTarget) -> Preprocessing:
    """Return the preprocessing of an opaque function, which has no configuration.

    Raises:
        ConfigError: size, mean or standard deviation is not given.
    """
    for name in ("size", "mean", "std"):
        if getattr(target, name) is None:
            raise ConfigError(
                f"target.{name}= has no value, and a file of {target.family} does not hold it: "
                "set target.size=, target.mean= and target.std= as the network was trained."
            )
    assert target.size is not None
    # Nothing is known that the user's values could replace.
    return replace(Preprocessing(target.size).overridden(target), replaces=None)
