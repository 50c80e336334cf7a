"""Before anything trains: a configuration in; its opened data, checked against the choices, out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from stealing.attacks.checks import check_attack, check_plan
from stealing.attacks.steal import steps_of
from stealing.config import instantiate_node, preset, to_dict
from stealing.data.images import Images
from stealing.encoders.architectures import describe
from stealing.encoders.building import check_arch
from stealing.errors import ConfigError, DataError
from stealing.evaluation.classes import check_classes
from stealing.evaluation.controls import check_controls
from stealing.evaluation.protocol import Task
from stealing.evaluation.texts import ClassTexts, open_texts
from stealing.pretraining.recipe import check_recipe
from stealing.queries.digests import digests_of
from stealing.seeds import weights_seed
from stealing.settings.constructors import check_constructors
from stealing.targets.open import is_local
from stealing.training.distributed import process_count
from stealing.training.fit import build_callbacks, settings_of
from stealing.training.levelling import curve_of, last_change, levelled
from stealing.training.optimizers import check_optimizer
from stealing.trust import OPTIMIZERS


@dataclass(frozen=True)
class RunData:
    """All images of a run.

    Attributes:
        pretrain: what the target is trained on; None if the target is loaded or remote.
        queries: what the attacker may choose from.
        tasks: downstream tasks; none if the run sends no query.
        digests: of each task's images, both splits, by the task's name.
        texts: of the zero-shot head; None without it.
    """

    pretrain: Images | None
    queries: Images
    tasks: list[Task]
    digests: dict[str, list[bytes]] = field(repr=False)
    texts: ClassTexts | None = None

    def checksums(self) -> dict[str, str]:
        """Return the checksums of the decoded images, by what the images are for.

        The texts of a zero-shot head are data, too.
        """
        checksums = dict[str, str]()
        if self.pretrain is not None:
            checksums["pretrain"] = self.pretrain.checksum
        for task in self.tasks:
            checksums[f"{task.name}/train"] = task.train.checksum
            checksums[f"{task.name}/test"] = task.test.checksum
        checksums["queries"] = self.queries.checksum
        if self.texts is not None:
            checksums["texts"] = self.texts.identity
        return checksums


def images_of(config: DictConfig) -> int:
    """Return how many images the budget pays for under this plan."""
    return int(instantiate_node(config.plan).images(int(config.budget.images)))


def held_count(config: DictConfig) -> int:
    """Return how many images the attacker holds: those to send, and the attack's pool."""
    return images_of(config) + int(config.attack.get("pool") or 0)


def trains_target(config: DictConfig) -> bool:
    """Return True if this run trains its target."""
    return not is_local(config) and config.target.remote is None


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
        "arch": to_dict(config.target_arch),
        "provenance": {"weights_seed": weights_seed(config.target.seed or 0, "target")},
    }
    target = card or trained_here
    start = target["provenance"].get("weights_seed")
    if start is None or describe(target["arch"]) != describe(to_dict(config.arch)):
        raise ConfigError(
            "start=target needs a target whose initial weights are known and a surrogate of its "
            "architecture: choose arch= as the target has it, or leave start= out."
        )
    return int(start)


def open_run_data(config: DictConfig) -> RunData:
    """Open the images that this run's steps read; images are decoded the first time.

    Raises:
        ConfigError: a node of the configuration does not fit the constructor that builds it.
        DataError: images or labels are absent, corrupt or of the wrong form.
        CheckpointError: the text tower of a zero-shot head cannot be loaded.
    """
    check_constructors(config)
    data = config.data
    tasks = list[Task]()
    # Every run that sends queries reads all tasks, also if it does not evaluate: none of their
    # images may be bought.
    if config.until != "pretrain":
        for name, node in data.tasks.items():
            train = instantiate_node(node.train)
            test = instantiate_node(node.test)
            tasks.append(Task(str(name), node.role, train, test))
    digests = dict[str, list[bytes]]()
    for task in tasks:
        digests[task.name] = digests_of(task.train) + digests_of(task.test)
    pretrain = instantiate_node(data.pretrain) if trains_target(config) else None
    texts = open_texts(config, tasks) if config.until == "evaluate" else None
    return RunData(pretrain, instantiate_node(data.queries), tasks, digests, texts)


def check_inputs(config: DictConfig, data: RunData) -> None:
    """Check the opened data of a run against its choices: the second of two checks.

    Raises:
        ConfigError, DataError: the message says what to change.
    """
    plan = instantiate_node(config.plan)
    check_plan(plan)
    count = images_of(config)
    if count > len(data.queries):
        # A plan that sends each image more often needs a larger budget for all of them.
        largest = len(data.queries) * config.budget.images // count
        raise DataError(
            f"budget.images={config.budget.images} pays for {count} images, more than the "
            f"{len(data.queries)} query images: set budget.images={largest} or less."
        )
    _check_batches(config, data)
    devices = config.trainer.devices
    if config.trainer.accelerator == "gpu" and torch.cuda.device_count() < devices:
        count = torch.cuda.device_count()
        remedy = f"set trainer.devices={count}" if count else "use trainer=cpu"
        raise ConfigError(
            f"trainer.devices={devices} needs as many GPUs and torch sees {count}: {remedy}."
        )
    check_tasks(config, data)
    # These try what the user wrote on random numbers, before anything is trained or bought.
    check_attack(to_dict(config.attack), int(config.data.size), plan)
    for part in ("pretrain", "control"):
        check_recipe(to_dict(config[part]), part)
    check_controls(config)
    trained = {"arch": "control"}
    if trains_target(config):
        trained["target_arch"] = "pretrain"
    for arch, part in trained.items():
        check_arch(to_dict(config[arch]))
        optimizer = to_dict(config[part].optimizer)
        # a method of the user's own may call another optimizer in its own way
        if optimizer["_target_"] in OPTIMIZERS:
            check_optimizer(optimizer, f"{part}.optimizer")
    build_callbacks(settings_of(config))


