"""StolenEncoder's own downstream head: features of several encoders in, predictions for each out.

Shape letters: E encoders whose features have one width, N training rows, M test rows, B rows of a
batch, D feature width, H units of the first hidden layer, K classes.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stealing.data.sampling import generator
from stealing.evaluation.features import send
from stealing.evaluation.rows import Labelled

Rows = tuple[Tensor, Tensor]
"""Features (E, B, D) and labels (E, B)."""


@dataclass(frozen=True)
class MLPSettings:
    """The protocol of the head.

    Source: nn_classifier.py of the released code (liu00222/StolenEncoder at a9447c4).

    Attributes:
        hidden: widths of the hidden layers.
        dropout: probability, after the first hidden layer.
        lr: learning rate of Adam.
        epochs: number of epochs; the head of the last one is judged.
        batch_size: rows of a step, in the order of the training split: they are not shuffled.
    """

    hidden: list[int]
    dropout: float
    lr: float
    epochs: int
    batch_size: int


class MLPHeads(L.LightningModule):
    """One multilayer perceptron for each encoder, trained side by side.

    The heads share no parameter and no gradient. All start from the same weights and drop the same
    units. So the head of an encoder does not depend on which others are trained beside it.

    Args:
        encoders: E.
        width: D.
        classes: K.
        settings: the protocol.
    """

    def __init__(
        self,
        encoders: int,
        width: int,
        classes: int,
        settings: MLPSettings,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        sizes = [width, *settings.hidden, classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # no head starts from better weights than another
            for inputs, outputs in pairwise(sizes):
                layer = nn.Linear(inputs, outputs)
                self.weights.append(layer.weight.T.detach().repeat(encoders, 1, 1))
                self.biases.append(layer.bias.detach().repeat(encoders, 1, 1))

    def forward(self, features_EBD: Tensor, dropout_BH: Tensor | None = None) -> Tensor:
        """Return logits (E, B, K).

        Args:
            features_EBD: L2-normalised features.
            dropout_BH: factors of the units of the first hidden layer, 0 for a dropped unit.
        """
        rows = features_EBD
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = torch.baddbmm(bias, rows, weight)
            if place < last:
                rows = rows.relu()
            if place == 0 and dropout_BH is not None:
                rows = rows * dropout_BH
        return rows

    def training_step(self, batch: Rows, batch_idx: int) -> Tensor:
        """Return the sum over encoders of each one's mean cross-entropy."""
        features, labels = batch
        count = features.shape[1]
        rate = self.settings.dropout
        # One mask for all encoders, so that no head gets an easier mask than another.
        rng = generator("mlp dropout", self.global_step)
        is_kept = torch.rand(count, self.settings.hidden[0], generator=rng) >= rate
        logits = self(features, send(is_kept, features.device) / (1 - rate))
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / count

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, which treats each parameter by itself: heads do not influence each other."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.lr)


def mlp_predict(
    trains: list[Labelled],
    tests_EMD: list[Tensor],
    classes: int,
    settings: MLPSettings,
) -> list[Tensor]:
    """Train a head on the features of each encoder, on their device; predict its test rows once.

    Args:
        trains: for each of E encoders, features (N, D) and labels in [0, classes); the shapes are
            equal. Features are L2-normalised here, as in the released code.
        tests_EMD: E test sets of one shape; L2-normalised here.
        classes: K.
        settings: the protocol.

    Returns:
        Predictions of each, int64 (M,).
    """
    train_features, train_labels = zip(*trains, strict=True)
    features = F.normalize(torch.stack(train_features), dim=2)
    labels = torch.stack(train_labels)
    heads = MLPHeads(len(features), features.shape[2], classes, settings)
    batches: list[Rows] = []
    for start in range(0, features.shape[1], settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        batches.append((features[:, rows], labels[:, rows]))
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    device = features.device
    is_on_gpu = device.type == "cuda"
    trainer = L.Trainer(
        accelerator="gpu" if is_on_gpu else "cpu",
        devices=[device.index] if is_on_gpu else 1,
        # Only one process, also if a cluster or a launcher started it as one of several.
        plugins=[LightningEnvironment()],
        max_epochs=settings.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(heads, loader)
    heads.eval().to(device)  # Lightning leaves a network on the CPU
    with torch.inference_mode():
        logits_EMK = heads(F.normalize(torch.stack(tests_EMD), dim=2))
        return list(logits_EMK.argmax(2))
