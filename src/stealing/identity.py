"""What makes two runs the same: a configuration in; key, name and hash of the code out.

Defenses are opened here, as their files and secrets are part of the key, and so are independent
encoders, which count by their weights.
"""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from stealing.artefacts import key
from stealing.attacks.steal import VERSION as STEAL_VERSION
from stealing.code import code_of
from stealing.config import instantiate_node, to_dict
from stealing.defenses.chain import Chain
from stealing.encoders import Encoder
from stealing.encoders.initial import arch_in_key
from stealing.evaluation.controls import load_controls
from stealing.pretraining.pretrain import VERSION as PRETRAIN_VERSION
from stealing.pretraining.recipe import recipe_in_key
from stealing.queries.target import Target
from stealing.saved.files import NAMING_GROUPS
from stealing.targets.local import fingerprint
from stealing.training.fit import settings_of

VERSIONS = {
    "pretrain": PRETRAIN_VERSION,
    "query": 1,
    "steal": STEAL_VERSION,
    "evaluate": 5,
}
"""Raised when a step of the same name means something else; part of every run's key."""

IN_KEY = (
    "arch",
    "target_arch",
    "pretrain",
    "budget",
    "plan",
    "attack",
    "control",
    "probe",
)
"""Parts of a configuration that are in the key with all values; classes count by their names."""

IN_CODE = (*IN_KEY, "controls", "defense", "target", "callbacks")
"""Parts whose classes make the result. The parts of `data` count by the images that they make."""


def name_of(target: Encoder | Target) -> str:
    """Return the name of a loaded or remote target: its fingerprint, and how images reach it.

    A service that gets JPEG files sees other images than one that gets every pixel.
    """
    codec = "" if isinstance(target, Encoder) else target.codec
    return f"{target.fingerprint}/{codec}" if codec else target.fingerprint


def run_choices(config: DictConfig, choices: Mapping[str, str]) -> dict[str, str]:
    """Return the choices that a result and its tables show.

    Args:
        config: resolved and checked.
        choices: the option chosen from each group, as Hydra has them.
    """
    selected = dict[str, str]()
    for group, choice in choices.items():
        if not group.startswith("hydra/"):
            selected[group] = choice
    # Hydra has no name for a chain of defenses.
    selected["defense"] = "+".join(map(str, config.defense)) or "none"
    selected["start"] = str(config.start)
    selected["selection"] = str(config.selection)
    return selected


def run_key(config: DictConfig, given: str | None, images: Mapping[str, str]) -> str:
    """Return the key of a run, the same for all its seeds.

    Args:
        config: resolved and checked.
        given: `name_of` a loaded or remote target, wherever it lies; None if the run trains it.
        images: checksums of the decoded images, by what they are for; see `RunData.checksums`.
    """
    settings = settings_of(config)
    defense = Chain(instantiate_node(config.defense))
    # A given target counts by its fingerprint. One that the run trains counts by its seed, and by
    # its architecture and recipe among the parts.
    target = given or config.target.seed
    parts = {name: _in_key(name, to_dict(config[name])) for name in IN_KEY}
    if config.selection != "random":  # keys are older than other selections
        parts["selection"] = config.selection
    if config.controls:  # and than independent encoders
        loaded = load_controls(config, given)
        parts["controls"] = {}
        for name, one in loaded.items():
            what = config.controls[name]["_target_"]
            parts["controls"][name] = {"_target_": what, "encoder": one.encoder.fingerprint}
    roles = dict[str, str]()
    if config.until == "evaluate":
        for name, task in config.data.tasks.items():
            roles[str(name)] = task.role
    return key(
        versions=VERSIONS,
        numerics=settings.numerics,
        until=config.until,
        start=config.start,
        defense=fingerprint(defense, to_dict(config.defense)),
        target=target,
        images=dict(images),
        roles=roles,
        **parts,
    )


def _in_key(name: str, part: dict[str, Any]) -> dict[str, Any]:
    if name in ("arch", "target_arch"):
        return dict(arch_in_key(part))
    return recipe_in_key(part) if name in ("pretrain", "control") else part


def run_name(config: DictConfig, choices: Mapping[str, str], group: str) -> str:
    """Return the name of a run's folder: some choices, the budget, the seed and the key.

    Args:
        config: resolved and checked.
        choices: the option chosen from each group; the slash of one in a subfolder becomes a dot.
        group: `run_key`.
    """
    options = "-".join(str(choices[name]) for name in NAMING_GROUPS)
    budget = config.budget.images
    return f"{options.replace('/', '.')}-b{budget}-s{config.seed}-{group}"


def run_code(config: DictConfig, *roots: Callable[..., Any]) -> str:
    """Return the hash of the code of a run, and of the classes that it names.

    Args:
        config: resolved and checked.
        roots: the functions that open the run and run its steps.
    """
    parts = [to_dict(config[name]) for name in IN_CODE]
    return code_of(*roots, *parts)
