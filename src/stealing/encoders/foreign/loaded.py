"""What the user says of a foreign encoder, and what loading it found out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from stealing.encoders.arguments import LARGEST_NORMALISATION
from stealing.encoders.encoder import Encoder
from stealing.encoders.resized import INTERPOLATIONS
from stealing.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class ForeignTarget:
    """A foreign encoder as the settings of `target` name it; None means: as the encoder has it.

    Attributes:
        family: the library, or the kind of file.
        name: of the network in its library, or of a local folder.
        weights: a file.
        hub: whether the library may fetch over the network.
        pool: how timm makes one vector.
        stem: of a ResNet of torchvision.
        size: side of the images that the network sees, in pixels.
        mean: one value a channel, of images in [0, 1].
        std: one value a channel.
        interpolation: `bilinear` or `bicubic`.
        crop: side of the centre crop as a share of the shorter side.
    """

    family: str
    name: str | None = None
    weights: str | None = None
    hub: bool = False
    pool: str | None = None
    stem: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop: float | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings of the node `target` that are of a foreign encoder."""
        values = dict[str, Any]()
        for part in fields(cls):
            value = settings.get(part.name)
            if value is not None:
                values[part.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it.

    Attributes:
        size: side of the images that the network sees, in pixels.
        mean: one value a channel, of images in [0, 1].
        std: one value a channel.
        interpolation: `bilinear` or `bicubic`.
        crop: side of the centre crop as a share of the shorter side.
        replaces: what the network's own configuration says, if the user changed it.
    """

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop: float = 1.0
    replaces: "Preprocessing | None" = None

    def overridden(self, target: ForeignTarget) -> "Preprocessing":
        """Return it with the values that the user set.

        Raises:
            ConfigError: a mean or a standard deviation is not one number a channel.
        """
        changes = dict[str, Any]()
        for name in ("size", "mean", "std", "interpolation", "crop"):
            value = getattr(target, name)
            if value is not None:
                changes[name] = value
        for name in ("mean", "std"):
            values = changes.get(name)
            if values is not None and (len(values) != 3 or max(values) > LARGEST_NORMALISATION):
                raise ConfigError(f"target.{name} takes three numbers, one a channel.")
        if min(changes.get("std", (1,))) <= 0:
            raise ConfigError("target.std takes three numbers above 0.")
        return replace(self, **changes, replaces=self) if changes else self

    def note(self) -> str | None:
        """Return a warning if images are normalised in another way than the network was trained."""
        own = self.replaces
        if own is None or (own.mean, own.std) == (self.mean, self.std):
            return None
        is_raw = self.mean == (0, 0, 0) and self.std == (1, 1, 1)
        given = "raw images in 0 to 1" if is_raw else "your target.mean= and target.std="
        mean = ", ".join(f"{value:g}" for value in own.mean)
        std = ", ".join(f"{value:g}" for value in own.std)
        return f"{given} take the place of the usual mean {mean} and std {std} of this network"

    def around(self, backbone: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description of an encoder that has this backbone behind its preprocessing."""
        resized = {
            "class": "Resized",
            "size": self.size,
            "interpolation": self.interpolation,
            "crop_share": self.crop,
            "backbone": dict(backbone),
        }
        return {
            "class": "Encoder",
            "mean": list(self.mean),
            "std": list(self.std),
            "backbone": resized,
        }


def known_interpolation(name: str) -> str:
    """Return a library's interpolation, or bicubic for one that is not offered here."""
    return name if name in INTERPOLATIONS else "bicubic"


@dataclass(frozen=True)
class Loaded:
    """A foreign encoder that was loaded.

    Attributes:
        encoder: in eval mode.
        preprocessing: in front of its network.
        source: what the file was recognised as, in a few words.
        architecture: name of the network.
        description: of the encoder, as a card has it; None if its network is not in the table of
            `stealing.encoders.architectures`.
        left_out: names of weights in the file that are no part of the encoder.
        notes: sentences that a user should read.
    """

    encoder: Encoder
    preprocessing: Preprocessing
    source: str
    architecture: str
    description: Mapping[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
