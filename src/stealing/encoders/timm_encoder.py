"""An encoder of one of timm's networks, at a size of its own: float images in, features out."""

import torch

from stealing.encoders.encoder import Encoder
from stealing.encoders.resized import Resized
from stealing.encoders.timm_network import Timm, import_timm
from stealing.errors import ConfigError
from stealing.reading import first_line


class TimmEncoder(Encoder):
    """A network of timm behind its own mean, standard deviation and size.

    Mean and standard deviation are those of the network's configuration in timm. Public weights
    were trained behind them.

    Args:
        name: timm's name, such as `resnet50`, `vit_tiny_patch16_224`, `convnext_tiny` or
            `efficientnet_b0`.
        size: height and width at which the network works; images of other sizes are resized. Null
            takes images as they are, which a ViT takes only at its own size.
        weights: a file of public weights of this network, from which the training starts; null
            starts from random weights.
        checkpointing: whether activations are computed again in the backward pass, which takes a
            third more time and far less memory. BatchNorm sees each batch twice then.

    Raises:
        ConfigError: timm is absent, or has no such network, or the network does not take the size.
        CheckpointError: the weights do not fit the network.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        weights: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        if size is not None:
            _check_size(name, size)
        network = Timm(name, size=size, weights=weights, checkpointing=checkpointing)
        settings = import_timm().data.resolve_model_data_config(network.network)
        super().__init__(Resized(network, size), list(settings["mean"]), list(settings["std"]))


def _check_size(name: str, size: int) -> None:
    """Refuse a size that the network's layers do not take; some notice it only in a forward pass.

    A network on the device `meta` has shapes and no weights, so that the pass costs nothing.
    """
    with torch.device("meta"):
        network = Timm(name, size=size).eval()
        try:
            network(torch.empty(1, 3, size, size))
        except (AssertionError, RuntimeError) as error:
            raise ConfigError(
                f"{name} does not take images of {size} pixels ({first_line(error)}): "
                "set arch.size to another number."
            ) from None
