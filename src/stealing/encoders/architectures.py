"""The project's own architectures by stable names: plain values in, a network out.

A description is a mapping with the key `class` (no argument of a Python function can have that
name) and the arguments beside it: `{"class": "NarrowResNet", "stem": 16, ...}`. Nothing is imported
for a name of the table in this module. A dotted name is a class of a user's own, and is imported
only from a module that the user trusts. Arguments of own architectures are checked before anything
is built, so that no description can ask for more memory than a network of these kinds has.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torchvision

from stealing.encoders.adapted import WIDEST_ADAPTER, Adapted
from stealing.encoders.arguments import (
    LARGEST_NORMALISATION,
    LARGEST_SIDE,
    Architecture,
    Argument,
    channels,
    is_crop,
    is_switch,
    is_text,
    one_of,
    or_null,
    whole,
    wholes,
)
from stealing.encoders.encoder import Encoder
from stealing.encoders.headless import STEM_PADDING, Headless
from stealing.encoders.resized import INTERPOLATIONS, Resized
from stealing.encoders.resnet import NarrowResNet
from stealing.encoders.timm_encoder import TimmEncoder
from stealing.encoders.timm_network import POOLS, Timm, is_timm
from stealing.encoders.transformer import NETWORKS, Transformer
from stealing.errors import StealingError
from stealing.reading import InvalidContent, first_line, quoted
from stealing.trust import import_trusted, module_of

MOST_BLOCKS = 200
"""Most residual blocks in all stages together; ResNet-152 has 50."""

FAMILIES = (
    "convnext",
    "densenet",
    "efficientnet",
    "mnasnet",
    "mobilenet",
    "resnet",
    "resnext",
    "shufflenet",
    "vgg",
    "wide_resnet",
)
"""Beginnings of the names of those networks of torchvision that `Headless` can cut after their
global average pool."""


def _is_network(value: Any) -> bool:
    return isinstance(value, dict) and "class" in value


def _is_headless(value: Any) -> bool:
    return value in networks()


def _is_stem(value: Any) -> bool:
    return value in ("imagenet", *STEM_PADDING)


@cache
def networks() -> tuple[str, ...]:
    """Return the names of those networks of torchvision that `Headless` takes."""
    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(name for name in names if name.startswith(FAMILIES))


ARCHITECTURES = {
    "Encoder": Architecture(
        Encoder,
        {
            "backbone": Argument(_is_network, "an architecture"),
            "mean": channels(-LARGEST_NORMALISATION, "three numbers"),
            "std": channels(1e-6, "three numbers above 0"),
        },
    ),
    "NarrowResNet": Architecture(
        NarrowResNet,
        {
            "stem": whole(1024),
            "widths": wholes(4096, 12),
            "blocks": wholes(MOST_BLOCKS, 12),
        },
    ),
    "Headless": Architecture(
        Headless,
        {
            "name": Argument(_is_headless, "a network of torchvision such as resnet50"),
            "stem": Argument(_is_stem, "imagenet, cifar or cont_steal"),
        },
        optional=("stem",),
    ),
    "Adapted": Architecture(
        Adapted,
        {
            "backbone": Argument(_is_network, "an architecture"),
            "width": whole(WIDEST_ADAPTER),
        },
    ),
    "Resized": Architecture(
        Resized,
        {
            "backbone": Argument(_is_network, "an architecture"),
            "size": or_null(whole(LARGEST_SIDE)),
            "interpolation": one_of(INTERPOLATIONS),
            "crop_share": Argument(is_crop, "a number from 0.1 to 1"),
        },
        optional=("interpolation", "crop_share"),
    ),
    "Transformer": Architecture(
        Transformer,
        {
            "name": one_of(NETWORKS),
            "size": whole(LARGEST_SIDE),
        },
        optional=("size",),
    ),
    "Timm": Architecture(
        Timm,
        {
            "name": Argument(is_timm, "a network of timm such as vit_tiny_patch16_224"),
            "pool": or_null(one_of(POOLS)),
            "size": or_null(whole(LARGEST_SIDE)),
            "weights": or_null(Argument(is_text, "a file of weights")),
            "hub": Argument(is_switch, "true or false"),
            "checkpointing": Argument(is_switch, "true or false"),
        },
        optional=("pool", "size", "weights", "hub", "checkpointing"),
        initial=("weights", "hub", "checkpointing"),
    ),
    "TimmEncoder": Architecture(
        TimmEncoder,
        {
            "name": Argument(is_timm, "a network of timm such as vit_tiny_patch16_224"),
            "size": or_null(whole(LARGEST_SIDE)),
            "weights": or_null(Argument(is_text, "a file of weights")),
            "checkpointing": Argument(is_switch, "true or false"),
        },
        optional=("size", "weights", "checkpointing"),
        initial=("weights", "checkpointing"),
    ),
}
"""By name. Cards of every version are read: names and meanings of arguments never change."""


def describe(arch: Any) -> Any:
    """Return a node of `conf/arch`, or the `arch` of an old card, as a description.

    Classes of this project are known by their names, wherever their files are. A class of a user's
    own keeps its import path. A description stays as it is.

    Raises:
        InvalidContent: It is not a description of a network by named arguments.
    """
    if isinstance(arch, list | tuple):
        return [describe(part) for part in arch]
    if not isinstance(arch, Mapping):
        return arch
    parts = {name: describe(part) for name, part in arch.items() if name != "_target_"}
    for name in parts:
        if str(name).startswith("_"):
            raise InvalidContent(
                f"an architecture takes only named arguments, and this one has {quoted(name)}"
            )
    if "_target_" not in arch:
        return parts
    path = arch["_target_"]
    if "class" in parts:
        raise InvalidContent(
            f"an architecture has two classes, {quoted(parts['class'])} and {quoted(path)}"
        )
    if module_of(path) is None:
        raise InvalidContent(f"{quoted(path)} is not a class")
    name = path.rpartition(".")[2] if path.startswith("stealing.") else path
    return {"class": name, **parts}


def without_initial(description: Any) -> Any:
    """Return a description without the arguments that choose only initial weights."""
    if isinstance(description, list):
        return [without_initial(part) for part in description]
    if not isinstance(description, Mapping):
        return description
    # A class of a user's own has no such arguments, and its name may be anything here.
    architecture = ARCHITECTURES.get(str(description.get("class")))
    initial = architecture.initial if architecture is not None else ()
    return {
        name: without_initial(part) for name, part in description.items() if name not in initial
    }


def foreign_modules(arch: Any) -> list[str]:
    """Return the modules of all classes in an architecture that are not in the table here.

    A user who has just built this architecture trusts them.

    Args:
        arch: a node of `conf/arch`, or a description.
    """
    return sorted(set(_foreign(describe(arch))))


def _foreign(description: Any) -> Iterator[str]:
    if isinstance(description, list):
        for part in description:
            yield from _foreign(part)
    elif isinstance(description, Mapping):
        yield from _foreign(list(description.values()))
        module = module_of(description.get("class"))
        if module is not None:
            yield module


def check_description(description: Any, trusted: Sequence[str] = ()) -> None:
    """Refuse a description that this project would not build; nothing is built.

    Args:
        description: plain values, at most as deep as `stealing.reading` allows.
        trusted: modules that the user named, whose classes are accepted as they are.

    Raises:
        InvalidContent: An unknown class; an argument that is absent, unknown or out of range.
        ConfigError: A class of a module that is not trusted.
    """
    if isinstance(description, list):
        for part in description:
            check_description(part, trusted)
    if not isinstance(description, Mapping):
        return
    check_description(list(description.values()), trusted)
    if "class" not in description:
        return
    name = description["class"]
    if module_of(name):
        import_trusted(name, trusted)
        return
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InvalidContent(
            f"{quoted(name)} is not an architecture: {', '.join(ARCHITECTURES)} are"
        )
    _check_arguments(name, description)


def _check_arguments(name: str, description: Mapping[str, Any]) -> None:
    architecture = ARCHITECTURES[name]
    given = description.keys() - {"class"}
    unknown = sorted(given - architecture.arguments.keys())
    if unknown:
        names = ", ".join(architecture.arguments) or "none"
        raise InvalidContent(f"{name} has no argument {quoted(unknown[0])}: it takes {names}")
    for argument, allowed in architecture.arguments.items():
        if argument not in given:
            if argument not in architecture.optional:
                raise InvalidContent(f"{name} lacks its argument {argument}")
            continue
        value = description[argument]
        if not allowed.fits(value):
            raise InvalidContent(
                f"{argument} of {name} is {quoted(value)}, and has to be {allowed.range}"
            )
    if name == "NarrowResNet":
        if len(description["widths"]) != len(description["blocks"]):
            raise InvalidContent("widths and blocks of NarrowResNet differ in length")
        if sum(description["blocks"]) > MOST_BLOCKS:
            raise InvalidContent(f"NarrowResNet has more than {MOST_BLOCKS} blocks")


def build_described(description: Any, trusted: Sequence[str] = ()) -> Encoder:
    """Build the encoder of a checked description, with the weights that its classes start from.

    Raises:
        InvalidContent: Its classes do not take these arguments together, or it is no `Encoder`.
        ConfigError: A class of a module that is not trusted.
    """
    try:
        encoder = _build(description, trusted)
    # What constructors raise for arguments that do not go together.
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InvalidContent(f"the architecture cannot be built: {first_line(error)}") from error
    except StealingError as error:
        raise InvalidContent(f"the architecture cannot be built: {first_line(error)}") from None
    if not isinstance(encoder, Encoder):
        raise InvalidContent("the architecture is not an Encoder")
    return encoder


def _build(part: Any, trusted: Sequence[str]) -> Any:
    if isinstance(part, list):
        return [_build(value, trusted) for value in part]
    if not isinstance(part, Mapping):
        return part
    arguments = {name: _build(value, trusted) for name, value in part.items() if name != "class"}
    if "class" not in part:
        return arguments
    name = part["class"]
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].build(**arguments)
    return import_trusted(name, trusted)(**arguments)
