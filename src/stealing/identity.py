"""What makes two runs the same: a configuration in, the key of its run and the hash of its code out.

Nothing is opened here but the defenses, whose files and secrets are part of the key.
"""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from stealing.artefacts import key
from stealing.attacks.steal import VERSION as STEAL_VERSION
from stealing.code import code_of
from stealing.config import opened, plain
from stealing.defenses.chain import Chain
from stealing.encoders import Encoder
from stealing.pretraining.pretrain import VERSION as PRETRAIN_VERSION
from stealing.queries.buying import Target
from stealing.targets.local import fingerprint
from stealing.training.fit import Settings

VERSIONS = {"pretrain": PRETRAIN_VERSION, "query": 1, "steal": STEAL_VERSION, "evaluate": 5}
"""Raised when a step of the same name means something else; part of every run's key."""

IN_KEY = ("arch", "target_arch", "pretrain", "budget", "plan", "attack", "control", "probe")
"""Parts of a configuration that are in the key as they are, but for the places of classes."""

IN_CODE = ("arch", "target_arch", "pretrain", "budget", "plan", "attack", "control", "probe", "defense", "target")
"""Parts whose classes make the result. Those of `data` are known by the images that they make."""


def name_of(target: Encoder | Target) -> str:
    """Return what tells a loaded or remote target from others: its fingerprint, and how images reach it.

    A service that gets JPEG files sees other images than one that gets every pixel.
    """
    codec = "" if isinstance(target, Encoder) else target.codec
    return f"{target.fingerprint}/{codec}" if codec else target.fingerprint


def run_key(config: DictConfig, given: str | None, images: Mapping[str, str]) -> str:
    """Return the key of a run, the same for all its seeds.

    Args:
        config: resolved and checked.
        given: `name_of` a loaded or remote target, wherever it lies; None if the run trains it.
        images: checksums of the decoded images, by place; see `stealing.plan.Scene.checksums`.
    """
    settings: Settings = opened(config.trainer)
    defense = fingerprint(Chain(opened(config.defense)), plain(config.defense))
    roles = {str(name): task.role for name, task in config.data.tasks.items()}
    return key(
        versions=VERSIONS,
        numerics=settings.numerics,
        until=config.until,
        start=config.start,
        defense=defense,
        target=given or config.target.seed,
        images=dict(images),
        roles=roles if config.until == "evaluate" else {},
        **{name: plain(config[name]) for name in IN_KEY},
    )


def run_code(config: DictConfig, steps: Callable[..., Any]) -> str:
    """Return the hash of the code of all steps of a run, and of the classes that it names.

    Args:
        config: resolved and checked.
        steps: the function that does the steps.
    """
    return code_of(steps, *(plain(config[name]) for name in IN_CODE))
