"""Fits that one process and two must end equally; with a number, they are killed at that step.

Usage: python pair.py FOLDER [STEP]     or     torchrun --nproc-per-node=2 pair.py FOLDER [STEP]
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from stealing.attacks.losses import l2
from stealing.attacks.pairing import AllAsked, RawAndViews, ViewsThenRaw
from stealing.attacks.prototypes import discriminate_and_align
from stealing.attacks.siamese import PredictedCosine
from stealing.attacks.surrogate import SurrogateModule
from stealing.data.asked_views import draw_views
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages, generator
from stealing.data.views import Views
from stealing.encoders import Encoder
from stealing.encoders.resnet import NarrowResNet
from stealing.pretraining.mocov2 import MoCoV2Module
from stealing.pretraining.simclr import SimCLRModule, nt_xent
from stealing.queries.digests import digests_of
from stealing.training import checkpoints
from stealing.training.distributed import all_gather_with_grad, rank, world_size
from stealing.training.fit import Recorder, Settings, fit
from stealing.training.launch import run_processes
from stealing.training.schedule import warmup_cosine

PIXELS = torch.randint(
    0, 256, (40, 3, 8, 8), generator=generator("pair"), dtype=torch.uint8
).numpy()
IMAGES = Images("noise", PIXELS, None, 0, np.arange(40), "noise")
STEPS = 12  # five batches of eight an epoch


class Unnormed(nn.Module):
    """A backbone without BatchNorm, which does not amplify rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 24, 3, stride=2)
        )
        self.feature_dim = 24

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.layers(images_BCHW).mean((2, 3))


def encoder(normed: bool) -> Encoder:
    torch.manual_seed(0)
    # multiples of 8: with others, oneDNN writes past its memory on processors with AVX2 alone
    # (torch 2.15)
    backbone = NarrowResNet(8, [8, 16, 24], [1, 1, 1]) if normed else Unnormed()
    return Encoder(backbone, [0.5] * 3, [0.25] * 3)


def simclr(normed: bool = True) -> SimCLRModule:
    def optimizer(p: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            p, lr=0.1, momentum=0.9
        )  # a larger rate amplifies rounding by BatchNorm

    options: dict[str, Any] = {"projection": 8, "temperature": 0.5, "warmup": 0.2}
    seeds = {"seed": 3, "head_seed": 3}
    module = SimCLRModule(
        encoder(normed), Views(crop=(0.5, 1)), optimizer, total_steps=STEPS, **seeds, **options
    )
    if not normed:
        module.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 8))
    return module


def surrogate(normed: bool = True) -> SurrogateModule:
    return SurrogateModule(
        encoder(normed),
        nn.Linear(24, 10),
        torch.randn(40, 10, generator=generator("answers")),
        loss=lambda s, t: l2(
            s, t, reduction="sum"
        ),  # a mean over processes would take half the step
        pairing=RawAndViews(Views(crop=(0.5, 1)), 20, 2),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        schedule=lambda o, n: warmup_cosine(o, n, 0.2),
        total_steps=STEPS,
        seed=3,
    )


def changing(normed: bool = True) -> SurrogateModule:
    """A pairing of views, and of raw images from the third step on."""
    module = surrogate(normed)
    module.pairing = ViewsThenRaw(Views(crop=(0.5, 1)), 0.2)
    return module


def mocov2(normed: bool = True) -> MoCoV2Module:
    """A queue of two batches and a half."""
    torch.manual_seed(0)
    return MoCoV2Module(
        encoder(normed),
        Views(crop=(0.5, 1)),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        projection=8,
        temperature=0.5,
        warmup=0.2,
        queue=20,
        momentum=0.9,
        total_steps=STEPS,
        seed=3,
        head_seed=3,
    )


def predicted(normed: bool = True) -> SurrogateModule:
    """A loss with parameters and with statistics of the batch."""
    module = surrogate(normed)
    torch.manual_seed(0)
    module.loss = PredictedCosine(10, hidden=8)
    module.optimizer = lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)
    return module


def of_views() -> SurrogateModule:
    """Two views of each image in a pass, against the answers to three asked views."""
    views = Views(crop=(0.5, 1))
    return SurrogateModule(
        encoder(False),
        nn.Linear(24, 10),
        torch.randn(40, 3, 10, generator=generator("answers")),
        loss=lambda s, t: discriminate_and_align(s, t, temperature=0.2),
        pairing=AllAsked(views, 2),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        schedule=lambda o, n: warmup_cosine(o, n, 0.2),
        total_steps=STEPS,
        seed=3,
        asked=draw_views(views, digests_of(IMAGES), 3, 8, 3),
    )


