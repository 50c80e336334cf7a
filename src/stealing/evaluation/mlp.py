"""StolenEncoder's own downstream head: features of several encoders in, predictions of one head for each out.

Shape letters: E encoders whose features have one width, N training rows, M test rows, B rows of a batch, D feature
width, K classes.
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

from stealing.data.draws import generator
from stealing.evaluation.rows import Whole

Rows = tuple[Tensor, Tensor]
"""Features (E, B, D) and labels (E, B)."""


@dataclass(frozen=True)
class MLPSettings:
    """The protocol of the head.

    Source: nn_classifier.py of the released code (liu00222/StolenEncoder at a9447c4).

    Attributes:
        hidden: widths of the hidden layers.
        dropout: probability, after the first of them.
        lr: of Adam.
        epochs: all of them; the last is judged.
        batch_size: rows a step, in the order of the training split: they are not shuffled.
    """

    hidden: list[int]
    dropout: float
    lr: float
    epochs: int
    batch_size: int


class MLPHeads(L.LightningModule):
    """One multilayer perceptron for each encoder, trained side by side: they share no parameter and no gradient.

    All start from the same weights and drop the same units, so that none is luckier than another, and an encoder's head
    does not depend on which ones are trained beside it.

    Args:
        encoders: E.
        width: D.
        classes: K.
        settings: the protocol.
    """

    def __init__(self, encoders: int, width: int, classes: int, settings: MLPSettings) -> None:
        super().__init__()
        self.settings = settings
        sizes = [width, *settings.hidden, classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
        self.weights = nn.ParameterList(layer.weight.T.detach().repeat(encoders, 1, 1) for layer in layers)
        self.biases = nn.ParameterList(layer.bias.detach().repeat(encoders, 1, 1) for layer in layers)

    def forward(self, features_EBD: Tensor, kept_BH: Tensor | None = None) -> Tensor:
        """Logits (E, B, K); `kept_BH` scales the units of the first hidden layer: 0 where they are dropped."""
        rows = features_EBD
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = torch.baddbmm(bias, rows, weight)
            rows = rows.relu() if place < len(self.weights) - 1 else rows
            rows = rows * kept_BH if place == 0 and kept_BH is not None else rows
        return rows

    def training_step(self, batch: Rows, batch_idx: int) -> Tensor:
        """The sum over the encoders of each one's mean cross-entropy."""
        features, labels = batch
        dice = generator("mlp dropout", self.global_step)
        kept = torch.rand(features.shape[1], self.settings.hidden[0], generator=dice) >= self.settings.dropout
        logits = self(features, kept.to(features.device) / (1 - self.settings.dropout))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / features.shape[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam treats each parameter by itself."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.lr)


def mlp_predict(trains: list[Whole], tests_EMD: list[Tensor], classes: int, settings: MLPSettings) -> list[Tensor]:
    """Train a head on each encoder's features, and predict its test rows once.

    Args:
        trains: of each of E encoders, features (N, D) and labels in [0, classes), of one shape; features
            are L2-normalised here, as the released code has them.
        tests_EMD: E test sets of one shape; L2-normalised here.
        classes: K.
        settings: the protocol.

    Returns:
        Predictions, int64 (M,), of each.
    """
    features = F.normalize(torch.stack([features for features, _ in trains]), dim=2)
    labels = torch.stack([labels for _, labels in trains])
    heads = MLPHeads(len(features), features.shape[2], classes, settings)
    size = settings.batch_size
    batches = [(features[:, at : at + size], labels[:, at : at + size]) for at in range(0, features.shape[1], size)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        plugins=[LightningEnvironment()],  # a fit of this process alone, whoever started it
        max_epochs=settings.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(heads, loader)
    with torch.inference_mode():
        return list(heads.eval()(F.normalize(torch.stack(tests_EMD), dim=2)).argmax(2))
