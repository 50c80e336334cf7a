"""Try an attack's parts on random numbers: its settings in, a refusal out before any query is sent.

The types of settings say nothing about a function of the user's own. Loss, pairing, optimizer and
schedule are therefore called once, in the way that the training calls them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from stealing.attacks.pairing import ChangingPairing, ViewPairing
from stealing.attacks.surrogate import build_loss
from stealing.attacks.view_plan import AsksViews
from stealing.config import unwrap
from stealing.data.asked_views import AskedBatch
from stealing.data.sampling import BatchRandom, generator
from stealing.errors import ConfigError, StealingError
from stealing.reading import first_line

WIDTH = 64
"""Random features: the target's width is unknown before its first answer."""

IMAGES = 4
"""Random images: views of large ones take a while, and no pairing needs a whole batch."""

LOSS = (
    "a loss is called with the surrogate's features, float32 (B, D), and the answers, (B, D), or "
    "(B, V, D) if each image has V answers; it returns a finite scalar with gradient"
)
PAIRING = (
    "a pairing is called with images, rows and random numbers, or its method of_views with an "
    "AskedBatch and random numbers; it yields (weight, images, rows); its attribute passes is the "
    "number of views of each image in a step"
)
PLAN = ("grows", "images", "carry_out")
"""What a run uses of a query plan."""

OPTIMIZER = "an optimizer takes the parameters"
SCHEDULE = "a schedule takes the optimizer and the number of steps"


def check_attack(attack: dict[str, Any], size: int, plan: Any = None) -> None:
    """Refuse an attack whose parts cannot be called, or do not return what the training needs.

    Args:
        attack: resolved settings (`conf/attack`).
        size: height and width of the images, in pixels.
        plan: the instantiated query plan; None for one answer an image.

    Raises:
        ConfigError: with the part and its contract, in one sentence.
    """
    with torch.random.fork_rng(devices=[]):  # a user's own function may draw random numbers
        with _refused("attack.pairing", attack, PAIRING):
            views = plan.count if isinstance(plan, AsksViews) else 1
            has_several = _try_pairing(attack["pairing"], size, views)
        with _refused("attack.loss", attack, LOSS):
            _try_loss(attack["loss"], int(attack["batch_size"]), has_several)
        with _refused("attack.optimizer", attack, OPTIMIZER):
            optimizer = instantiate(attack["optimizer"])([nn.Parameter(torch.zeros(2, 2))])
        with _refused("attack.schedule", attack, SCHEDULE):
            instantiate(attack["schedule"])(optimizer, 10)


def check_plan(plan: Any) -> None:
    """Refuse an instantiated query plan that lacks what a run uses of it.

    Raises:
        ConfigError: with what it lacks.
    """
    for name in PLAN:
        if not hasattr(plan, name):
            raise ConfigError(
                f"plan={type(plan).__name__} has no {name}: a query plan has {', '.join(PLAN)}, as "
                "stealing.attacks.query_plan.Plan describes them."
            )


@contextmanager
def _refused(place: str, attack: dict[str, Any], contract: str) -> Iterator[None]:
    """Turn any error of the body into one sentence about this part of the attack.

    Raises:
        ConfigError: for any error that is not one of this project's.
    """
    try:
        yield
    except Exception as error:  # whatever a user's own code raises
        cause = unwrap(error)
        if isinstance(cause, StealingError):
            raise cause from None
        target = attack[place.rpartition(".")[2]]["_target_"]
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise ConfigError(
            f"{place}={target} does not work on random numbers ({reason}): {contract}."
        ) from error


def _try_loss(node: dict[str, Any], batch_size: int, has_several: bool) -> None:
    """Call a loss forward and backward, with one answer to each image or with several."""
    loss = build_loss(instantiate(node), WIDTH, seed=0)
    # one more than images: a loss of one answer would broadcast another number, and train wrongly
    answers = (batch_size + 1,) if has_several else ()
    random = generator("check", "loss")
    # absolute values, as after a ReLU: a loss may take logarithms or roots
    surrogate_BD = torch.randn(batch_size, WIDTH, generator=random).abs().requires_grad_()
    target = torch.randn(batch_size, *answers, WIDTH, generator=random).abs()
    # a clone, as in-place operations are legal on features and not on leaves of the graph
    value = loss(surrogate_BD.clone(), target)
    if not isinstance(value, Tensor):
        raise TypeError(f"it returns {type(value).__name__}, which is not a tensor")
    if value.ndim != 0:
        raise ValueError(f"it returns the shape {tuple(value.shape)}, which is not a scalar")
    if not value.requires_grad:
        raise ValueError("its value has no gradient")
    if not value.isfinite():
        raise ValueError(f"its value is {float(value.detach())}")
    (gradient,) = torch.autograd.grad(value, surrogate_BD, allow_unused=True)
    if gradient is None:
        raise ValueError("the surrogate's features get no gradient")


def _try_pairing(node: dict[str, Any], size: int, views: int) -> bool:
    """Call a pairing; return True if it compares an image with several answers.

    Raises:
        ConfigError: the pairing is one of raw images, and each of them has several answers.
    """
    pairing = instantiate(node, _convert_="all")
    images = torch.rand(IMAGES, 3, size, size, generator=generator("check", "images"))
    random = BatchRandom(generator("check", "dice"), IMAGES, slice(None))
    places = torch.arange(IMAGES)
    if isinstance(pairing, ViewPairing):
        rows = places[:, None] * views + torch.arange(views)
        batch = AskedBatch(images, rows, turns=torch.zeros_like(places), places=places)
        pairs = list(pairing.of_views(batch, random))
    elif views > 1:
        raise ConfigError(
            f"attack.pairing={node['_target_']} compares an image with one answer, and this plan "
            f"sends {views} views of each: choose plan=once, or an attack on views."
        )
    elif isinstance(pairing, ChangingPairing):
        pairs = list(pairing.of_progress(images, places, random, torch.zeros(())))
    else:
        pairs = list(pairing(images, places, random))
    passes = 0
    dimensions = set[int]()
    for weight, seen, rows in pairs:
        float(weight)
        if seen.shape[1:] != images.shape[1:] or len(seen) % len(rows):
            raise ValueError(
                f"it pairs images of the shape {tuple(seen.shape)} with {len(rows)} rows"
            )
        passes += len(seen) // len(rows)
        dimensions.add(rows.ndim)
    if passes != int(pairing.passes):
        raise ValueError(f"it yields {passes} views an image, and its passes is {pairing.passes}")
    if len(dimensions) > 1:
        raise ValueError("it compares some images with one answer and others with several")
    return max(dimensions) > 1
