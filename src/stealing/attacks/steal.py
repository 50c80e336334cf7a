"""Steal: query images and their banked answers in, a surrogate encoder with its adapter out, as an artefact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stealing.artefacts import key, write_done, write_whole
from stealing.attacks.surrogate import SurrogateModule, build_adapter
from stealing.code import code_of
from stealing.data.draws import TrainingImages
from stealing.data.images import Images
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder
from stealing.provenance import provenance
from stealing.seeds import owner_seed, weights_seed
from stealing.training.fit import Recorder, Settings, fit
from stealing.training.making import made_with, making
from stealing.training.ranks import rank, world

VERSION = 2
"""Raised when the code changes what comes out."""


@dataclass(frozen=True)
class Answers:
    """What was bought.

    Attributes:
        images: that were asked about.
        features: the target's, (N, D), for them.
        source: which target, defense and plan they came from.
        code: hash of the code that chose the images and put the answers together.
    """

    images: Images
    features: Tensor
    source: str
    code: str = ""


def steps_of(attack: dict[str, Any], images: int, settings: Settings) -> int:
    """Steps that this attack trains for: its own number, or its epochs over this many images."""
    steps: int | None = attack["steps"]
    return steps if steps is not None else settings.steps(int(attack["epochs"]), images // int(attack["batch_size"]))


def surrogate_code(arch: dict[str, Any], attack: dict[str, Any], answers: str) -> str:
    """Return the hash of all code that makes a surrogate, that of its answers included."""
    return key(code=code_of(stolen, arch, attack), answers=answers)


def stolen(
    answers: Answers,
    arch: dict[str, Any],
    attack: dict[str, Any],
    *,
    seed: int,
    start: int,
    root: Path,
    settings: Settings,
    recorder: Recorder,
) -> tuple[Encoder, nn.Module, Path, dict[str, Any]]:
    """Train a surrogate on these answers, resume its training, or load it where it is finished.

    Args:
        answers: the only thing that an attack sees of a target.
        arch: how to build the surrogate.
        attack: loss, pairing, optimiser, schedule, batch size, average, and steps or epochs (`conf/attack`).
        seed: of the adapter's weights, and of order and views.
        start: seed of the surrogate's initial weights; see `stealing.plan.surrogate_start`.
        root: folder of surrogates.

    Returns:
        The surrogate and its adapter in eval mode, their folder, and the facts in its `done.json`.
    """
    inputs = {"answers": answers.source, "images": answers.images.checksum, "arch": arch, "attack": attack}
    folder = root / key(version=VERSION, seed=seed, start=start, **settings.numerics, **inputs)
    width = answers.features.shape[1]
    own_seed = owner_seed(seed, "surrogate")
    adapter_seed = weights_seed(seed, "surrogate", "adapter")
    code = surrogate_code(arch, attack, answers.code)
    made = made_with(settings)
    with making(folder, code, settings) as done:
        if done is None:
            encoder = build_encoder(arch, start)
            adapter = build_adapter(encoder.feature_dim, width, adapter_seed)
            steps = steps_of(attack, len(answers.images), settings)
            module = SurrogateModule(
                encoder,
                adapter,
                answers.features,
                loss=instantiate(attack["loss"]),
                pairing=instantiate(attack["pairing"], _convert_="all"),
                optimizer=instantiate(attack["optimizer"]),
                schedule=instantiate(attack["schedule"]),
                total_steps=steps,
                seed=own_seed,
            )
            batches = TrainingImages(answers.images, attack["batch_size"], own_seed)
            spent = fit(
                module,
                batches,
                folder,
                name="steal",
                total_steps=steps,
                seed=own_seed,
                settings=settings,
                recorder=recorder,
                monitors=(EMAWeightAveraging(decay=attack["ema"]),) if attack["ema"] is not None else (),
            )
            origin = {
                "answers": answers.source,
                "images": answers.images.checksum,
                "attack": attack,
                "seed": seed,
                "weights_seed": start,
                **settings.numerics,
                **spent,
                **provenance(settings.threads, world()),
                "made": made,
            }
            if rank() == 0:
                weights = {name: tensor.cpu().contiguous() for name, tensor in adapter.state_dict().items()}
                write_whole(folder / "adapter.safetensors", save(weights))
                size = answers.images.size
                save_encoder(encoder, folder / "encoder.safetensors", arch=arch, size=size, provenance=origin)
                write_done(folder, **spent, code=code, made=made)
            done = dict(spent)
    encoder, _ = load_encoder(folder / "encoder.safetensors")
    adapter = build_adapter(encoder.feature_dim, width, adapter_seed)
    adapter.load_state_dict(load_file(folder / "adapter.safetensors"))
    return encoder, adapter.eval(), folder, done