def check_tasks(config: DictConfig, data: RunData) -> None:
    """Check the tasks: the part of `check_inputs` that judging an encoder needs too.

    Raises:
        ConfigError, DataError: the message says what to change.
    """
    for task in data.tasks:
        check_classes(task)
    asked = measured(config, data)
    if asked > config.budget.evaluation:
        raise ConfigError(
            f"The tasks hold {asked} distinct images, and each is a query: "
            f"set budget.evaluation={asked} or more."
        )


@dataclass(frozen=True)
class _Fit:
    """A fit of the run: the group that holds its settings, its images, and its batch size."""

    group: str
    images: int
    batch_size: int


def _fits(config: DictConfig, data: RunData) -> Sequence[_Fit]:
    bought = images_of(config)
    held = held_count(config)
    fits = [
        _Fit("attack", bought, int(config.attack.batch_size)),
        _Fit("control", held, min(int(config.control.batch_size), held)),
    ]
    if data.pretrain is not None:
        images = len(data.pretrain)
        batch_size = min(int(config.pretrain.batch_size), images)
        fits.append(_Fit("pretrain", images, batch_size))
    return fits


def _check_batches(config: DictConfig, data: RunData) -> None:
    """Check that every fit has enough batches, and that all processes can share each of them."""
    processes = process_count(config.trainer.devices)
    for fit in _fits(config, data):
        setting = f"{fit.group}.batch_size"
        # The other fits take a smaller batch by themselves. An attack with another batch size is
        # another attack.
        if fit.batch_size > fit.images:
            raise ConfigError(
                f"{setting}={fit.batch_size} is more than the {fit.images} images that this plan "
                "sends: lower it, or raise budget.images."
            )
        if fit.batch_size % processes:
            shared = max(processes, fit.batch_size // processes * processes)
            raise ConfigError(
                f"The {fit.group} trains on batches of {fit.batch_size} images, which {processes} "
                f"processes cannot share: set {setting}={shared}."
            )
        batches = fit.images // fit.batch_size
        if batches < config.trainer.accumulate:
            raise ConfigError(
                f"trainer.accumulate={config.trainer.accumulate} is more than the {batches} "
                f"batches of the {fit.group}: set it to {batches}, or a smaller {setting}=."
            )


def control_steps(config: DictConfig) -> int:
    """Return how many steps give the control the attack's compute.

    Compute is counted in images that are pushed through the network. SimCLR pushes two views of
    each image.
    """
    pushed = attack_compute(config)["images"]
    batch_size = min(int(config.control.batch_size), held_count(config))
    return max(1, round(pushed / (2 * batch_size)))


def attack_compute(config: DictConfig) -> dict[str, int]:
    """Return how long the attack trains.

    Returns:
        `steps`, `batch_size`, and `images` that the attack pushes through the surrogate.
    """
    attack = to_dict(config.attack)
    steps = steps_of(attack, images_of(config), instantiate_node(config.trainer))
    batch_size = int(attack["batch_size"])
    passes = int(instantiate_node(config.attack.pairing).passes)
    return {
        "steps": steps,
        "batch_size": batch_size,
        "images": steps * batch_size * passes,
    }


def training_record(config: DictConfig, choice: str, surrogate: Path) -> dict[str, Any]:
    """Return `training` of `result.json`: the attack's compute, and whether its loss levelled off.

    Args:
        config: of the run.
        choice: name of the attack's preset.
        surrogate: folder with the curves of its training.

    Returns:
        `attack_compute`, `preset_steps` of the preset without any override (None if it is unknown),
        `levelled` and `last_change`; see `stealing.training.levelling`.
    """
    losses = [loss for _, loss in curve_of(surrogate)]
    preset_steps = None
    own = preset("attack", choice)
    if own is not None:
        settings = instantiate_node(config.trainer)
        preset_steps = steps_of(to_dict(own), images_of(config), settings)
    return {
        **attack_compute(config),
        "preset_steps": preset_steps,
        "levelled": levelled(losses),
        "last_change": last_change(losses),
    }


def measured(config: DictConfig, data: RunData) -> int:
    """Return how many images the honest users of all tasks send."""
    if config.until != "evaluate":
        return 0
    return sum(_distinct(data))


def honest_user(data: RunData) -> int:
    """Return the largest number of images that the honest user of one task sends."""
    return max(_distinct(data))


def _distinct(data: RunData) -> list[int]:
    """Return the number of distinct images of each task; the door charges equal images once."""
    return [len(set(digests)) for digests in data.digests.values()]
