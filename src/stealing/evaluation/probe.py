"""The linear probe: features and labels of a task in, test predictions out; the same protocol for every encoder.

Shape letters: N training rows, M test rows, D feature width, K classes, P penalties.
"""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stealing.data.draws import generator

Whole = tuple[Tensor, Tensor]
"""A whole training set as one batch: features (N, D) and labels (N,)."""


class LinearProbe(L.LightningModule):
    """Multinomial logistic regression for P penalties at once, by L-BFGS on the whole training set: convex, so no seed.

    Args:
        width: D.
        classes: K.
        penalties: P values; each adds penalty * |W|^2 / 2 to its own mean cross-entropy.
        iterations: of L-BFGS.
    """

    penalties: Tensor

    def __init__(self, width: int, classes: int, penalties: list[float], iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.weight = nn.Parameter(torch.zeros(len(penalties), classes, width))
        self.bias = nn.Parameter(torch.zeros(len(penalties), classes))
        self.register_buffer("penalties", torch.tensor(penalties))

    def forward(self, features_ND: Tensor) -> Tensor:
        """Logits (P, N, K)."""
        return torch.einsum("nd,pkd->pnk", features_ND, self.weight) + self.bias[:, None]

    def training_step(self, batch: Whole, batch_idx: int) -> Tensor:
        """Sum over the penalties: they share no parameter, so each is minimised on its own."""
        features, labels = batch
        logits = self(features).transpose(1, 2)
        targets = labels.expand(len(self.penalties), -1)
        entropy_P = F.cross_entropy(logits, targets, reduction="none").mean(1)
        return (entropy_P + self.penalties * self.weight.square().sum((1, 2)) / 2).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One step of the optimiser is the whole fit."""
        return torch.optim.LBFGS(
            self.parameters(), max_iter=self.iterations, history_size=10, line_search_fn="strong_wolfe"
        )


@dataclass(frozen=True)
class ProbeSettings:
    """The protocol of the linear probe.

    Attributes:
        penalties: the grid of L2 penalties, the same for every encoder.
        holdout: share of train on which the penalty is chosen, the same rows for every encoder; then all is refitted.
        iterations: of L-BFGS.
    """

    penalties: list[float]
    holdout: float
    iterations: int


def probe_predict(train: Whole, test_MD: Tensor, classes: int, settings: ProbeSettings) -> Tensor:
    """Choose the penalty on a slice of train, refit on all of it, predict the test rows once.

    Args:
        train: features (N, D) as the encoder gives them, and labels (N,).
        test_MD: test features.
        classes: K.
        settings: the protocol.

    Returns:
        Predictions, int64 (M,).
    """
    features, labels = train
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    features, test_MD = (features - mean) / deviation, (test_MD - mean) / deviation
    order = torch.randperm(len(labels), generator=generator("probe holdout"))
    cut = round(settings.holdout * len(labels))
    held, kept = order[:cut], order[cut:]
    trial = _fitted((features[kept], labels[kept]), classes, settings.penalties, settings.iterations)
    with torch.inference_mode():
        right_P = (trial(features[held]).argmax(2) == labels[held]).float().mean(1)
    best = settings.penalties[int(right_P.argmax())]
    final = _fitted((features, labels), classes, [best], settings.iterations)
    with torch.inference_mode():
        predictions: Tensor = final(test_MD)[0].argmax(1)
    return predictions


def _fitted(train: Whole, classes: int, penalties: list[float], iterations: int) -> LinearProbe:
    probe = LinearProbe(train[0].shape[1], classes, penalties, iterations)
    loader: DataLoader[Any] = DataLoader([train], batch_size=None)  # type: ignore[arg-type]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        plugins=[LightningEnvironment()],  # a fit of this process alone, whoever started it
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(probe, loader)
    return probe.eval()
