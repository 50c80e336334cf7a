"""Public weights from which a training starts: an architecture in; its key and its variants out.

A file of weights counts in keys by its content. Its place is the user's own, and is in no key and
no card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stealing.artefacts import checksum
from stealing.encoders.architectures import ARCHITECTURES, describe, without_initial
from stealing.errors import ConfigError

WEIGHTS = "weights"
"""The argument of an architecture that names a file of initial weights."""


def has_public_start(arch: Any) -> bool:
    """Return True if an architecture, or a part of it, names a file of initial weights."""
    if isinstance(arch, list):
        return any(map(has_public_start, arch))
    if not isinstance(arch, Mapping):
        return False
    return _names_file(arch) or any(map(has_public_start, arch.values()))


def random_start(arch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same architecture with random initial weights, as a description."""
    description: dict[str, Any] = without_initial(describe(arch))
    return description


def arch_in_key(arch: Any) -> Any:
    """Return an architecture as keys have it: the checksum of a file stands for its path.

    Args:
        arch: a node of `conf/arch`, or a part of it. If it names no file, the result equals it.

    Raises:
        ConfigError: A file cannot be read.
    """
    if isinstance(arch, list):
        return [arch_in_key(part) for part in arch]
    if not isinstance(arch, Mapping):
        return arch
    parts = {name: arch_in_key(part) for name, part in arch.items()}
    if _names_file(arch):
        parts[WEIGHTS] = _checksum(arch[WEIGHTS])
    return parts


def _names_file(node: Mapping[str, Any]) -> bool:
    # A class of a user's own may have an argument of this name, with another meaning.
    name = str(node.get("class") or node.get("_target_"))
    if name.startswith("stealing."):
        name = name.rpartition(".")[2]
    architecture = ARCHITECTURES.get(name)
    if architecture is None or WEIGHTS not in architecture.initial:
        return False
    return node.get(WEIGHTS) is not None


def _checksum(path: str) -> str:
    try:
        return checksum(Path(path))
    except OSError as error:
        raise ConfigError(
            f"arch.weights={path} cannot be read ({error.strerror}): name a file of weights."
        ) from None
