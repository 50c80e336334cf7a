"""A new encoder: an architecture and a seed in, a network with initial weights out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stealing.encoders.architectures import (
    build_described,
    check_description,
    describe,
    foreign_modules,
)
from stealing.encoders.encoder import Encoder
from stealing.reading import refused_as_setting


def build_encoder(arch: Mapping[str, Any], seed: int) -> Encoder:
    """Return an encoder with initial weights, a function of (arch, seed).

    The global random generator does not change.

    Args:
        arch: a resolved node of `conf/arch`, of the user's own choice: classes that it names are
            imported. The architecture of a card goes through `load_encoder`.
        seed: of the weights; `stealing.seeds.weights_seed` gives one for each purpose.

    Raises:
        ConfigError: An argument is unknown or out of its range.
    """
    with refused_as_setting("arch"):
        description = describe(arch)
        modules = foreign_modules(description)
        check_description(description, modules)
        return build_seeded(description, seed, modules)


def check_arch(arch: Mapping[str, Any]) -> None:
    """Refuse an architecture that `build_encoder` would refuse, without memory for its weights.

    Raises:
        ConfigError: An argument is unknown or out of its range, or they do not fit together.
    """
    with refused_as_setting("arch"):
        description = describe(arch)
        modules = foreign_modules(description)
        check_description(description, modules)
        # The constructor of a user's own class may compute with weights, so it is not tried.
        if not modules:
            build_seeded(description, 0, modules, "meta")


def build_seeded(
    description: Mapping[str, Any],
    seed: int,
    trusted: Sequence[str],
    device: str = "cpu",
) -> Encoder:
    """Build a checked description with weights from this seed.

    Args:
        description: see `stealing.encoders.architectures`.
        seed: of the weights.
        trusted: modules of the user's own.
        device: on `meta` the network has shapes and no weights.

    Raises:
        InvalidContent: Its classes do not take these arguments together.
        ConfigError: A class of a module that is not trusted.
    """
    # devices=[]: weights are drawn on the CPU, and no GPU's generator need be saved.
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return build_described(description, trusted)
