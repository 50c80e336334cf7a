"""Pre-train one encoder, a target or the control: images and a recipe in, an artefact out."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from stealing.artefacts import key, write_done
from stealing.code import code_of
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.encoders.architectures import foreign_modules
from stealing.encoders.initial import arch_in_key
from stealing.pretraining.monitor import KNNMonitor
from stealing.pretraining.recipe import build_module, recipe_in_key
from stealing.provenance import provenance
from stealing.seeds import Owner, owner_seed, weights_seed
from stealing.training.conditions import made_with, making
from stealing.training.distributed import rank, world_size
from stealing.training.fit import Recorder, Settings, fit

VERSION = 2
"""Raised if the code changes what comes out."""

FILES = ("encoder.safetensors", "encoder.json", "curves.csv")
"""Files whose checksums stand in `done.json`."""

MONITOR = 5000
"""Images of the kNN monitor's slice of the training split."""


def pretrain_encoder(
    images: Images,
    arch: dict[str, Any],
    recipe: dict[str, Any],
    *,
    owner: Owner,
    name: str,
    steps: int,
    seed: int,
    root: Path,
    settings: Settings,
    recorder: Recorder,
    monitored: bool,
) -> tuple[Encoder, Path, dict[str, Any]]:
    """Train an encoder, resume its training, or load it if it is finished.

    Args:
        images: training images.
        arch: how to build the encoder.
        recipe: the method with its settings, and the batch size (`conf/pretrain` without `epochs`).
        owner: `target`, or `control` of an attack.
        name: of the fit, for people.
        steps: batches to train on.
        seed: of weights, order and views, which differ between owners.
        root: folder of such artefacts.
        settings: of the fit.
        recorder: of the curves.
        monitored: true to log kNN accuracy after each epoch, if the images have labels.

    Returns:
        The encoder in eval mode, its folder, and the facts in its `done.json`.
    """
    inputs = {"images": images.checksum, "recipe": recipe_in_key(recipe), **settings.numerics}
    inputs["arch"] = arch_in_key(arch)
    folder = root / key(version=VERSION, owner=owner, steps=steps, seed=seed, **inputs)
    code = code_of(pretrain_encoder, arch, recipe, settings.callbacks)
    with making(folder, code, settings) as done:
        if done is None:
            encoder = build_encoder(arch, weights_seed(seed, owner))
            spent = _train(
                encoder,
                images,
                recipe,
                folder,
                owner=owner,
                name=name,
                steps=steps,
                seed=seed,
                settings=settings,
                recorder=recorder,
                monitored=monitored,
            )
            if rank() == 0:
                origin = {"recipe": recipe, "steps": steps, "seed": seed, **spent}
                _save(encoder, images, arch, folder, owner, origin, settings)
                write_done(folder, files=FILES, **spent, code=code, made=made_with(settings))
            done = dict(spent)
    # loaded again in any case: what a run uses is what the files hold
    encoder, _ = load_encoder(folder / "encoder.safetensors", foreign_modules(arch))
    return encoder, folder, done


def _train(
    encoder: Encoder,
    images: Images,
    recipe: dict[str, Any],
    folder: Path,
    *,
    owner: Owner,
    name: str,
    steps: int,
    seed: int,
    settings: Settings,
    recorder: Recorder,
    monitored: bool,
) -> dict[str, float]:
    """Train the encoder in place; return the seconds."""
    own_seed = owner_seed(seed, owner)
    module = build_module(
        recipe,
        encoder,
        total_steps=steps,
        seed=own_seed,
        head_seed=weights_seed(seed, owner, "head"),
    )
    monitors: tuple[Callback, ...] = ()
    if monitored and images.labels is not None:
        monitors = (KNNMonitor(images, MONITOR),)
    batch_size = min(recipe["batch_size"], len(images))  # a query list may be smaller than a batch
    return fit(
        module,
        TrainingImages(images, batch_size, own_seed),
        folder,
        name=name,
        total_steps=steps,
        seed=own_seed,
        settings=settings,
        recorder=recorder,
        monitors=monitors,
    )


def _save(
    encoder: Encoder,
    images: Images,
    arch: dict[str, Any],
    folder: Path,
    owner: Owner,
    origin: dict[str, Any],
    settings: Settings,
) -> None:
    """Write the encoder with its card; `origin` is what it depends on."""
    facts = {
        **origin,
        "weights_seed": weights_seed(origin["seed"], owner),
        "images": images.name,
        "checksum": images.checksum,
        **settings.numerics,
        **provenance(settings.threads, world_size()),
        "made": made_with(settings),
    }
    save_encoder(
        encoder, folder / "encoder.safetensors", arch=arch, size=images.size, provenance=facts
    )
