"""Steal: query images and their banked answers in, a surrogate with its adapter out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stealing.artefacts import key, write_atomically, write_done
from stealing.attacks.surrogate import Loss, SurrogateModule, build_adapter, build_loss
from stealing.code import code_of
from stealing.data.asked_views import AskedViews
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.encoders.architectures import foreign_modules
from stealing.encoders.initial import arch_in_key
from stealing.evaluation.degenerate import check_answers
from stealing.provenance import provenance
from stealing.seeds import owner_seed, weights_seed
from stealing.training.conditions import made_with, making
from stealing.training.distributed import rank, world_size
from stealing.training.fit import Recorder, Settings, fit

VERSION = 2
"""Raised if the code changes what comes out."""

FILES = ("encoder.safetensors", "encoder.json", "curves.csv", "adapter.safetensors")
"""Files whose checksums stand in `done.json`."""


@dataclass(frozen=True)
class BoughtAnswers:
    """Images and the target's answers to them.

    Attributes:
        images: the images with an answer.
        features: their answers, (N, D), or those to V views of each image, (N, V, D).
        source: names the target, the defense and the query plan; part of the surrogate's key.
        code: hash of the code that chose the images and combined the answers.
        views: the views that were sent; None if the raw images were.
    """

    images: Images
    features: Tensor
    source: str
    code: str = ""
    views: AskedViews | None = None


def steps_of(attack: dict[str, Any], images: int, settings: Settings) -> int:
    """Return an attack's training steps: its own number, or its epochs over this many images."""
    steps: int | None = attack["steps"]
    if steps is not None:
        return steps
    batches = images // int(attack["batch_size"])
    return settings.steps(int(attack["epochs"]), batches)


def surrogate_code(
    arch: dict[str, Any],
    attack: dict[str, Any],
    answers: str,
    callbacks: dict[str, Any] | None = None,
) -> str:
    """Return the hash of all code that makes a surrogate, with that of its answers."""
    return key(code=code_of(steal_encoder, arch, attack, callbacks), answers=answers)


def steal_encoder(
    answers: BoughtAnswers,
    arch: dict[str, Any],
    attack: dict[str, Any],
    *,
    seed: int,
    start: int,
    root: Path,
    settings: Settings,
    recorder: Recorder,
) -> tuple[Encoder, nn.Module, Path, dict[str, Any]]:
    """Train a surrogate on these answers, resume its training, or load it if it is finished.

    Args:
        answers: all that an attack knows of a target.
        arch: how to build the surrogate.
        attack: loss, pairing, optimizer, schedule, batch size, average, and steps or epochs
            (`conf/attack`).
        seed: of the adapter's weights, of the order and of the views.
        start: seed of the surrogate's initial weights; see `stealing.preflight.surrogate_start`.
        root: folder of surrogates.
        settings: of the fit.
        recorder: of the curves.

    Returns:
        The surrogate and its adapter in eval mode, their folder, and the facts in its `done.json`.

    Raises:
        TargetError: answers that are not finite, or the same for all images.
        TrainingError: the fit diverged.
    """
    check_answers(answers.features.flatten(0, -2))
    inputs = {
        "answers": answers.source,
        "images": answers.images.checksum,
        "arch": arch_in_key(arch),
        "attack": attack,
    }
    folder = root / key(version=VERSION, seed=seed, start=start, **settings.numerics, **inputs)
    code = surrogate_code(arch, attack, answers.code, settings.callbacks)
    with making(folder, code, settings) as done:
        if done is None:
            module = surrogate_module(answers, arch, attack, seed, start, settings)
            spent = _train(module, answers, attack, folder, settings, recorder)
            if rank() == 0:
                origin = {"seed": seed, "weights_seed": start, "attack": attack, **spent}
                _save(module, answers, arch, folder, origin, settings)
                write_done(folder, files=FILES, **spent, code=code, made=made_with(settings))
            done = dict(spent)
    # loaded again in any case: what a run uses is what the files hold
    encoder, _ = load_encoder(folder / "encoder.safetensors", foreign_modules(arch))
    adapter = _adapter(encoder, answers, seed)
    adapter.load_state_dict(load_file(folder / "adapter.safetensors"))
    return encoder, adapter.eval(), folder, done


def _adapter(encoder: Encoder, answers: BoughtAnswers, seed: int) -> nn.Module:
    width = answers.features.shape[-1]
    return build_adapter(encoder.feature_dim, width, weights_seed(seed, "surrogate", "adapter"))


def _loss(attack: dict[str, Any], answers: BoughtAnswers, seed: int) -> Loss:
    width = answers.features.shape[-1]
    return build_loss(instantiate(attack["loss"]), width, weights_seed(seed, "surrogate", "loss"))


def surrogate_module(
    answers: BoughtAnswers,
    arch: dict[str, Any],
    attack: dict[str, Any],
    seed: int,
    start: int,
    settings: Settings,
) -> SurrogateModule:
    """Return the module that trains a surrogate; its arguments are those of `steal_encoder`."""
    encoder = build_encoder(arch, start)
    return SurrogateModule(
        encoder,
        _adapter(encoder, answers, seed),
        answers.features,
        loss=_loss(attack, answers, seed),
        pairing=instantiate(attack["pairing"], _convert_="all"),
        optimizer=instantiate(attack["optimizer"]),
        schedule=instantiate(attack["schedule"]),
        total_steps=steps_of(attack, len(answers.images), settings),
        seed=owner_seed(seed, "surrogate"),
        asked=answers.views,
    )


def averaging_callbacks(attack: dict[str, Any]) -> tuple[Callback, ...]:
    """Return the callback that averages the weights, if the attack keeps their average."""
    if attack["ema"] is None:
        return ()
    return (EMAWeightAveraging(decay=attack["ema"]),)


def _train(
    module: SurrogateModule,
    answers: BoughtAnswers,
    attack: dict[str, Any],
    folder: Path,
    settings: Settings,
    recorder: Recorder,
) -> dict[str, float]:
    """Train encoder and adapter in place; return the seconds."""
    return fit(
        module,
        TrainingImages(answers.images, attack["batch_size"], module.seed),
        folder,
        name="steal",
        total_steps=module.total_steps,
        seed=module.seed,
        settings=settings,
        recorder=recorder,
        monitors=averaging_callbacks(attack),
    )


def _save(
    module: SurrogateModule,
    answers: BoughtAnswers,
    arch: dict[str, Any],
    folder: Path,
    origin: dict[str, Any],
    settings: Settings,
) -> None:
    """Write the adapter, and the encoder with its card; `origin` is what it depends on."""
    # contiguous: safetensors refuses tensors in channels-last order
    state = module.adapter.state_dict()
    weights = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    write_atomically(folder / "adapter.safetensors", save(weights))
    facts = {
        **origin,
        "answers": answers.source,
        "images": answers.images.checksum,
        **settings.numerics,
        **provenance(settings.threads, world_size()),
        "made": made_with(settings),
    }
    save_encoder(
        module.encoder,
        folder / "encoder.safetensors",
        arch=arch,
        size=answers.images.size,
        provenance=facts,
    )
