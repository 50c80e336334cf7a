"""Compute of a run: its configuration in; images pushed through networks by each fit out.

Counts follow from steps, batch size and views of an image, and are never counted while a fit runs.
So a fit that was killed and resumed has the counts of one that was not. They are only of training:
the kNN monitor of a target and the evaluation push further images forward.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from stealing.config import to_dict
from stealing.preflight import attack_compute, control_steps, held_count
from stealing.pretraining.recipe import pushed_of_card, pushed_views
from stealing.training.fit import Settings, settings_of


@dataclass(frozen=True)
class Pushed:
    """Images that a fit pushes through networks; None if its method does not say.

    Attributes:
        forward: images, views counted one by one.
        backward: those of them with a gradient.
    """

    forward: int | None
    backward: int | None

    @classmethod
    def of(cls, images: int, views: tuple[int, int] | None) -> "Pushed":
        """Return the counts of a fit.

        Args:
            images: drawn in all steps together.
            views: of each image, forward and backward; None if they are not known.
        """
        if views is None:
            return cls(None, None)
        forward, backward = views
        return cls(images * forward, images * backward)


def pushed_by_attack(config: DictConfig) -> Pushed:
    """Return what the attack pushes through its surrogate."""
    # Each pass of the pairing has a gradient. A step of the optimizer may take several batches.
    images = attack_compute(config)["images"] * settings_of(config).accumulate
    return Pushed(images, images)


def pushed_by_control(config: DictConfig) -> Pushed:
    """Return what the control pushes through its network."""
    batch_size = min(int(config.control.batch_size), held_count(config))
    images = control_steps(config) * batch_size * settings_of(config).accumulate
    return Pushed.of(images, pushed_views(to_dict(config.control), "control"))


def pushed_by_pretraining(config: DictConfig, images: int) -> Pushed:
    """Return what the pre-training of the run's own target pushes through its networks.

    Args:
        config: of the run.
        images: that the target is trained on.
    """
    settings: Settings = settings_of(config)
    recipe = to_dict(config.pretrain)
    batch_size = min(int(recipe["batch_size"]), images)
    steps = settings.steps(int(recipe["epochs"]), images // batch_size)
    drawn = steps * batch_size * settings.accumulate
    return Pushed.of(drawn, pushed_views(recipe, "pretrain"))


def compute_of_card(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the compute of a stored encoder's training, as its card says; None if it does not.

    Args:
        card: of the encoder, which a stranger may have written.
    """
    origin = card.get("provenance")
    recipe = origin.get("recipe") if isinstance(origin, dict) else None
    if not isinstance(origin, dict) or not isinstance(recipe, dict):
        return None
    counts = [origin.get("steps"), recipe.get("batch_size"), origin.get("accumulate", 1)]
    if not all(type(count) is int for count in counts):
        return None
    steps, batch_size, accumulate = counts
    pushed = Pushed.of(steps * batch_size * accumulate, pushed_of_card(recipe))
    facts: dict[str, Any] = asdict(pushed)
    for name in ("seconds", "cpu_seconds", "memory_gib"):
        value = origin.get(name)
        facts[name] = value if type(value) in (int, float) else None
    return facts
