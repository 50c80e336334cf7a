"""Forecast how long a run takes: a configuration and its data in, seconds of each step out.

Each network takes steps of its own fit by the run's own trainer. Its images and answers are random;
views, loss, optimizer, precision and batch size are those of the run. Passes of features and heads
are timed on random numbers, too. Nothing is made in the work folder.
"""

import io
import math
import tempfile
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from stealing.attacks.steal import (
    BoughtAnswers,
    averaging_callbacks,
    steps_of,
    surrogate_module,
)
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages
from stealing.encoders import Encoder, build_encoder
from stealing.encoders.initial import has_public_start
from stealing.errors import TrainingError
from stealing.evaluation.controls import pixel_side
from stealing.evaluation.cost import head_seconds
from stealing.evaluation.features import block_size, encode
from stealing.evaluation.protocol import Protocol
from stealing.preflight import RunData, control_steps, held_count, images_of, trains_target
from stealing.pretraining.pretrain import MONITOR
from stealing.pretraining.recipe import build_module
from stealing.processor import set_up_processor
from stealing.targets.open import is_local, load_local
from stealing.timing import now, seconds_of
from stealing.training.distributed import process_count
from stealing.training.fit import Recorder, Settings, device_of, fit, settings_of

TIMED = 1.0
"""Seconds for which steps are timed."""

WARM_UP = 3
"""Steps before that, in which libraries choose their kernels."""

FEW = 16
"""Images of a first pass, which shows whether the network is slow."""

PIXELS = 2**26
"""Most bytes of random images."""

DOOR = 1.1
"""Time of asking a target in this process, per time of its encoder."""

NETWORKS = 4
"""Encoders of the surrogate's architecture that are judged: itself and three controls."""


def expected_seconds(config: DictConfig, data: RunData, asked: int) -> dict[str, float]:
    """Return how long each step takes if nothing is done yet, up to the last step of the run.

    Args:
        config: resolved and checked.
        data: opened; images need not be decoded.
        asked: queries of the evaluation.
    """
    settings = replace(
        settings_of(config),
        devices=1,
        callbacks={},  # they may write files
        profiler=None,
        checkpoint_seconds=math.inf,
    )
    set_up_processor(settings.threads)
    device = device_of(settings.accelerator)
    size = data.queries.size
    surrogate = build_encoder(to_dict(config.arch), 0)
    target = _target(config)
    a_pass = _pass_seconds(surrogate, size, device)
    if target is None:  # the network of a service is not known
        target = surrogate
        of_target = a_pass
    else:
        of_target = _pass_seconds(target, size, device)
    seconds = {
        "pretrain": _pretrain(config, data, settings, of_target),
        "query": DOOR * config.budget.images * of_target,
    }
    if config.until in ("steal", "evaluate"):
        seconds["steal"] = _steal(config, size, target.feature_dim, settings)
    if config.until == "evaluate":
        seconds["control"] = _control(config, size, settings)
        images = sum(len(task.train) + len(task.test) for task in data.tasks)
        public = int(has_public_start(to_dict(config.arch)))
        features = DOOR * asked * of_target + (NETWORKS + public) * images * a_pass
        widths = {3 * pixel_side(size) ** 2: 1, surrogate.feature_dim: 5 + public}
        # the target as it is and in two samples, and without its defense
        of_a_target = 4 if config.defense else 3
        widths[target.feature_dim] = widths.get(target.feature_dim, 0) + of_a_target
        protocol: Protocol = instantiate_node(config.probe)
        seconds["evaluate"] = features + head_seconds(protocol, data.tasks, widths, device)
        if "distilled" in config.controls:  # the attack once more
            seconds["evaluate"] += seconds["steal"]
    if config.until == "pretrain":
        del seconds["query"]
    return seconds


def _target(config: DictConfig) -> Encoder | None:
    """Return a network as the target has it; None for a remote target."""
    if trains_target(config):
        return build_encoder(to_dict(config.target_arch), 0)
    return load_local(config).encoder if is_local(config) else None


