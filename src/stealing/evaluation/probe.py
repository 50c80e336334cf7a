"""The linear probe: features and labels of a task in, predictions out; the same protocol for every encoder.

Shape letters: N training rows, M test rows, V held rows, D feature width, K classes.
"""

import warnings
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.evaluation.rows import Rows, Whole

HISTORY = 20
"""Steps that L-BFGS remembers; more converge in fewer passes over the data."""


@dataclass(frozen=True)
class ProbeSettings:
    """The protocol of the linear probe.

    Attributes:
        penalties: the grid of L2 penalties, the same for every encoder.
        tolerance: a fit has converged if no entry of the gradient of its mean loss exceeds this.
        iterations: most iterations of L-BFGS for one penalty; a fit that needs more is warned about.
    """

    penalties: list[float]
    tolerance: float
    iterations: int


class LinearProbe(L.LightningModule):
    """Multinomial logistic regression by L-BFGS on the whole training set. It is convex, so it needs no seed.

    Args:
        width: D.
        classes: K.
        settings: tolerance and iterations.
    """

    def __init__(self, width: int, classes: int, settings: ProbeSettings) -> None:
        super().__init__()
        self.settings = settings
        self.penalty = 0.0
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features_ND: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return F.linear(features_ND, self.weight, self.bias)

    def training_step(self, batch: Whole, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy plus penalty * |W|^2 / 2; the bias is not penalised."""
        features, labels = batch
        return F.cross_entropy(self(features), labels) + self.penalty * self.weight.square().sum() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One step of the optimiser is the whole fit."""
        return torch.optim.LBFGS(
            self.parameters(),
            max_iter=self.settings.iterations,
            max_eval=4 * self.settings.iterations,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=self.settings.tolerance,
            tolerance_change=0.0,  # a small step is not yet a small gradient
        )

    def fit(self, train: Whole, penalty: float) -> None:
        """Minimise the loss under this penalty, from the weights that the probe has.

        Near the minimum the loss changes by less than float32 can tell, and the line search of L-BFGS
        may end early. If the gradient is still above the tolerance then, float64 takes over.

        Warns:
            UserWarning: the gradient is above the tolerance after all iterations.
        """
        self.penalty = penalty
        features, labels = train
        for dtype in (torch.float32, torch.float64):
            batch = features.to(dtype), labels
            self.to(features.device, dtype)
            self._minimise(batch)
            left = self.gradient(batch)
            if left <= self.settings.tolerance:
                break
        else:
            warnings.warn(
                f"A linear probe of {len(labels)} rows stopped at a gradient of {left:.1e} under the "
                f"penalty {penalty:g}, above probe.linear.tolerance={self.settings.tolerance:g}: raise "
                "probe.linear.iterations.",
                stacklevel=2,
            )
        self.float()

    def _minimise(self, batch: Whole) -> None:
        """Take the one step; a Trainer around it would cost more than it does."""
        optimizer = self.configure_optimizers()

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.training_step(batch, 0)
            torch.autograd.backward(loss)
            return float(loss.detach())

        with torch.enable_grad():
            optimizer.step(closure)

    def gradient(self, train: Whole) -> float:
        """Return the largest entry of the loss's gradient, by size; 0 at the minimum."""
        with torch.enable_grad():
            loss = self.training_step(train, 0)
        parts = torch.autograd.grad(loss, [self.weight, self.bias])
        return max(float(part.abs().max()) for part in parts)


@torch.inference_mode()
def _predict(probe: LinearProbe, features_ND: Tensor) -> Tensor:
    predictions: Tensor = probe(features_ND).argmax(1)
    return predictions


def probe_predict(rows: Rows, test_MD: Tensor, classes: int, settings: ProbeSettings) -> tuple[Tensor, Tensor]:
    """Choose the penalty on the held rows of train, refit on all of train, predict the test rows once.

    Each penalty of the grid is solved by itself, from the strongest to the weakest: the solution of
    one is where the next begins, which changes how long it takes and not where it ends.

    Args:
        rows: of train, as the encoder gives their features.
        test_MD: test features.
        classes: K.
        settings: the protocol.

    Returns:
        Predictions of the held rows under the chosen penalty, before the refit, int64 (V,); and of
        the test rows, int64 (M,); on the device of the features.
    """
    mean = rows.features.mean(0)
    deviation = rows.features.std(0).clamp(min=1e-6)
    scaled = rows.scaled(mean, deviation)
    held_VD, labels_V = scaled.held
    trial = LinearProbe(scaled.features.shape[1], classes, settings)
    best_right = -1.0
    for penalty in sorted(settings.penalties, reverse=True):
        trial.fit(scaled.fit, penalty)
        predicted_V = _predict(trial, held_VD)
        right = float((predicted_V == labels_V).float().mean())
        if right > best_right:  # of equally good ones the strongest penalty
            best_right = right
            best = penalty
            chosen_V = predicted_V
            weights = {name: part.clone() for name, part in trial.state_dict().items()}
    trial.load_state_dict(weights)
    trial.fit(scaled.all, best)
    return chosen_V, _predict(trial, (test_MD - mean) / deviation)
