"""timm's networks without their classifiers: normalised images in, features out.

timm is an extra, and is imported when one of its networks is built. Shape letters: B images, C = 3
channels, H and W pixels, D feature width.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stealing.encoders.checkpoints import Weights, read_checkpoint, state_dicts
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import first_line, quoted

POOLS = ("avg", "max", "token", "map")
"""Ways to pool that timm knows and that keep the width: the mean or the largest of all places, the
class token, or attention."""


def import_timm() -> Any:
    """Return timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "timm's networks need timm: pip install 'stealing[targets]', or choose another."
        ) from None
    return timm


def is_timm(name: Any) -> bool:
    """Return True for the name of one of timm's networks, with or without the tag of its weights.

    Raises:
        ConfigError: timm is not installed.
    """
    # A name such as `hf-hub:...` would be fetched.
    if not isinstance(name, str) or ":" in name or "/" in name:
        return False
    return bool(import_timm().is_model(name))


class Timm(nn.Module):
    """One of timm's networks up to its pooled features.

    Args:
        name: timm's name, such as `vit_tiny_patch16_224` or `resnet50.a1_in1k`; a tag chooses
            among public weights.
        pool: how places or tokens become one vector, one of `POOLS`; null as in the network.
        size: side of the images in pixels, for networks with a fixed one, such as a ViT; null for
            that of the network.
        weights: a file of weights for this network, with a classifier or without; null for initial
            weights. It is read once, here: a card does not keep it.
        hub: whether timm fetches its public weights over the network.
        checkpointing: whether activations are computed again in the backward pass, which saves
            memory.

    Raises:
        ConfigError: timm is absent, has no such network, or the network does not take a value.
        CheckpointError: the weights do not fit, name by name and shape by shape.
    """

    def __init__(
        self,
        name: str,
        pool: str | None = None,
        size: int | None = None,
        weights: str | None = None,
        hub: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        timm = import_timm()
        if not is_timm(name):
            raise ConfigError(f"timm has no network {quoted(name)}: timm.list_models() has names.")
        arguments: dict[str, Any] = {"num_classes": 0, "global_pool": pool}
        # Networks without a fixed size have no such argument.
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if config is not None and config.fixed_input_size:
            arguments["img_size"] = size
        try:
            network: Any = timm.create_model(name, pretrained=hub, **arguments)
            network.set_grad_checkpointing(checkpointing)
        # What timm raises for a network that does not take an argument, or that cannot be fetched.
        except (AssertionError, AttributeError, OSError, RuntimeError, TypeError) as error:
            raise ConfigError(f"timm cannot build {name}: {first_line(error)}.") from error
        self.network = network
        self.feature_dim = int(getattr(network, "head_hidden_size", network.num_features))
        # Networks with the same weights may compute something else, such as another activation.
        self.variant = f"timm {name.partition('.')[0]} {pool}"
        if weights is not None:
            _fill(network, Path(weights))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of normalised images."""
        features: Tensor = self.network(images_BCHW)
        return features


def _fill(network: Any, path: Path) -> None:
    """Load a file of weights; those of a classifier are left out."""
    found = dict(state_dicts(read_checkpoint(path)))
    if not found:
        raise CheckpointError(f"{path} holds no tensors: name a file of weights.")
    weights = max(found.values(), key=len)
    weights = converted(network, weights) or weights
    weights = _without_classifier(network, weights)
    own = network.state_dict()
    wrong = sorted(own.keys() ^ weights.keys())
    if not wrong:
        wrong = [name for name, tensor in own.items() if tensor.shape != weights[name].shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit {type(network).__name__} at {quoted(wrong[0])}: "
            "name the network that it is of."
        )
    # A network without memory for its weights is built to be checked alone.
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.load_state_dict(weights)


def _without_classifier(network: Any, weights: Weights) -> Weights:
    names = network.pretrained_cfg.get("classifier") or ()
    heads = (names,) if isinstance(names, str) else tuple(names)
    kept: Weights = {}
    for name, tensor in weights.items():
        if not name.startswith(tuple(f"{head}." for head in heads)):
            kept[name] = tensor
    return kept


def converted(network: Any, weights: Mapping[str, Any]) -> Weights | None:
    """Return weights in the present format of a network of timm, by timm's own converter.

    Each family converts its earlier formats, and position embeddings of another size.

    Args:
        network: of timm.
        weights: as a file has them.

    Returns:
        None if there is no converter, or these are not weights of the network.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        result: Weights = convert(dict(weights), network)
    # What timm's converters raise for weights of another network.
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    return result
