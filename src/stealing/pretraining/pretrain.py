"""Make one pre-trained encoder, a target or the control that asks nothing: images and a recipe in, an artefact out."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from stealing.artefacts import key, write_done
from stealing.code import code_of
from stealing.data.draws import TrainingImages
from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.pretraining.monitor import KNNMonitor
from stealing.pretraining.simclr import SimCLRModule
from stealing.provenance import provenance
from stealing.seeds import Owner, owner_seed, weights_seed
from stealing.training.fit import Recorder, Settings, fit
from stealing.training.making import made_with, making
from stealing.training.ranks import rank, world

VERSION = 2
"""Raised when the code changes what comes out."""

MONITOR = 5000
"""Images of the kNN monitor's slice of train."""


def pretrained(
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
    """Train an encoder by SimCLR, resume its training, or load it where it is finished.

    Args:
        images: what it is trained on; labels serve the monitor alone.
        arch: how to build it.
        recipe: views, optimiser, projection, temperature, warm-up and batch size (`conf/pretrain`).
        owner: what the encoder is: the target, or the control of an attack.
        name: of the fit, for people.
        steps: batches to train on.
        seed: of weights, order and views, which differ between owners.
        root: folder of such artefacts.
        monitored: watch it with kNN, where the images have labels.

    Returns:
        The encoder in eval mode, its folder, and the facts in its `done.json`.
    """
    batch_size = min(recipe["batch_size"], len(images))
    inputs = {"images": images.checksum, "arch": arch, "recipe": recipe, "seed": seed}
    folder = root / key(version=VERSION, owner=owner, steps=steps, **inputs, **settings.numerics)
    own_seed = owner_seed(seed, owner)
    start = weights_seed(seed, owner)
    code = code_of(pretrained, arch, recipe)
    made = made_with(settings)
    with making(folder, code, settings) as done:
        if done is None:
            encoder = build_encoder(arch, start)
            module = SimCLRModule(
                encoder,
                instantiate(recipe["views"], _convert_="all"),
                instantiate(recipe["optimizer"]),
                projection=recipe["projection"],
                temperature=recipe["temperature"],
                warmup=recipe["warmup"],
                total_steps=steps,
                seed=own_seed,
                head_seed=weights_seed(seed, owner, "head"),
            )
            monitors = (KNNMonitor(images, MONITOR),) if monitored and images.labels is not None else ()
            batches = TrainingImages(images, batch_size, own_seed)
            spent = fit(
                module,
                batches,
                folder,
                name=name,
                total_steps=steps,
                seed=own_seed,
                settings=settings,
                recorder=recorder,
                monitors=monitors,
            )
            origin = {
                "images": images.name,
                "checksum": images.checksum,
                "recipe": recipe,
                "steps": steps,
                "seed": seed,
                "weights_seed": start,
            }
            origin |= {**settings.numerics, **spent, **provenance(settings.threads, world())}
            origin["made"] = made
            if rank() == 0:
                save_encoder(encoder, folder / "encoder.safetensors", arch=arch, size=images.size, provenance=origin)
                write_done(folder, **spent, code=code, made=made)
            done = dict(spent)
    encoder, _ = load_encoder(folder / "encoder.safetensors")
    return encoder, folder, done