Module = SimCLRModule | MoCoV2Module | SurrogateModule


def fits() -> dict[str, Module]:
    """All that are compared, by name."""
    makers = {"simclr": simclr, "surrogate": surrogate, "mocov2": mocov2, "predicted": predicted}
    made = {
        f"{n}{'' if normed else '-unnormed'}": make(normed)
        for n, make in makers.items()
        for normed in (True, False)
    }
    return {**made, "views-unnormed": of_views()}


def trained(module: Module, folder: Path, stop: int | None) -> dict[str, Tensor]:
    """Weights after a fit with a checkpoint after each step; rank 0 is killed at step `stop`."""
    inner, count = module.training_step, [0]

    def step(batch: Any, batch_idx: int) -> Tensor:
        if count[0] == stop and rank() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
        return inner(batch, batch_idx)

    module.training_step = step  # type: ignore[method-assign]
    settings = Settings(checkpoint_seconds=0, threads=1)
    batches = TrainingImages(IMAGES, 8, 5)
    fit(
        module,
        batches,
        folder,
        name="t",
        total_steps=STEPS,
        seed=3,
        settings=settings,
        recorder=Recorder(),
    )
    return {name: value.clone().contiguous() for name, value in module.state_dict().items()}


def traffic(folder: Path) -> dict[str, int]:
    """What the processes sent in 200 steps besides features and gradients, by function."""
    counts = Counter[str]()

    def count(holder: Any, name: str) -> None:
        inner = getattr(holder, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return inner(*arguments, **options)

        setattr(holder, name, counted)

    for name in ("broadcast", "broadcast_object_list", "all_gather_object", "_broadcast_coalesced"):
        count(dist, name)
    count(checkpoints, "all_reduce_sum")  # the votes
    # twice as many steps from one vote to the next, on a slow machine too
    checkpoints.VOTE_EVERY = 60.0
    module = surrogate()
    module.total_steps = 200
    before = Counter[str]()
    inner = module.training_step

    def step(batch: Any, batch_idx: int) -> Tensor:
        if module.global_step == 0:  # DDP makes all processes alike when it is set up
            before.update(counts)
        return inner(batch, batch_idx)

    module.training_step = step  # type: ignore[method-assign]
    fit(
        module,
        TrainingImages(IMAGES, 8, 5),
        folder,
        name="t",
        total_steps=200,
        seed=3,
        settings=Settings(threads=1),
        recorder=Recorder(),
    )
    counts.subtract(before)
    return dict(counts)


def check_alike(weights: dict[str, Tensor]) -> None:
    """Weights and BatchNorm's statistics are the same on all processes, to the last bit."""
    first = {name: value.clone() for name, value in weights.items()}
    for name, value in first.items():
        dist.broadcast(value, src=0)
        assert torch.equal(value, weights[name]), f"{name} of process {rank()}"


def contrast() -> dict[str, Tensor]:
    """Loss and gradient of NT-Xent over all rows, of which each process holds its own."""
    rows = torch.randn(2, 8, 5, generator=generator("rows"))
    mine = rows.chunk(world_size(), 1)[rank()].clone().requires_grad_()
    loss = nt_xent(all_gather_with_grad(mine[0]), all_gather_with_grad(mine[1]), temperature=0.2)
    loss.backward()
    assert mine.grad is not None
    gradient = (
        torch.cat([all_gather_with_grad(mine.grad[half]) for half in range(2)]) / world_size()
    )  # DDP divides that of the weights
    return {"loss": loss.detach(), "gradient": gradient.detach()}


if __name__ == "__main__":
    folder, stop = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    torch.set_num_threads(1)
    with run_processes(1, "cpu", [], "same"):
        for name, module in fits().items():
            weights = trained(module, folder / name, stop)
            if world_size() > 1:
                check_alike(weights)
            if rank() == 0:
                save_file(weights, folder / f"{name}.safetensors")
        found = contrast()
        if rank() == 0:
            save_file(found, folder / "contrast.safetensors")
        if world_size() > 1:
            counts = traffic(folder / "traffic")
            (folder / f"traffic-{rank()}.json").write_text(json.dumps(counts))
