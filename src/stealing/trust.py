"""List the classes and functions that a configuration may name; other names need the user's trust.

Hydra imports and calls whatever stands under `_target_`, with the arguments beside it. A
configuration may therefore name two things: what `OWN` lists for that part of it, and what a module
defines that the user names, by `trust=[my.module]` on the command line or `trust:` in a
configuration of their own. A file that another person wrote never adds to that list.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stealing.errors import ConfigError
from stealing.reading import first_line, quoted

TORCH_OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "SGD",
)
"""Optimizers of torch.optim whose `step` does not need a closure that computes the loss again."""

VIEWS = ("stealing.data.views.Views",)
PRETRAINING = (
    "stealing.pretraining.mocov2.MoCoV2Module",
    "stealing.pretraining.simclr.SimCLRModule",
)
OPTIMIZERS = (
    *(f"torch.optim.{name}" for name in TORCH_OPTIMIZERS),
    "stealing.training.optimizers.lars",
)
ARCHITECTURES = (
    "stealing.encoders.encoder.Encoder",
    "stealing.encoders.headless.Headless",
    "stealing.encoders.resized.Resized",
    "stealing.encoders.resnet.NarrowResNet",
    "stealing.encoders.timm_encoder.TimmEncoder",
)

OWN: dict[str, tuple[str, ...]] = {
    "data": (
        "stealing.data.downloads.from_torchvision",
        "stealing.data.images.balanced",
        "stealing.data.images.grouped",
        "stealing.data.images.part_of_classes",
        "stealing.data.images.take",
        "stealing.data.images.without",
        "stealing.data.sources.concatenated",
        "stealing.data.sources.folder",
        "stealing.data.sources.parquet",
        "stealing.data.sources.shapes",
    ),
    "arch": ARCHITECTURES,
    "target_arch": ARCHITECTURES,
    "pretrain": (*PRETRAINING, *VIEWS, *OPTIMIZERS),
    "control": (*PRETRAINING, *VIEWS, *OPTIMIZERS),
    "controls": (
        "stealing.evaluation.controls.Distilled",
        "stealing.evaluation.controls.Independent",
    ),
    "target": (
        "stealing.queries.pace.Pace",
        "stealing.targets.http_json.HttpJson",
        "stealing.targets.open_inference.OpenInference",
        "stealing.targets.raw.Raw",
        "stealing.targets.recording.Recording",
        "stealing.targets.remote.Credential",
        "stealing.targets.remote.RemoteTarget",
    ),
    "defense": (
        "stealing.defenses.b4b.B4B",
        "stealing.defenses.b4b.Transform",
        "stealing.defenses.guard.Guard",
        "stealing.defenses.noise.CosineNoise",
        "stealing.defenses.noise.Noise",
        "stealing.defenses.poisoning.AdditivePoisoning",
        "stealing.defenses.poisoning.Poisoning",
        "stealing.defenses.truncation.Rounding",
        "stealing.defenses.truncation.TopK",
        "stealing.defenses.truncation.Unit",
    ),
    "budget": ("stealing.queries.door.Budget",),
    "plan": ("stealing.attacks.query_plan.Plan", "stealing.attacks.view_plan.ViewPlan", *VIEWS),
    "attack": (
        "stealing.attacks.contrastive.cont_steal",
        "stealing.attacks.losses.l2",
        "stealing.attacks.losses.mse",
        "stealing.attacks.siamese.PredictedCosine",
        "stealing.attacks.siamese.barlow",
        "stealing.attacks.siamese.infonce",
        "stealing.attacks.siamese.infonce_and_distance",
        "stealing.attacks.siamese.soft_nn",
        "stealing.attacks.siamese.wasserstein",
        "stealing.attacks.pairing.AllAsked",
        "stealing.attacks.pairing.AskedInTurn",
        "stealing.attacks.pairing.RawAndViews",
        "stealing.attacks.pairing.RawOrView",
        "stealing.attacks.pairing.ViewsThenRaw",
        "stealing.attacks.perturbing.ViewAndPerturbed",
        "stealing.attacks.prototypes.discriminate_and_align",
        "stealing.training.schedule.constant",
        "stealing.training.schedule.warmup_cosine",
        *VIEWS,
        *OPTIMIZERS,
    ),
    "probe": (
        "stealing.evaluation.mlp.MLPSettings",
        "stealing.evaluation.probe.ProbeSettings",
        "stealing.evaluation.protocol.Protocol",
        "stealing.evaluation.zero_shot.ZeroShot",
    ),
    "trainer": ("stealing.training.fit.Settings",),
    "logger": (
        "stealing.training.fit.Recorder",
        "stealing.training.tensorboard.TensorBoardRecorder",
        "stealing.training.wandb.WandbRecorder",
    ),
    "callbacks": ("lightning.pytorch.callbacks.LearningRateMonitor",),
    # The next two are parts of the service's configuration.
    "limits": ("stealing.service.limits.Limits",),
    "faults": ("stealing.service.faults.Faults",),
}
"""Import paths that each part of a configuration may name; a test compares them with conf/."""

KEY_VARIABLES = (
    "STEALING_KEY",
    "AZURE_API_KEY",
    "CLARIFAI_PAT",
    "CO_API_KEY",
    "JINA_API_KEY",
    "VOYAGE_API_KEY",
)
"""Environment variables from which the options in conf/target read an API key."""


def check_trust(settings: Mapping[str, Any]) -> None:
    """Refuse a configuration that names a class or function of a module that is not trusted.

    Args:
        settings: resolved. Each `_target_` in it is checked, at any depth. `trust` may be absent.

    Raises:
        ConfigError: with the setting, and the override that would allow it.
    """
    trusted = settings.get("trust") or []
    if not isinstance(trusted, list) or not all(isinstance(name, str) for name in trusted):
        raise ConfigError(
            f"trust={quoted(trusted)} is not a list of modules: write 'trust=[my.module]'."
        )
    if trusted and os.getcwd() not in sys.path:
        # Modules are found from the working folder, and last: none of them hides an installed one.
        sys.path.append(os.getcwd())
    for part, value in settings.items():
        for place, target in targets_in(value, str(part)):
            check_target(target, place, trusted)


def check_target(target: Any, place: str, trusted: Sequence[str]) -> None:
    """Refuse one `_target_`; nothing is imported.

    Args:
        target: the value of `_target_`.
        place: of its node, such as `attack.loss`.
        trusted: modules.

    Raises:
        ConfigError: `OWN` does not list it for this part, and its module is not trusted.
    """
    if is_own(target, place):
        return
    _trusted_module(target, trusted, f"{place}._target_=")


def is_own(target: Any, place: str) -> bool:
    """Return whether the project offers this class or function for this part of a configuration."""
    return target in OWN.get(place.split(".")[0], ())


def module_of(target: Any) -> str | None:
    """Return the module in an import path `module.name`, or None for anything else."""
    names = target.split(".") if isinstance(target, str) else []
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        return None
    return ".".join(names[:-1])


def targets_in(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield every `_target_` in nested settings, with the place of its node."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield place, value["_target_"]
        for name, part in value.items():
            yield from targets_in(part, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from targets_in(part, f"{place}.{number}")


def import_trusted(target: Any, trusted: Sequence[str]) -> Any:
    """Return a class or function that a file names, from a module that the user trusts.

    A name that the module only imports is refused: with it, a file could reach `os.system` through
    any module that imports `os`.

    Args:
        target: such as `my.module.Name`.
        trusted: modules that the user named.

    Raises:
        ConfigError: its module is not trusted, cannot be imported, or does not define it.
    """
    module_name = _trusted_module(target, trusted)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(
            f"{module_name}, which trust= names, cannot be imported ({why}): correct it."
        ) from error
    name = target.rpartition(".")[2]
    value = vars(module).get(name)
    if not callable(value) or getattr(value, "__module__", None) != module_name:
        raise ConfigError(
            f"{module_name} defines no class or function {name}: name the module that does."
        )
    return value


def _trusted_module(target: Any, trusted: Sequence[str], setting: str = "") -> str:
    """Return the module of an import path.

    Args:
        target: the import path.
        trusted: modules that the user named.
        setting: written before the import path in an error.

    Raises:
        ConfigError: it is not an import path, or its module is not trusted.
    """
    module = module_of(target)
    if module is None:
        raise ConfigError(
            f"{setting}{quoted(target)} is not an import path: name a class, such as "
            "my.module.Name."
        )
    if module not in trusted:
        raise ConfigError(
            f"{setting}{target} is not one of this project's classes here, and its module is not "
            f"trusted: add 'trust=[{module}]' if you know that code, or drop the name."
        )
    return module
