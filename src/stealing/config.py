"""Check a configuration and build its nodes: a configuration in; errors, plain values, objects out.

This is the first of two checks: it looks only at the settings, before torch is imported and before
anything is opened. Each error names the override to type. `stealing.settings` has types and ranges.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stealing.errors import CheckpointError, ConfigError, StorageError
from stealing.moved import MOVED, new_path
from stealing.settings.checks import check_settings
from stealing.settings.constructors import check_constructors
from stealing.settings.overrides import check_overrides
from stealing.trust import check_trust


def cores_each(processes: Any) -> int:
    """Return the number of threads of one process of a run.

    More threads than cores slow all of them down by far more than their share, so cells of a sweep
    that run at the same time share the cores.

    Args:
        processes: of the run. An invalid number gives 1; `check_settings` refuses it later.
    """
    if not isinstance(processes, int) or processes < 1:
        return 1
    here: int = processes
    # torchrun starts the processes itself, and says how many there are on this machine
    started = os.environ.get("LOCAL_WORLD_SIZE", "")
    if "TORCHELASTIC_RUN_ID" in os.environ and started.isdecimal():
        here = max(1, int(started))
    cores = usable_cores()
    cells = 1
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher
        # submitit on one machine starts all cells at once, and Ray starts one for each core.
        runs_all_at_once = (
            "submitit_launcher.LocalLauncher" in launcher._target_
            or "RayLauncher" in launcher._target_
        )
        # The cores of one cell, if the launcher reserves some.
        reserved = launcher.get("cpus_per_task")
        if not reserved:
            reserved = OmegaConf.select(launcher, "ray.remote.num_cpus")
        if reserved:
            cores = min(cores, int(reserved))
        elif runs_all_at_once:
            cores = 1
        jobs = int(launcher.get("n_jobs") or 1)
        # joblib starts one job for each core if n_jobs is negative.
        cells = jobs if jobs > 0 else cores
    return max(1, cores // (cells * here))


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Linux: the cores that a container or a cluster grants.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


OmegaConf.register_new_resolver("cores_each", cores_each, replace=True)


def check_values(config: DictConfig) -> None:
    """Refuse settings that are absent, unknown, of a wrong type or range, and code without trust.

    Raises:
        ConfigError: with the override to type.
    """
    use_new_paths(config)
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The configuration does not resolve: {reason}.") from None
    if missing:
        raise ConfigError(f"{missing[0]} has no value: add {missing[0]}=... to the command.")
    assert isinstance(values, dict)
    settings = {str(name): value for name, value in values.items()}
    check_trust(settings)
    check_settings(settings)


def use_new_paths(node: DictConfig | ListConfig) -> None:
    """Replace, in place, import paths of earlier versions, and print one line for each."""
    names = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if isinstance(value, DictConfig | ListConfig):
            use_new_paths(value)
        elif name == "_target_" and value in MOVED:
            node[name] = new_path(value)


def check_choices(config: DictConfig) -> None:
    """Refuse values as `check_values` does, and choices that contradict each other.

    Raises:
        ConfigError: with the override to type.
        CheckpointError: the target's file is absent.
    """
    check_values(config)
    target = config.target
    if config.start == "target" and target.remote is not None:
        raise ConfigError(
            "The initial weights of a service's encoder are unknown: leave start= out."
        )
    if config.start == "target" and target.get("family") is not None:
        raise ConfigError(
            "The initial weights of another program's encoder are unknown: leave start= out."
        )
    attack = config.attack
    if (attack.steps is None) == (attack.epochs is None):
        raise ConfigError(
            "An attack trains for steps or for epochs: "
            "set one of attack.steps and attack.epochs to null."
        )
    images = config.budget.images
    if attack.batch_size > images:
        raise ConfigError(
            f"attack.batch_size={attack.batch_size} is more than the {images} images of the "
            f"budget: set attack.batch_size={images} or a larger budget=."
        )
    is_absent = target.path is not None and not Path(target.path).exists()
    # A plan lists everything that is missing, so it is not stopped here.
    if is_absent and not config.plan_only:
        raise CheckpointError(
            f"target.path={target.path} does not exist: "
            "run the command in the project's folder, or name an encoder."
        )
    if target.remote is not None and config.defense:
        raise ConfigError(
            "A service has its own defense, and this one would have no effect: "
            "leave defense= out, or choose target=file."
        )


def compose_config(name: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the checked configuration of a command with overrides, and the option of each group.

    Hydra has to be initialized; it may have any folder of configurations.

    Raises:
        StealingError: as `check_choices` does.
    """
    check_overrides(overrides, name)
    config = compose(name, overrides=[*search_path(), *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = {}
    for group, choice in config.hydra.runtime.choices.items():
        choices[str(group)] = str(choice)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    check_choices(config)
    return config, choices


def search_path() -> list[str]:
    """Return this command's overrides that add folders of options, for another composition."""
    if not HydraConfig.initialized():
        return []
    words = [str(word) for word in HydraConfig.get().overrides.hydra]
    return [word for word in words if word.startswith("hydra.searchpath=")]


def preset(group: str, choice: str) -> DictConfig | None:
    """Return an option as its file has it, without overrides; None without such a file or Hydra."""
    if not GlobalHydra.instance().is_initialized():
        return None
    try:
        composed = compose("base", overrides=[*search_path(), f"{group}={choice}"])
    except HydraException:
        return None
    option: DictConfig = composed[group]
    return option


def to_dict(node: DictConfig) -> dict[str, Any]:
    """Return a node as resolved JSON values, from which keys are hashed."""
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def instantiate_node(node: DictConfig) -> Any:
    """Build the object of a node; an exception of its constructor is raised unchanged.

    Raises:
        ConfigError: the node has an argument that its constructor does not take, or lacks one.
        StorageError: an error of the disk, of a lock or of permissions.
        Exception: any other exception of the constructor.
    """
    check_constructors(node)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = unwrap(error)
        if isinstance(cause, InstantiationException):
            reason = " ".join(str(cause).split())
            raise ConfigError(f"{reason}: correct or drop that setting.") from None
        if isinstance(cause, OSError):
            storage_error = StorageError.of(cause)
            if storage_error is not None:
                raise storage_error from cause
        raise cause from None


def unwrap(error: Exception) -> Exception:
    """Return the exception of a constructor or a module, without Hydra's exceptions around it."""
    around = (InstantiationException, ImportError)
    while isinstance(error, around) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
