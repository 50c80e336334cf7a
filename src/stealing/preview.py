"""Plan a run: a configuration in; what it asks, costs, takes and lacks, on the terminal, out.

Nothing is made in the work folder, and nothing is downloaded. Images that were decoded before are
counted exactly. Of other images only number and labels are read, and each of them counts as
distinct.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stealing.config import instantiate_node, to_dict
from stealing.console import TextConsole
from stealing.data.cache import is_decoded, without_writing
from stealing.data.images import Images
from stealing.errors import ConfigError, StealingError
from stealing.evaluation.controls import check_controls
from stealing.evaluation.protocol import Task
from stealing.forecast import expected_seconds
from stealing.preflight import (
    RunData,
    check_inputs,
    images_of,
    measured,
    surrogate_start,
    trains_target,
)
from stealing.queries.digests import digests_of
from stealing.queries.opening import check_known
from stealing.targets.open import is_local, load_local
from stealing.targets.remote import RemoteTarget

EXTRAS = {
    "postgresql://": ("psycopg", "postgres"),
    "optimizers.lars": ("timm", "targets"),
    "TimmEncoder": ("timm", "targets"),
    "TensorBoardRecorder": ("tensorboard", "tensorboard"),
}
"""A text in a setting that needs an extra: the module that is imported then, and the extra."""


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
    _check_controls(config, missing)
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
            "The plan is incomplete: do what the lines above say, or choose other options."
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
    if is_local(config):
        saved = missing.collect(lambda: load_local(config))
        if saved is None:
            return
        card = saved.card
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


def _check_controls(config: DictConfig, missing: Missing) -> None:
    """Note what is missing of the encoders that are judged beside the surrogate."""
    missing.collect(lambda: check_controls(config))


def _check_packages(config: DictConfig, missing: Missing) -> None:
    """Note the packages that the run imports late and that are not installed."""
    groups = ["paths", "arch", "attack", "control", "logger"]
    if trains_target(config):
        groups.append("pretrain")
    text = str([to_dict(config[group]) for group in groups])
    for sign, (module, extra) in EXTRAS.items():
        if sign in text and find_spec(module) is None:
            missing.sentences.append(f"{module} is not installed: pip install -e '.[{extra}]'.")


def _print_costs(config: DictConfig, data: RunData, console: TextConsole) -> None:
    """Print queries, cost and the expected time on this machine."""
    budget = config.budget
    asked = measured(config, data)
    tasks = len(data.tasks) if asked else 0
    console.print(
        f"Attack: at most {budget.images} queries about {images_of(config)} images, "
        f"cost {budget.images * budget.price:.2f}."
    )
    twice = ""
    if config.target.remote is None and config.defense:
        twice = ", each with the defense and without it"
    console.print(f"Evaluation: {asked} images, tasks: {tasks}{twice}.")
    seconds = expected_seconds(config, data, asked)
    steps = ", ".join(f"{step} {spent:.0f}" for step, spent in seconds.items())
    total = sum(seconds.values())
    console.print(
        f"Expected seconds here, if nothing is done yet: {steps}; in all {total:.0f} "
        f"({total / 60:.1f} minutes). Images that are not decoded yet come on top.",
        soft_wrap=True,
    )
    console.print(f"Artefacts go to {Path(config.paths.work).resolve()}.", soft_wrap=True)
