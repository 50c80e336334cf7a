"""Plan a run: a configuration in; what it asks, costs, takes and lacks, on the terminal, out.

No file or folder is made, and nothing is downloaded. Images that were decoded before are counted
exactly. Of other images only number and labels are read, and each of them counts as distinct.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from stealing.config import instantiate_node, to_dict
from stealing.console import TextConsole
from stealing.data.cache import is_decoded, without_writing
from stealing.data.images import Images
from stealing.encoders import build_encoder, load_encoder
from stealing.errors import ConfigError, StealingError
from stealing.evaluation.features import BLOCK, encode
from stealing.evaluation.protocol import Task
from stealing.preflight import (
    RunData,
    check_inputs,
    control_steps,
    images_of,
    measured,
    surrogate_start,
    trains_target,
)
from stealing.queries.digests import digests_of
from stealing.queries.opening import check_known
from stealing.targets.remote import RemoteTarget
from stealing.training.fit import device_of

EXTRAS = {
    "postgresql://": ("psycopg", "postgres"),
    "optimizers.lars": ("timm", "targets"),
    "TensorBoardRecorder": ("tensorboard", "tensorboard"),
}
"""A text in a setting that needs an extra: the module that is imported then, and the extra."""

ENCODERS = 5
"""Encoders whose features the evaluation computes: target, surrogate and three controls."""


def preview(config: DictConfig, console: TextConsole) -> None:
    """Print the plan of a run.

    Args:
        config: resolved and checked.
        console: where to.

    Raises:
        ConfigError: something is missing, and each thing was named in a line; or choices and data
            do not fit.
    """
    missing = Missing()
    with without_writing():
        data = _open_data(config, missing)
    _check_target(config, missing)
    for defense in config.defense.values():
        missing.collect(partial(instantiate_node, defense))
    ledger = str(config.paths.ledger)
    missing.collect(partial(check_known, ledger, Path(config.paths.work)))
    _check_packages(config, missing)
    for sentence in dict.fromkeys(missing.sentences):  # two tasks may lack the same file
        console.print(f"Missing: {sentence}", soft_wrap=True)
    if data is not None:
        check_inputs(config, data)
        _print_costs(config, data, console)
    if missing.sentences:
        raise ConfigError(
            "The run cannot start yet: provide what the lines above name as missing, "
            "or choose something else."
        )


class Missing:
    """Collects why parts of a run cannot be opened, so that all reasons are printed at once.

    Attributes:
        sentences: one for each reason.
    """

    def __init__(self) -> None:
        self.sentences = list[str]()

    def collect(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or None after its error was noted."""
        try:
            return work()
        except StealingError as error:
            self.sentences.append(str(error))
            return None

    def images(self, node: DictConfig) -> Any:
        """Return the opened images of a node, or None."""
        return self.collect(lambda: instantiate_node(node))


def _open_data(config: DictConfig, missing: Missing) -> RunData | None:
    """Open all data that the run reads; return None if some of it is missing."""
    queries = missing.images(config.data.queries)
    pretrain = missing.images(config.data.pretrain) if trains_target(config) else None
    tasks = list[Task]()
    if config.until != "pretrain":
        for name, node in config.data.tasks.items():
            train = missing.images(node.train)
            test = missing.images(node.test)
            tasks.append(Task(str(name), node.role, train, test))
    if missing.sentences:
        return None
    digests = {task.name: _digests(task.train) + _digests(task.test) for task in tasks}
    return RunData(pretrain, queries, tasks, digests)


def _digests(images: Images) -> list[bytes]:
    """Return the digests of the images; names that all differ if nothing is decoded."""
    if is_decoded(images.pixels):
        return digests_of(images)
    return [f"{images.name}/{row}".encode() for row in images.rows]


def _check_target(config: DictConfig, missing: Missing) -> None:
    """Note what is missing of the target."""
    card = None
    if config.target.path is not None:
        saved = missing.collect(lambda: load_encoder(config.target.path, config.trust))
        if saved is None:
            return
        card = saved[1]
    missing.collect(lambda: surrogate_start(config, card))
    if config.target.remote is not None:
        _check_remote(config, missing)