def _pretrain(config: DictConfig, data: RunData, settings: Settings, of_target: float) -> float:
    """Return the seconds of the target's own training; 0 for a target that is there."""
    if data.pretrain is None:
        return 0.0
    recipe = to_dict(config.pretrain)
    epochs = int(recipe.pop("epochs"))
    count = len(data.pretrain)
    batch_size = min(int(recipe["batch_size"]), count)
    steps = settings.steps(epochs, count // batch_size)
    module = build_module(
        recipe,
        build_encoder(to_dict(config.target_arch), 0),
        total_steps=steps,
        seed=0,
        head_seed=0,
    )
    images = _noise(count, data.queries.size, batch_size)
    seconds = _fit_seconds(config, module, images, batch_size, steps, settings)
    if data.pretrain.labels is None:
        return seconds
    # the kNN monitor after each epoch
    return seconds + epochs * min(MONITOR, count) * of_target


def _steal(config: DictConfig, size: int, width: int, settings: Settings) -> float:
    """Return the seconds of the attack."""
    attack = to_dict(config.attack)
    count = images_of(config)
    batch_size = int(attack["batch_size"])
    steps = steps_of(attack, count, settings)
    images = _noise(count, size, batch_size)
    answers = BoughtAnswers(images, torch.rand(len(images), width), source="")
    attack |= {"steps": steps, "epochs": None}  # there may be fewer random images than real ones
    module = surrogate_module(answers, to_dict(config.arch), attack, 0, 0, settings)
    monitors = averaging_callbacks(attack)
    return _fit_seconds(config, module, images, batch_size, steps, settings, monitors)


def _control(config: DictConfig, size: int, settings: Settings) -> float:
    """Return the seconds of the control's training."""
    recipe = to_dict(config.control)
    count = held_count(config)
    batch_size = min(int(recipe["batch_size"]), count)
    steps = control_steps(config)
    encoder = build_encoder(to_dict(config.arch), 0)
    module = build_module(recipe, encoder, total_steps=steps, seed=0, head_seed=0)
    images = _noise(count, size, batch_size)
    return _fit_seconds(config, module, images, batch_size, steps, settings)


def _noise(count: int, size: int, batch_size: int) -> Images:
    """Return random images: as many as the run has, or as fit in memory, and at least a batch."""
    fitting = max(batch_size, PIXELS // (3 * size * size))
    shape = (min(count, fitting), 3, size, size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Images("noise", pixels, None, 0, np.arange(len(pixels)), "noise")


class _StepTimer(Callback):
    """Times steps after the warm-up, and then ends the fit.

    Attributes:
        step: last step that was taken.
        first: step and moment at which timing began, or None.
        last: step and moment at which it ended; None if the fit ended before.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.began = now(device)
        self.step = 0
        self.first: tuple[int, float] | None = None
        self.last: tuple[int, float] | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Look at the clock; wait for a GPU only at both ends."""
        self.step = step = trainer.global_step
        passing = now("cpu")
        if self.first is None:
            # of a slow network, one step has to be enough
            if step >= WARM_UP or passing - self.began > TIMED:
                self.first = (step, now(self.device))
        elif step > self.first[0] and passing - self.first[1] >= TIMED:
            self.last = (step, now(self.device))
            trainer.should_stop = True


def _fit_seconds(
    config: DictConfig,
    module: L.LightningModule,
    images: Images,
    batch_size: int,
    steps: int,
    settings: Settings,
    monitors: tuple[Callback, ...] = (),
) -> float:
    """Return how long a fit of so many steps takes; a short fit is taken to its end."""
    timer = _StepTimer(device_of(settings.accelerator))
    # one process of several has its part of each batch, and waits for no other here
    share = max(1, batch_size // process_count(config.trainer.devices))
    start = now(timer.device)
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stderr(io.StringIO()),  # no progress, and nothing about random numbers
        suppress(TrainingError),  # random answers may drive a loss to infinity
    ):
        fit(
            module,
            TrainingImages(images, share, 0),
            Path(folder),
            name="forecast",
            total_steps=steps,
            seed=0,
            settings=settings,
            recorder=Recorder(),
            monitors=(*monitors, timer),
        )
    seconds = now(timer.device) - start
    if timer.first is None or timer.last is None:  # it came to its end, or the loss to infinity
        a_step = seconds / max(1, timer.step)
    else:
        a_step = (timer.last[1] - timer.first[1]) / (timer.last[0] - timer.first[0])
    return seconds + (steps - timer.step) * a_step


def _pass_seconds(encoder: Encoder, size: int, device: str) -> float:
    """Return the seconds of an image's features."""
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = block_size(size, size)
    block = torch.from_numpy(_noise(count, size, count).pixels)
    few = block[:FEW].to(device).float() / 255
    with torch.inference_mode():
        seconds = seconds_of(lambda: encoder.eval()(few), device) / len(few)
    if seconds * count > TIMED:
        return seconds
    return seconds_of(lambda: encode(encoder, block), device) / count
