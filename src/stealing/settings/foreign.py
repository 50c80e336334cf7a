"""Settings of a target that another program saved: a network's name, a file, what images undergo.

Null means: as the network's own configuration says.
"""

from stealing.numbers import SIDE
from stealing.settings.kinds import Choice, Integer, Number, Setting, Several, Switch, Text

FAMILIES = (
    "huggingface",
    "imagenet",
    "onnx",
    "open_clip",
    "timm",
    "torchscript",
    "torchvision",
)
"""Options of `target` that load an encoder of another program."""

CHANNEL = Number(-1000, 1000)

FOREIGN = (
    Setting(
        "target.family",
        Choice(FAMILIES),
        "Library of the encoder, or kind of its file.",
        required=False,
    ),
    Setting(
        "target.name",
        Text(),
        "Name of its network in that library.",
        required=False,
    ),
    Setting(
        "target.weights",
        Text(),
        "File of its weights.",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.hub",
        Switch(),
        "Whether the library may fetch weights over the network.",
        required=False,
    ),
    Setting(
        "target.pool",
        Choice(("avg", "max", "token", "map")),
        "How timm pools the features of all positions into one vector.",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.stem",
        Choice(("imagenet", "cifar", "cont_steal")),
        "Stem of a ResNet; null infers it from the weights.",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.size",
        Integer(1, SIDE),
        "Side to which images are resized inside the encoder.",
        "pixels",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.mean",
        Several(CHANNEL, 3),
        "Mean of each channel of images in [0, 1].",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.std",
        Several(CHANNEL, 3),
        "Standard deviation of each channel.",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.interpolation",
        Choice(("bilinear", "bicubic")),
        "How images are resized, with antialiasing.",
        nullable=True,
        required=False,
    ),
    Setting(
        "target.crop",
        Number(0.1, 1),
        "Side of the centre crop as a share of the shorter side.",
        nullable=True,
        required=False,
    ),
)
