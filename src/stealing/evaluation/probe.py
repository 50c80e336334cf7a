"""The linear probe: features and labels of a task in, predictions out.

The protocol is the same for every encoder.

Shape letters: N training rows, M test rows, V held rows, D feature width, K classes.
"""

import warnings
from copy import deepcopy
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.evaluation.rows import Labelled, Rows

HISTORY = 20
"""Steps that L-BFGS remembers. With more it converges in fewer passes over the data."""


@dataclass(frozen=True)
class ProbeSettings:
    """The protocol of the linear probe.

    Attributes:
        penalties: the grid of L2 penalties, the same for every encoder.
        tolerance: a fit has converged if no entry of the gradient of its mean loss exceeds this.
        iterations: most iterations of L-BFGS for one penalty; a warning says if a fit needs more.
    """

    penalties: list[float]
    tolerance: float
    iterations: int


class LinearProbe(L.LightningModule):
    """Multinomial logistic regression by L-BFGS on the whole training set.

    The loss is convex, so the fit needs no seed.

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

    def training_step(self, batch: Labelled, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy plus penalty * |W|^2 / 2; the bias is not penalised."""
        features, labels = batch
        loss = F.cross_entropy(self(features), labels)
        return loss + self.penalty * self.weight.square().sum() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return L-BFGS; one step of it is the whole fit."""
        return torch.optim.LBFGS(
            self.parameters(),
            max_iter=self.settings.iterations,
            max_eval=4 * self.settings.iterations,  # a line search evaluates several points
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=self.settings.tolerance,
            tolerance_change=0.0,  # a small step does not mean a small gradient
        )

    def fit(self, train: Labelled, penalty: float) -> None:
        """Minimise the loss under this penalty, from the weights that the probe has.

        Near the minimum the loss changes by less than float32 resolves, and the line search of
        L-BFGS may end early. If the gradient is above the tolerance then, float64 takes over.

        Warns:
            UserWarning: The gradient is above the tolerance after all iterations.
        """
        self.penalty = penalty
        features, labels = train
        for dtype in (torch.float32, torch.float64):
            batch = (features.to(dtype), labels)
            self.to(features.device, dtype)
            self._minimise(batch)
            gradient = self.gradient(batch)
            if gradient <= self.settings.tolerance:
                break
        else:
            warn_of_gradient(len(labels), gradient, penalty, self.settings)
        self.float()

    def _minimise(self, batch: Labelled) -> None:
        """Take the one step, without a Trainer: that would cost more than the step itself."""
        optimizer = self.configure_optimizers()

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.training_step(batch, 0)
            torch.autograd.backward(loss)
            return float(loss.detach())

        with torch.enable_grad():
            optimizer.step(closure)

    def gradient(self, train: Labelled) -> float:
        """Return the largest absolute entry of the gradient of the loss; 0 at the minimum."""
        with torch.enable_grad():
            loss = self.training_step(train, 0)
        parts = torch.autograd.grad(loss, [self.weight, self.bias])
        return max(float(part.abs().max()) for part in parts)


def warn_of_gradient(
    rows: int,
    gradient: float,
    penalty: float,
    settings: ProbeSettings,
) -> None:
    """Warn that a fit has not converged.

    Args:
        rows: number of training rows.
        gradient: largest absolute entry that is left.
        penalty: of the fit.
        settings: what it was allowed.
    """
    warnings.warn(
        f"A linear probe of {rows} rows stopped at a gradient of {gradient:.1e} "
        f"under the penalty {penalty:g}, above probe.linear.tolerance={settings.tolerance:g}: "
        "raise probe.linear.iterations.",
        stacklevel=3,
    )


def standardised(rows: Rows, test_MD: Tensor) -> tuple[Rows, Tensor]:
    """Return training rows and test features, scaled by the mean and deviation of train."""
    mean_D = rows.features.mean(0)
    deviation_D = rows.features.std(0).clamp(min=1e-6)  # a feature may be constant
    return rows.scaled(mean_D, deviation_D), (test_MD - mean_D) / deviation_D


@torch.inference_mode()
def _predict(probe: LinearProbe, features_ND: Tensor) -> Tensor:
    predictions: Tensor = probe(features_ND).argmax(1)
    return predictions


def probe_predict(
    rows: Rows, test_MD: Tensor, classes: int, settings: ProbeSettings
) -> tuple[Tensor, Tensor]:
    """Choose the penalty on the held rows, refit on all of train, and predict the test rows once.

    The grid is solved from the strongest penalty to the weakest. Each fit starts at the solution of
    the one before. This changes how long a fit takes, and not where it ends: the loss is convex.

    Args:
        rows: training rows, with features as the encoder gives them; standardised here by the mean
            and deviation of train.
        test_MD: test features; standardised likewise.
        classes: K.
        settings: the protocol.

    Returns:
        Predictions of the held rows under the chosen penalty before the refit, int64 (V,), and of
        the test rows after it, int64 (M,); on the device of the features.
    """
    scaled, test = standardised(rows, test_MD)
    held_VD, labels_V = scaled.held
    trial = LinearProbe(scaled.features.shape[1], classes, settings)
    best_accuracy = -1.0
    for penalty in sorted(settings.penalties, reverse=True):
        trial.fit(scaled.fit, penalty)
        predicted_V = _predict(trial, held_VD)
        accuracy = float((predicted_V == labels_V).float().mean())
        if accuracy > best_accuracy:  # of equally good penalties, the strongest stays
            best_accuracy = accuracy
            best_penalty = penalty
            best_V = predicted_V
            weights = deepcopy(trial.state_dict())
    trial.load_state_dict(weights)
    trial.fit(scaled.all, best_penalty)
    return best_V, _predict(trial, test)
