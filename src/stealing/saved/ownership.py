"""Replace what only the user's own command may decide: a stranger's settings in, safe ones out.

These are whatever could write, send or reveal something: paths, the ledger, permission to ask a
service, and the names of environment variables with keys.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stealing.errors import ConfigError
from stealing.reading import quoted
from stealing.trust import KEY_VARIABLES

TORCHVISION = (
    "CIFAR10",
    "CIFAR100",
    "DTD",
    "EuroSAT",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "GTSRB",
    "ImageNet",
    "MNIST",
    "STL10",
    "SVHN",
)
"""Data sets of torchvision that a folder may name."""

RUNS_CODE = ("torchscript", "onnx")
"""Families of targets whose file decides what is computed."""

SECRET_SETTINGS = ("variable", "honest", "secret")
"""Settings that name an environment variable."""


def own_settings(saved: dict[str, Any], own: DictConfig, overrides: Sequence[str]) -> None:
    """Replace in place the settings of a stored run that the user's own command decides.

    Args:
        saved: parts of the stored configuration, after `checked_part`.
        own: configuration of the user's command.
        overrides: of that command, as typed.

    Raises:
        ConfigError: with the override that gives a permission which the run needs.
    """
    own_data(saved["data"], own)
    _own_trainer(saved["trainer"], own)
    if saved["target"].get("remote") is not None:
        _own_service(saved["target"], own)
    _own_permissions(saved["target"], overrides)
    # A name that the user typed is meant.
    typed = {word.partition("=")[2] for word in overrides if word.startswith("+")}
    allowed = typed | set(KEY_VARIABLES)
    for node in _nodes(saved["target"]):
        _check_secrets(node, "target.remote.credential", allowed)
    for name, defense in saved["defense"].items():
        for node in _nodes(defense):
            _check_secrets(node, f"defense.{name}", allowed)


def own_data(data: dict[str, Any], own: DictConfig) -> None:
    """Move caches and downloads of a stored part `data` into the user's own folders, in place.

    Args:
        data: the stored part, after `checked_part`.
        own: configuration of the user's command.

    Raises:
        ConfigError: it names an unknown data set of torchvision, or downloads to another place.
    """
    root = OmegaConf.select(own, "data.root") or os.environ.get("STEALING_DATA", "data")
    for node in _nodes(data):
        if "cache" in node:
            node["cache"] = str(own.paths.cache)
        # A stranger may have put anything there; the check of trust refuses it.
        if str(node["_target_"]).endswith(".from_torchvision"):
            _check_download(node, str(root))


def _check_download(node: dict[str, Any], root: str) -> None:
    dataset = node.get("dataset")
    if dataset not in TORCHVISION:
        raise ConfigError(
            f"This run uses the data set {quoted(dataset)}, and a stored run may only use "
            f"{', '.join(TORCHVISION)}: repeat the run by its own command."
        )
    place = node.get("root")
    if not Path(os.path.realpath(str(place))).is_relative_to(os.path.realpath(root)):
        raise ConfigError(
            f"This run keeps downloads in {quoted(place)}, outside {root}: "
            "add +data.root=... if that is your folder of data."
        )


def _own_trainer(trainer: dict[str, Any], own: DictConfig) -> None:
    cores = os.cpu_count() or 1
    for setting in ("devices", "threads"):
        # The run may come from a larger machine.
        if trainer.get(setting, 1) > cores:
            trainer[setting] = own.trainer[setting]


def _own_service(target: dict[str, Any], own: DictConfig) -> None:
    remote = target["remote"]
    is_authorized = bool(own.target.get("authorized", False))
    # This holds for a service on this machine, too: the folder decides what is sent to it.
    if "url" in remote and not is_authorized:
        raise ConfigError(
            f"This run asks the service at {quoted(remote['url'])}: "
            "add target.authorized=true if you may ask it."
        )
    target["authorized"] = is_authorized
    if "authorized" in remote:
        remote["authorized"] = is_authorized
    if "ledger" in remote:
        remote["ledger"] = str(own.paths.ledger)


def _own_permissions(target: dict[str, Any], overrides: Sequence[str]) -> None:
    """Refuse a stored target that would run code of its file, or fetch, unless the user says so."""
    family = target.get("family")
    if family in RUNS_CODE and f"+target.family={family}" not in overrides:
        raise ConfigError(
            f"This run loads {quoted(target.get('weights'))}, whose graph is code: "
            f"add +target.family={family} if you trust that file."
        )
    if target.get("hub") and "+target.hub=true" not in overrides:
        raise ConfigError(
            f"This run fetches the weights of {quoted(target.get('name'))}: "
            "add +target.hub=true if it may."
        )


def _check_secrets(node: dict[str, Any], place: str, allowed: set[str]) -> None:
    for setting in SECRET_SETTINGS:
        variable = node.get(setting)
        if variable is not None and variable not in allowed:
            raise ConfigError(
                f"This run reads a key from the environment variable {quoted(variable)}: "
                f"add +{place}.{setting}={variable} if that key is meant."
            )


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every node with a `_target_` in nested settings."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for part in value.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)
