"""Open a target: its configuration in; what can be asked, with and without its defense, out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stealing.artefacts import key
from stealing.config import instantiate_node, to_dict
from stealing.defenses.chain import Chain
from stealing.encoders import Encoder, load_encoder
from stealing.encoders.foreign.load import load_foreign
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.resized import Resized
from stealing.queries.bank import Bank
from stealing.queries.target import Target
from stealing.targets.local import LocalTarget, fingerprint


@dataclass(frozen=True)
class LocalEncoder:
    """An encoder in this process, before it is offered as a target.

    Attributes:
        encoder: in eval mode.
        size: height and width of the images that it takes, in pixels.
        folder: of its files; None for a network that a package or a hub holds.
        card: of its file, or what is known of another program's; None if this run trained it.
        foreign: how it was loaded; None if it is of this project.
    """

    encoder: Encoder
    size: int
    folder: Path | None
    card: dict[str, Any] | None = None
    foreign: Loaded | None = None


@dataclass(frozen=True)
class OpenTarget:
    """A target that can be asked.

    Attributes:
        offered: the target with its defense.
        undefended: the same target without its defense; None for a remote target, whose defense
            belongs to the service.
        defense: what this process does to the answers; an empty chain for a remote target.
    """

    offered: Target
    undefended: Target | None
    defense: Chain


def is_local(config: DictConfig) -> bool:
    """Return True if the target is a saved encoder, of this project or of another program."""
    return config.target.path is not None or config.target.get("family") is not None


def load_local(config: DictConfig) -> LocalEncoder:
    """Load the encoder at `target.path`, or that of another program.

    Raises:
        ConfigError, CheckpointError, DamageError: as `load_encoder` and `load_foreign` do.
    """
    if config.target.path is None:
        target = ForeignTarget.of(to_dict(config.target))
        loaded = load_foreign(target)
        size = _size_of_images(config, loaded.preprocessing.size)
        known = {"arch": dict(loaded.description or {}), "provenance": {}}
        folder = Path(target.weights).parent if target.weights else None
        return LocalEncoder(loaded.encoder, size, folder, known, loaded)
    path = Path(config.target.path)
    encoder, card = load_encoder(path, config.trust)
    size = int(card["size"])
    if isinstance(encoder.backbone, Resized):
        size = _size_of_images(config, size)
    return LocalEncoder(encoder, size, path.parent, card)


def _size_of_images(config: DictConfig, size: int) -> int:
    """Return the side of the images that are sent to an encoder which resizes them itself.

    Args:
        config: a run has data, and its images are sent as they are; a service has none.
        size: that the network sees.
    """
    return int(config.data.size) if "data" in config else size


def load_target(config: DictConfig) -> LocalEncoder | Target | None:
    """Load the target that exists before the run.

    Returns:
        A saved encoder, a remote target, or None if the run trains its target.

    Raises:
        StealingError: the encoder cannot be loaded, or settings of the remote target or of the
            defense are wrong.
    """
    # built to be checked: a target may be trained for hours before its defense is needed
    Chain(instantiate_node(config.defense))
    if config.target.remote is not None:
        remote: Target = instantiate_node(config.target.remote)
        return remote
    if is_local(config):
        return load_local(config)
    return None


def open_target(
    config: DictConfig,
    source: LocalEncoder | Target,
    *,
    device: str,
    keep_features: bool,
) -> OpenTarget:
    """Offer an encoder or a remote target under the configured defense.

    Args:
        config: of a run or a service; `defense` is read, and `trainer` and `paths` too if features
            are kept.
        source: what is offered.
        device: torch's name of the device that a local encoder computes on.
        keep_features: keep undefended features in `paths.cache`, so that a run with another
            defense does not compute them again.

    Raises:
        ConfigError: a defense is wrong, or was made for another encoder.
    """
    defense = Chain(instantiate_node(config.defense))
    if not isinstance(source, LocalEncoder):
        return OpenTarget(source, None, defense)
    encoder = source.encoder
    defense.check(encoder.fingerprint)  # a guard's reference, for example, is of one encoder
    encoder.to(device)
    features = _undefended_bank(config, encoder) if keep_features else None
    offered = LocalTarget(
        encoder,
        defense,
        fingerprint(defense, to_dict(config.defense)),
        source.size,
        features,
    )
    no_defense = Chain({})
    # Both targets share the network and the kept features: a defense changes only the answers.
    undefended = LocalTarget(
        encoder,
        no_defense,
        fingerprint(no_defense, {}),
        source.size,
        features,
    )
    return OpenTarget(offered, undefended, defense)


def _undefended_bank(config: DictConfig, encoder: Encoder) -> Bank:
    """Return the bank of the encoder's features as they are before any defense."""
    # A change of this name would compute the features of all encoders again.
    numerics = instantiate_node(config.trainer).numerics
    name = key(encoder=encoder.fingerprint, **numerics)
    return Bank(Path(config.paths.cache) / "undefended" / name, "undefended")