def _check_remote(config: DictConfig, missing: Missing) -> None:
    """Note what is missing to ask a service or to read a recording."""
    remote = config.target.remote
    if "ledger" in remote:  # a recording; opening it would make files beside the ledger
        if "://" not in remote.ledger and not Path(remote.ledger).exists():
            missing.sentences.append(
                f"There is no ledger {remote.ledger} with the recording {remote.name}: import it."
            )
        return
    target = missing.collect(lambda: instantiate_node(remote))
    if not isinstance(target, RemoteTarget) or target.credential is None:
        return
    accounts = [f"attacker/{number}" for number in range(config.plan.get("accounts", 1))]
    if config.until == "evaluate":
        accounts.append("honest/task")
    for account in accounts:
        missing.collect(partial(target.credential.of, account))


def _check_packages(config: DictConfig, missing: Missing) -> None:
    """Note the packages that the run imports late and that are not installed."""
    groups = ["paths", "attack", "control", "logger"]
    if trains_target(config):
        groups.append("pretrain")
    text = str([to_dict(config[group]) for group in groups])
    for sign, (module, extra) in EXTRAS.items():
        if sign in text and find_spec(module) is None:
            missing.sentences.append(f"{module} is not installed: pip install -e '.[{extra}]'.")


@dataclass(frozen=True)
class PassSeconds:
    """Seconds that a network takes for one image on this machine.

    Attributes:
        forward: of features, in eval mode.
        training: of a forward and a backward pass.
    """

    forward: float
    training: float


def _print_costs(config: DictConfig, data: RunData, console: TextConsole) -> None:
    """Print queries, cost and the expected time, from a few timed passes on this machine."""
    budget = config.budget
    asked = measured(config, data)
    tasks = len(data.tasks) if asked else 0
    console.print(f"Attack: {budget.images} images, cost {budget.images * budget.price:.2f}.")
    console.print(f"Evaluation: {asked} images of {tasks} tasks.")
    seconds = _expected_seconds(config, data, asked)
    steps = ", ".join(f"{step} {spent / 60:.1f}" for step, spent in seconds.items())
    total = sum(seconds.values()) / 60
    console.print(f"Expected minutes here, if nothing is done yet: {steps}; in all {total:.1f}.")
    console.print(f"Artefacts go to {Path(config.paths.work).resolve()}.", soft_wrap=True)


def _expected_seconds(
    config: DictConfig,
    data: RunData,
    asked: int,
) -> dict[str, float]:
    """Return how long each step takes if nothing is done yet."""
    images = data.queries.batch(slice(0, BLOCK))
    device = device_of(config.trainer.accelerator)
    surrogate = _time_passes(to_dict(config.arch), images, device)
    target = surrogate  # the speed of a saved or remote target is not known here
    if trains_target(config) and config.target_arch != config.arch:
        target = _time_passes(to_dict(config.target_arch), images, device)
    pretrain = 0.0
    if data.pretrain is not None:
        # SimCLR pushes two views of each image through the network.
        pushed = 2 * config.pretrain.epochs * len(data.pretrain)
        pretrain = pushed * target.training
    batch_size = min(config.control.batch_size, images_of(config))
    # The control has the attack's compute, so one number serves both.
    pushed = 2 * control_steps(config) * batch_size * config.trainer.accumulate
    return {
        "pretrain": pretrain,
        "query": config.budget.images * target.forward,
        "steal": pushed * surrogate.training,
        "control": pushed * surrogate.training,
        "evaluate": ENCODERS * asked * surrogate.forward,
    }


def _time_passes(arch: dict[str, Any], images: Tensor, device: str) -> PassSeconds:
    encoder = build_encoder(arch, 0)
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = images.to(device).float() / 255
    forward = _seconds(lambda: encode(encoder, images), device)
    training = _seconds(lambda: encoder(batch).square().mean().backward(), device)
    return PassSeconds(forward / len(images), training / len(images))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return how long the second of two calls takes; the first one also allocates memory."""
    work()
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: str) -> None:
    """Wait until the device has computed what it was given."""
    if device == "cuda":  # a GPU computes while Python goes on
        torch.cuda.synchronize()
