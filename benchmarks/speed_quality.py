"""The row `time_to_quality` of `benchmarks/speed.py`: two recipes in, seconds to one quality out.

Both recipes get the stored target's answers to the same images, the same architecture and the same
initial weights, and run through the same code on the same machine. Quality is `cosine_centred` on
query images that were not asked about. The paper's recipe is trained to its end. Ours is trained
until it is as good.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from stealing.attacks.steal import (
    BoughtAnswers,
    averaging_callbacks,
    steps_of,
    surrogate_module,
)
from stealing.attacks.surrogate import SurrogateModule
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images, take
from stealing.data.sampling import TrainingImages
from stealing.encoders import load_encoder
from stealing.evaluation.features import encode, encode_all
from stealing.evaluation.fidelity import fidelity
from stealing.seeds import weights_seed
from stealing.timing import now
from stealing.training.fit import Recorder, Settings, device_of, fit, settings_of

HELD = 500
"""Images on which quality is measured; none of them is trained on."""

CHECKS = 60
"""How often quality is measured in a whole fit; the clock stands still meanwhile."""

Curve = list[tuple[float, float]]
"""Seconds of training, and the quality then."""


class Quality(Callback):
    """Measures quality during a fit, and ends the fit at the wanted one.

    Args:
        images: uint8 (N, 3, H, W), that are not trained on.
        answers: the target's features of them, (N, D).
        every: steps between two measurements.
        wanted: quality at which the fit ends, or None to go on to the last step.
        device: that trains.
    """

    def __init__(
        self, images: Tensor, answers: Tensor, every: int, wanted: float | None, device: str
    ) -> None:
        self.images = images
        self.answers = answers
        self.every = every
        self.wanted = wanted
        self.device = device
        self.spent = 0.0
        self.curve: Curve = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.since = now(self.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Stop the clock, measure, and start it again."""
        step = trainer.global_step
        if step % self.every and step < trainer.max_steps:
            return
        self.spent += now(self.device) - self.since
        assert isinstance(pl_module, SurrogateModule)
        reached = self.of(pl_module)
        self.curve.append((self.spent, reached))
        if self.wanted is not None and reached >= self.wanted:
            trainer.should_stop = True
        self.since = now(self.device)

    def of(self, module: SurrogateModule) -> float:
        """Return the quality of the module's surrogate."""
        features = encode(module.encoder, self.images)
        with torch.inference_mode():
            mapped = module.adapter(features.to(module.device)).float().cpu()
        return fidelity(self.answers, mapped, features).get("cosine_centred", -1.0)


def first_at(curve: Curve, quality: float) -> float | None:
    """Return the seconds after which a curve first reaches a quality, or None."""
    for seconds, reached in curve:
        if reached >= quality:
            return seconds
    return None


def row_of(paper: Curve, ours: Curve) -> dict[str, Any]:
    """Return the row from the curves of both fits; the wanted quality is the end of the paper's."""
    seconds, wanted = paper[-1]
    reached = first_at(ours, wanted)
    return {
        "step": "time_to_quality",
        "unit": "seconds",
        "ours": reached,
        "paper": seconds,
        "times_less": None if reached is None else seconds / reached,
        "quality": wanted,
        "paper_first": first_at(paper, wanted),  # it may have been as good before its end
        "curves": {"ours": ours, "paper": paper},
    }


def sentence(row: dict[str, Any]) -> str:
    """Return what the row says."""
    place = f"{row['device']}, {row['precision']}"
    goal = (
        f"Time to quality ({place}): the paper's recipe ends after {row['paper']:.0f} s at a "
        f"cosine_centred of {row['quality']:.3f} (first reached after {row['paper_first']:.0f} s)"
    )
    if row["ours"] is None:
        return f"{goal}. Ours did not reach it."
    return f"{goal}. Ours is as good after {row['ours']:.0f} s: {row['times_less']:.1f} times less."


def measure(config: DictConfig, attacks: Sequence[DictConfig], device: str) -> dict[str, Any]:
    """Train by both recipes, one after the other.

    Args:
        config: of a run on the stored target; its images, architecture, budget and trainer count.
        attacks: the paper's recipe and ours.
        device: name for the row.
    """
    target, _ = load_encoder(Path(config.target.path), [])
    settings = settings_of(config)
    images: Images = instantiate_node(config.data.queries)
    asked = int(config.budget.images)
    bought = take(images, asked)
    held = take(images, min(HELD, len(images) - asked), skip=asked).batch(slice(None))
    target.to(device_of(settings.accelerator))
    answers = BoughtAnswers(bought, encode_all(target, bought), source="")
    checked = (held, encode(target, held))
    paper = _fit(answers, checked, config, attacks[0], settings, None)
    ours = _fit(answers, checked, config, attacks[1], settings, paper[-1][1])
    return {**row_of(paper, ours), "device": device, "precision": settings.precision}


def _fit(
    answers: BoughtAnswers,
    checked: tuple[Tensor, Tensor],
    config: DictConfig,
    recipe: DictConfig,
    settings: Settings,
    wanted: float | None,
) -> Curve:
    """Train a surrogate by a recipe; return its quality over time."""
    attack = to_dict(recipe)
    steps = steps_of(attack, len(answers.images), settings)
    start = weights_seed(config.seed, "surrogate")
    module = surrogate_module(answers, to_dict(config.arch), attack, config.seed, start, settings)
    device = device_of(settings.accelerator)
    quality = Quality(*checked, max(1, steps // CHECKS), wanted, device)
    with TemporaryDirectory() as folder:
        fit(
            module,
            TrainingImages(answers.images, int(attack["batch_size"]), module.seed),
            Path(folder),
            name="quality",
            total_steps=steps,
            seed=module.seed,
            settings=settings,
            recorder=Recorder(),
            monitors=(*averaging_callbacks(attack), quality),
        )
    return quality.curve
