"""Before anything trains: open the data, check it against the choices, and say what a run will ask, cost and take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from stealing.attacks.steal import steps_of
from stealing.config import opened, plain, preset
from stealing.data.images import Images
from stealing.encoders import build_encoder
from stealing.errors import ConfigError, DataError
from stealing.evaluation.features import BLOCK, encode
from stealing.evaluation.protocol import Task
from stealing.queries.digests import digests_of
from stealing.seeds import weights_seed
from stealing.training.fit import Settings
from stealing.training.levelling import curve_of, last_change, levelled
from stealing.training.ranks import processes

ROLES = ("own", "query_domain", "unseen")


@dataclass(frozen=True)
class Scene:
    """All images of a run.

    Attributes:
        pretrain: what the target is trained on, or None where it is loaded.
        queries: what the attacker may choose from.
        tasks: by name.
        digests: of each task's images, both splits.
    """

    pretrain: Images | None
    queries: Images
    tasks: list[Task]
    digests: dict[str, list[bytes]] = field(repr=False)

    def checksums(self) -> dict[str, str]:
        """Hashes of the decoded images, by place in the scene."""
        found = {"pretrain": self.pretrain.checksum} if self.pretrain else {}
        for task in self.tasks:
            found |= {f"{task.name}/train": task.train.checksum, f"{task.name}/test": task.test.checksum}
        return found | {"queries": self.queries.checksum}


def images_of(config: DictConfig) -> int:
    """How many images the budget is enough for under this plan."""
    return int(opened(config.plan).images(int(config.budget.images)))


def trains_target(config: DictConfig) -> bool:
    """Whether the target is one that this run pre-trains."""
    return config.target.path is None and config.target.remote is None


def surrogate_start(config: DictConfig, card: dict[str, Any] | None) -> int:
    """Return the seed of the surrogate's initial weights.

    Args:
        config: of the run; `start=own` gives the surrogate a start of its own, which is what an
            attacker has. `start=target` models an attacker who knows the target's initial weights.
        card: of the loaded target, or None if this run trains it.

    Raises:
        ConfigError: the surrogate cannot start as the target did.
    """
    if config.start == "own":
        return weights_seed(config.seed, "surrogate")
    trained_here = {
        "arch": plain(config.target_arch),
        "provenance": {"weights_seed": weights_seed(config.target.seed or 0, "target")},
    }
    target = card or trained_here
    start = target["provenance"].get("weights_seed")
    if start is None or target["arch"] != plain(config.arch):
        raise ConfigError(
            "start=target needs a target whose initial weights are known and a surrogate of its "
            "architecture: choose arch= as the target has it, or leave start= out."
        )
    return int(start)


def open_scene(config: DictConfig) -> Scene:
    """Open (and decode, the first time) the images that this run's steps read.

    Raises:
        DataError: as the sources do.
    """
    data, tasks = config.data, []
    if config.until == "evaluate":
        for name, node in data.tasks.items():
            tasks.append(Task(str(name), node.role, opened(node.train), opened(node.test)))
    digests = {task.name: digests_of(task.train) + digests_of(task.test) for task in tasks}
    pretrain = opened(data.pretrain) if trains_target(config) else None
    return Scene(pretrain, opened(data.queries), tasks, digests)


def check_inputs(config: DictConfig, scene: Scene) -> None:
    """The second check: of the opened data against the choices.

    Raises:
        ConfigError, DataError: with what to change.
    """
    if config.budget.images > len(scene.queries):
        raise DataError(
            f"budget.images={config.budget.images} is more than the {len(scene.queries)} query images: lower budget=."
        )
    _check_batches(config, scene)
    if config.trainer.accelerator == "gpu" and torch.cuda.device_count() < config.trainer.devices:
        seen = torch.cuda.device_count()
        raise ConfigError(
            f"trainer.devices={config.trainer.devices} needs as many GPUs and torch sees {seen}: "
            + (f"set trainer.devices={seen}." if seen else "use trainer=cpu.")
        )
    check_tasks(config, scene)


def check_tasks(config: DictConfig, scene: Scene) -> None:
    """The part of it that judging a target alone needs.

    Raises:
        ConfigError, DataError: with what to change.
    """
    for task in scene.tasks:
        if task.role not in ROLES:
            raise ConfigError(f"data.tasks.{task.name}.role={task.role} is none of {', '.join(ROLES)}: choose one.")
        if (task.train.classes, task.train.class_names) != (task.test.classes, task.test.class_names):
            raise DataError(f"The splits of task {task.name} have different classes: open both from the same source.")
    asked = sum(len(set(digests)) for digests in scene.digests.values())
    if asked > config.budget.evaluation:
        raise ConfigError(
            f"The tasks hold {asked} distinct images to ask about: set budget.evaluation={asked} or more."
        )


def _check_batches(config: DictConfig, scene: Scene) -> None:
    """Every fit has whole batches, as many as a step accumulates, and each can be shared by all processes."""
    count, bought = processes(config.trainer.devices), images_of(config)
    attack = int(config.attack.batch_size)
    if attack > bought:
        raise ConfigError(
            f"attack.batch_size={attack} is more than the {bought} images that this plan asks about: lower it, or "
            "raise budget.images."
        )
    fits = [("attack", bought, attack), ("control", bought, min(int(config.control.batch_size), bought))]
    if scene.pretrain is not None:
        fits.append(("pretrain", len(scene.pretrain), min(int(config.pretrain.batch_size), len(scene.pretrain))))
    for name, images, size in fits:
        setting = f"{name}.batch_size"
        if size % count:
            raise ConfigError(
                f"The {name} trains on batches of {size} images, which {count} processes cannot share: "
                f"set {setting}={max(count, size // count * count)}."
            )
        if images // size < config.trainer.accumulate:
            raise ConfigError(
                f"trainer.accumulate={config.trainer.accumulate} is more than the {images // size} batches of the "
                f"{name}: set it to {images // size}, or a smaller {setting}=."
            )


def target_steps(config: DictConfig, scene: Scene) -> int:
    """Steps of the target's pre-training."""
    assert scene.pretrain is not None
    batch_size = min(int(config.pretrain.batch_size), len(scene.pretrain))
    settings: Settings = opened(config.trainer)
    return settings.steps(int(config.pretrain.epochs), len(scene.pretrain) // batch_size)


def target_recipe(config: DictConfig) -> dict[str, Any]:
    """Return how SimCLR trains the target; `target_steps` says for how long."""
    return {name: value for name, value in plain(config.pretrain).items() if name != "epochs"}


def control_steps(config: DictConfig) -> int:
    """Steps of SimCLR on the queries that push as many images through the network as the attack does."""
    pushed = attack_compute(config)["images"]
    batch_size = min(int(config.control.batch_size), images_of(config))
    return max(1, round(pushed / (2 * batch_size)))


def attack_compute(config: DictConfig) -> dict[str, int]:
    """Return how long the attack trains: `steps`, `batch_size`, and `images` that it pushes through the surrogate."""
    attack = plain(config.attack)
    steps = steps_of(attack, images_of(config), opened(config.trainer))
    batch_size = int(attack["batch_size"])
    passes = int(opened(config.attack.pairing).passes)
    return {"steps": steps, "batch_size": batch_size, "images": steps * batch_size * passes}


def training_record(config: DictConfig, choice: str, surrogate: Path) -> dict[str, Any]:
    """Return `training` of `result.json`: the attack's compute, and whether its loss had levelled off.

    Args:
        config: of the run.
        choice: name of the attack's preset.
        surrogate: folder with the curves of its training.

    Returns:
        `attack_compute`, `preset_steps` of the preset without any override (None if it is unknown),
        `levelled` and `last_change`; see `stealing.training.levelling`.
    """
    losses = [loss for _, loss in curve_of(surrogate)]
    own = preset("attack", choice)
    own_steps = None
    if own is not None:
        own_steps = steps_of(plain(own), images_of(config), opened(config.trainer))
    return {
        **attack_compute(config),
        "preset_steps": own_steps,
        "levelled": levelled(losses),
        "last_change": last_change(losses),
    }


def honest_user(scene: Scene) -> int:
    """Return how many images the honest user of a task asks about: of the task with most."""
    return max(len(set(digests)) for digests in scene.digests.values())


def show_plan(config: DictConfig, scene: Scene, settings: Settings, console: Console) -> None:
    """Print queries, cost and the expected time, from a few timed passes on this machine."""
    encoder = build_encoder(plain(config.arch), 0)
    encoder.to("cuda" if settings.accelerator == "gpu" else "cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = scene.queries.batch(slice(0, BLOCK))
    asked = sum(len(set(digests)) for digests in scene.digests.values())
    batch = images.to(encoder.mean.device).float() / 255
    forward = _seconds(lambda: encode(encoder, images)) / len(images)
    training = _seconds(lambda: encoder(batch).square().mean().backward()) / len(images)
    pushed = 2 * control_steps(config) * min(config.control.batch_size, images_of(config)) * settings.accumulate
    parts = {
        "pretrain": 2 * config.pretrain.epochs * len(scene.pretrain) * training if scene.pretrain else 0.0,
        "query": config.budget.images * forward,
        "steal": pushed * training,
        "control": pushed * training,
        "evaluate": 5 * asked * forward,
    }
    console.print(f"Attack: {config.budget.images} images, cost {config.budget.images * config.budget.price:.2f}.")
    console.print(f"Evaluation: {asked} images of {len(scene.tasks)} tasks.")
    times = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in parts.items())
    console.print(f"Expected minutes here, if nothing is done yet: {times}; in all {sum(parts.values()) / 60:.1f}.")
    console.print(f"Artefacts go to {Path(config.paths.work).resolve()}.", soft_wrap=True)


def _seconds(work: Callable[[], object]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
