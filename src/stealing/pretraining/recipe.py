"""Recipes: settings of `conf/pretrain` or `conf/control` in, the module that trains by them out.

A recipe names its method, a LightningModule that trains an encoder in place and keeps it as
`self.encoder`. A new method is one class and one file in `conf/pretrain`. Its constructor takes:

- the encoder, by position;
- the recipe's settings by name, but not those that `OF_THE_FIT` lists;
- `total_steps`, the horizon of the schedule;
- `seed`, of views and other random numbers;
- `head_seed`, of the initial weights of all that is trained beside the encoder.

A control has the attack's compute: its steps are counted as if each step pushed two views of each
image through the encoder. A method may say what it pushes in an attribute of its class, `pushed`:
how many views of each image go forward in a step, and how many of them backward.

`training_step` gets a `stealing.data.sampling.Batch`. If the images have labels, those of the batch
are `self.trainer.datamodule.images.targets()[batch.draw.indices]`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from hydra.utils import get_method
from omegaconf import OmegaConf

from stealing.config import instantiate_node
from stealing.encoders import Encoder
from stealing.errors import ConfigError
from stealing.saved.restore import SIMCLR
from stealing.trust import is_own

OF_THE_FIT = ("method", "batch_size", "epochs")
"""Settings of a recipe that its method does not take."""


def build_module(
    recipe: dict[str, Any], encoder: Encoder, *, total_steps: int, seed: int, head_seed: int
) -> L.LightningModule:
    """Build the module that trains this encoder.

    Args:
        recipe: resolved settings.
        encoder: to be trained in place.
        total_steps: horizon of the schedule.
        seed: of views and other random numbers.
        head_seed: of the initial weights of all that is trained beside the encoder.
    """
    # the part serves only messages: `check_recipe` has passed this recipe
    module: L.LightningModule = _method(recipe, "pretrain")(
        encoder, total_steps=total_steps, seed=seed, head_seed=head_seed
    )
    return module


def check_recipe(recipe: dict[str, Any], part: str) -> None:
    """Refuse a recipe whose settings its method does not take, or lacks.

    Args:
        recipe: resolved settings.
        part: of the configuration, `pretrain` or `control`.

    Raises:
        ConfigError: with the setting.
    """
    method = _method(recipe, part)
    try:
        inspect.signature(method).bind(None, total_steps=1, seed=0, head_seed=0)
    except TypeError as error:
        name = recipe["method"]["_target_"]
        raise ConfigError(
            f"{part}.method={name} cannot be called ({error}): add +{part}.method.NAME=... for a "
            "setting that it lacks; the run gives it the encoder, total_steps, seed and head_seed."
        ) from None


def recipe_in_key(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as keys hold it.

    SimCLR is not named. Recipes named no method while it was the only one, and their artefacts
    keep their keys.
    """
    if recipe["method"] != SIMCLR:
        return recipe
    return {name: value for name, value in recipe.items() if name != "method"}


def pushed_views(recipe: dict[str, Any], part: str) -> tuple[int, int] | None:
    """Return how many views of each image a step pushes forward and backward; None if unknown.

    Args:
        recipe: resolved settings.
        part: of the configuration, `pretrain` or `control`.
    """
    # a partial function, so that the class is asked and nothing is built
    return _pushed(getattr(_method(recipe, part), "func", None))


def pushed_of_card(recipe: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the same for a recipe in a card, whose method is imported only if it is ours."""
    method = recipe.get("method", SIMCLR)
    target = method.get("_target_") if isinstance(method, dict) else None
    if not isinstance(target, str) or not is_own(target, "pretrain.method"):
        return None
    return _pushed(get_method(target))


def _pushed(method: Any) -> tuple[int, int] | None:
    views = getattr(method, "pushed", None)
    return None if views is None else (int(views[0]), int(views[1]))


def _method(recipe: dict[str, Any], part: str) -> Callable[..., Any]:
    """Return the method with the recipe's settings bound.

    Raises:
        ConfigError: a setting that the method does not take.
    """
    settings = {name: value for name, value in recipe.items() if name not in OF_THE_FIT}
    # under the name of its part, which errors then have before the name of the setting
    node = OmegaConf.create({part: {**recipe["method"], **settings, "_partial_": True}})
    method: Callable[..., Any] = instantiate_node(node[part])
    return method
