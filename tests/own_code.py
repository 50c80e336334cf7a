"""What a user writes outside the package: a loss, a pairing, a query plan and pre-training methods.

Tests copy this file into a working folder and name its classes by `_target_`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

USED = list[str]()
"""Names of what was called."""


def cosine(surrogate_BD: Tensor, target_BD: Tensor, *, power: float) -> Tensor:
    USED.append("cosine")
    return (1 - F.cosine_similarity(surrogate_BD, target_BD)).pow(power).mean()


def rows(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """A mistake: one value a row."""
    return (surrogate_BD - target_BD).square().mean(1)


def detached(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """A mistake: no gradient."""
    return (surrogate_BD.detach() - target_BD).square().mean()


def of_target(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """A mistake: the surrogate has no part in it."""
    return (target_BD.clone().requires_grad_() * 2).mean()


def infinite(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """A mistake: it divides by zero."""
    return (surrogate_BD - target_BD).square().mean() / 0


def number(surrogate_BD: Tensor, target_BD: Tensor) -> float:
    """A mistake: no tensor."""
    return float((surrogate_BD - target_BD).detach().square().mean())


def of_one(surrogate_BD: Tensor) -> Tensor:
    """A mistake: it takes no answers."""
    return surrogate_BD.mean()


def of_width_three(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """A mistake: it fails."""
    return (surrogate_BD @ torch.zeros(3)).mean()


@dataclass(frozen=True)
class Darker:
    """A pairing of images of half the brightness."""

    passes: int = 1

    def __call__(
        self, images: Tensor, rows: Tensor, random: Any
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        USED.append("Darker")
        yield 1.0, images / 2, rows


@dataclass(frozen=True)
class Twice:
    """A query plan that asks twice about each image and keeps the smaller of both answers."""

    grows: bool = False

    def images(self, budget: int) -> int:
        return budget // 2

    def carry_out(
        self, door: Any, images: Any, context: str, seed: int, least: int
    ) -> tuple[Any, Tensor]:
        pixels = images.batch(slice(None))
        account = f"attacker/0{context}"
        first, _ = door.ask_what_is_answered(pixels, account, "attack", repeat=0)
        second, _ = door.ask_what_is_answered(pixels, account, "attack", repeat=1)
        return images, torch.minimum(first, second)


class Supervised(L.LightningModule):
    """A pre-training method of the user's own: cross-entropy on the labels."""

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: Any,
        *,
        classes: int,
        total_steps: int,
        seed: int,
        head_seed: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.optimizer = optimizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            self.head = nn.Linear(encoder.feature_dim, classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels = torch.from_numpy(self.trainer.datamodule.images.targets())[batch.draw.indices]
        loss = F.cross_entropy(self.head(self.encoder(batch.images.float() / 255)), labels)
        self.log("pretrain/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Counting(L.Callback):
    """A callback of the user's own."""

    def on_train_batch_end(self, *_: Any) -> None:
        USED.append("Counting")


class Weakening(L.Callback):
    """A callback that changes what is trained."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.5)
