"""The first of two checks: of the choices alone, before torch is imported and before anything is opened.

Every message names the override to type. Keys that do not exist are Hydra's own to refuse: struct mode is on.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stealing.errors import CheckpointError, ConfigError, StealingError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning has more; these keep weights and saved features in float32."""

EVAL_ONLY = ("run", "surrogate", "tasks", "heads")
"""Settings of `eval.py` that a run has not."""

STARTS = ("own", "target")
"""What the surrogate's weights begin with: numbers of its own, or those that the target began with."""

STEPS = ("pretrain", "query", "steal", "evaluate")


def cores_each(processes: int) -> int:
    """Threads of one of so many processes of a run, where the launcher runs other cells of a sweep beside it.

    A thread more than there are cores for slows all of them down, by far more than its share. Where a launcher says how
    many cores a cell has, these count; submitit on one machine starts all cells at once, and Ray one a core.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = 1
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher
        at_once = "submitit_launcher.LocalLauncher" in launcher._target_ or "RayLauncher" in launcher._target_
        given = launcher.get("cpus_per_task") or OmegaConf.select(launcher, "ray.remote.num_cpus")
        cores = min(cores, int(given or (1 if at_once else cores)))
        jobs = int(launcher.get("n_jobs") or 1)
        beside = jobs if jobs > 0 else cores
    return max(1, cores // (beside * processes))


OmegaConf.register_new_resolver("cores_each", cores_each, replace=True)


def check_choices(config: DictConfig) -> None:
    """Refuse choices that contradict each other.

    Raises:
        ConfigError: with the override that mends it.
        CheckpointError: the target's file is absent.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration does not resolve: {str(error).splitlines()[0]}.") from None
    if missing:
        raise ConfigError(f"{missing[0]} has no value: add {missing[0]}=... to the command.")
    if config.until not in STEPS:
        raise ConfigError(f"until={config.until} is no step: choose one of {', '.join(STEPS)}.")
    if config.trainer.precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision={config.trainer.precision} is none of {', '.join(PRECISIONS)}: choose one."
        )
    if config.start not in STARTS:
        raise ConfigError(f"start={config.start} is none of {', '.join(STARTS)}: choose one.")
    if config.start == "target" and config.target.remote is not None:
        raise ConfigError("Nobody knows what a service's encoder began with: leave start= out.")
    if config.budget.images < 1:
        raise ConfigError(f"budget.images={config.budget.images} buys nothing: set it to 1 or more.")
    attack = config.attack
    if (attack.steps is None) == (attack.epochs is None):
        raise ConfigError(
            "An attack trains for steps or for epochs: set one of attack.steps and attack.epochs to null."
        )
    if attack.batch_size > config.budget.images:
        raise ConfigError(
            f"attack.batch_size={attack.batch_size} is more than the {config.budget.images} images of the budget: "
            f"set attack.batch_size={config.budget.images} or a larger budget=."
        )
    if config.target.path is not None and not Path(config.target.path).exists():
        raise CheckpointError(
            f"target.path={config.target.path} does not exist: run in the project's folder, or name an encoder."
        )
    if config.target.remote is not None and config.defense:
        raise ConfigError(
            "A service has its own defense, and ours would not be applied: leave defense= out, or choose target=file."
        )


def saved_choices(config: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration and choices of the run that `eval.py` was given, under the protocol that it was given.

    Raises:
        ConfigError: `run` is not a run's folder, or an override is not of the protocol.
    """
    foreign = [word for word in overrides if not word.startswith(("run=", "probe"))]
    if foreign:
        raise ConfigError(f"A run keeps its own choices and only probe= can change: leave {' '.join(foreign)} out.")
    folder = Path(str(config.run))
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"run={folder} is not a run's folder: add run=<one of the folders in work/runs>.")
    saved = OmegaConf.load(folder / "config.yaml")
    assert isinstance(saved, DictConfig)
    if absent := sorted(str(name) for name in config if name not in saved and name not in EVAL_ONLY):
        raise ConfigError(f"run={folder} was made by an earlier version, without {absent[0]}: run its command again.")
    if Path(saved.paths.work).resolve() != folder.resolve().parent.parent:
        raise ConfigError(f"This run was made in {saved.paths.work} as seen from there: run eval.py from there.")
    saved.probe, saved.until = config.probe, "evaluate"
    choices: dict[str, str] = json.loads((folder / "choices.json").read_text())
    return saved, choices


def name_surrogate(config: DictConfig, overrides: Sequence[str]) -> None:
    """Make the encoder that a run stole the target, on that run's data and by its protocol where no other is chosen.

    Raises:
        ConfigError: `surrogate` is not the folder of a run that stole something.
    """
    folder = Path(str(config.surrogate))
    if not (folder / "result.json").exists():
        raise ConfigError(f"surrogate={folder} is not a judged run's folder: name one of the folders in work/runs.")
    told = json.loads((folder / "result.json").read_text())
    path = folder.resolve().parent.parent / told["artefacts"]["surrogate"] / "encoder.safetensors"
    config.target.path = str(path)
    saved = OmegaConf.load(folder / "config.yaml")
    assert isinstance(saved, DictConfig)
    for group in ("data", "probe"):
        if not any(word.startswith(f"{group}=") for word in overrides):
            if own := [word for word in overrides if word.lstrip("+~").startswith(f"{group}.")]:
                raise ConfigError(f"{own[0]} would change what the run was judged by: name all of it, {group}=, too.")
            config[group] = saved[group]


def composed(name: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """What a command with these overrides would run, checked, and its choices; inside Hydra, wherever its files are.

    Raises:
        StealingError: as `check_choices` does.
    """
    config = compose(name, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    check_choices(config)
    return config, choices


def preset(group: str, choice: str) -> DictConfig | None:
    """Return an option as its file has it, without any override; None outside Hydra, or if there is no such file."""
    if not GlobalHydra.instance().is_initialized():
        return None
    try:
        found: DictConfig = compose(f"{group}/{choice}")[group]
    except HydraException:
        return None
    return found


@contextmanager
def refusals() -> Iterator[None]:
    """Around a command: what Hydra refuses, and what a sweep's launcher raises again, is one sentence, exit code 1."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets the error through, where Hydra would print a page about it
    try:
        yield
    except HydraException as error:
        sys.exit(f"ConfigError: {sentence(error)}")
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def sentence(error: HydraException) -> str:
    """What Hydra refused, without its page about it."""
    said = " ".join(str(error).split("Config search path")[0].split("To append")[0].split()).rstrip(".")
    return f"{said}: see --help for the groups and --cfg job for every setting."


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as resolved JSON values: what keys are hashed from, and what fits use."""
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def opened(node: DictConfig) -> Any:
    """Instantiate a node whose constructor opens something, with our own errors as they are.

    Raises:
        StealingError: what the constructor raised.
        ConfigError: the node has settings that its constructor does not take.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, StealingError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        why = str(error).replace("\n", " ")
        raise ConfigError(f"A setting does not fit what it builds: {why}; mend or drop that setting.") from None
