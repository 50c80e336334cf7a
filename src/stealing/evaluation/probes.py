"""Linear probes on several encoders side by side: what `stealing.evaluation.probe` does, on a GPU.

A single probe leaves a GPU idle: each step of L-BFGS is hundreds of small operations and waits for
the device as often. The losses, penalties, tolerance and choices are those of a single probe.

Shape letters: E encoders whose features have one width, N training rows, M test rows, V held rows,
D feature width, K classes, P = (D + 1) * K parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stealing.evaluation.lbfgs import SideBySide
from stealing.evaluation.probe import ProbeSettings, standardised, warn_of_gradient
from stealing.evaluation.rows import Rows


class ProbeLosses:
    """The loss of `LinearProbe.training_step` for each encoder, with its gradient.

    Args:
        features_END: standardised features.
        labels_EN: in [0, classes).
        penalty_E: L2 penalty of each.
        classes: K.
    """

    def __init__(
        self,
        features_END: Tensor,
        labels_EN: Tensor,
        penalty_E: Tensor,
        classes: int,
    ) -> None:
        self.features_END = features_END
        self.labels_EN1 = labels_EN[:, :, None]
        self.penalty_E = penalty_E.to(features_END.dtype)
        self.classes = classes

    def __call__(self, point_EP: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (E,) and gradients (E, P)."""
        weight_EDK, bias_E1K = _parts(point_EP, self.classes)
        logits_ENK = torch.baddbmm(bias_E1K, self.features_END, weight_EDK)
        chances_ENK = logits_ENK.log_softmax(2)
        entropy_EN1 = -chances_ENK.gather(2, self.labels_EN1)
        size_E = weight_EDK.square().sum((1, 2))
        loss_E = entropy_EN1.mean((1, 2)) + self.penalty_E * size_E / 2
        surplus_ENK = chances_ENK.exp()
        surplus_ENK.scatter_add_(2, self.labels_EN1, -torch.ones_like(entropy_EN1))
        surplus_ENK /= surplus_ENK.shape[1]
        of_weight_EDK = self.features_END.mT @ surplus_ENK
        of_weight_EDK += self.penalty_E[:, None, None] * weight_EDK
        return loss_E, torch.cat([of_weight_EDK.flatten(1), surplus_ENK.sum(1)], 1)


def _parts(point_EP: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weights (E, D, K) and biases (E, 1, K)."""
    problems = len(point_EP)
    weight_EDK = point_EP[:, :-classes].view(problems, -1, classes)
    return weight_EDK, point_EP[:, None, -classes:]


def _predict(point_EP: Tensor, features_EMD: Tensor, classes: int) -> Tensor:
    weight_EDK, bias_E1K = _parts(point_EP, classes)
    return torch.baddbmm(bias_E1K, features_EMD, weight_EDK).argmax(2)


def fit_probes(
    features_END: Tensor,
    labels_EN: Tensor,
    start_EP: Tensor,
    penalty_E: Tensor,
    classes: int,
    settings: ProbeSettings,
) -> Tensor:
    """Minimise the loss of each encoder, and return the parameters (E, P).

    As in `LinearProbe.fit`, float64 takes over where float32 cannot reach the tolerance.

    Warns:
        UserWarning: A gradient is above the tolerance after all iterations.
    """
    point_EP = start_EP
    is_converged_E = torch.zeros_like(penalty_E, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        losses = ProbeLosses(features_END.to(dtype), labels_EN, penalty_E, classes)
        solver = SideBySide(losses, point_EP.to(dtype), settings.tolerance, settings.iterations)
        solved_EP = solver.minimise().float()
        # What has converged stays: it must not depend on whether others need float64.
        point_EP = torch.where(is_converged_E[:, None], point_EP, solved_EP)
        is_converged_E = is_converged_E | solver.is_converged()
        if bool(is_converged_E.all()):
            return point_EP
    for problem in (~is_converged_E).nonzero()[:, 0].tolist():
        gradient = float(solver.largest()[problem])
        warn_of_gradient(labels_EN.shape[1], gradient, float(penalty_E[problem]), settings)
    return point_EP


@torch.inference_mode()
def probes_predict(
    rows: Sequence[Rows],
    tests_EMD: Sequence[Tensor],
    classes: int,
    settings: ProbeSettings,
) -> list[tuple[Tensor, Tensor]]:
    """Choose each encoder's penalty on its held rows, refit on all of train, and predict the tests.

    Args:
        rows: training rows of each encoder, of one shape.
        tests_EMD: test features of each, of one shape.
        classes: K.
        settings: the protocol.

    Returns:
        For each encoder what `probe_predict` returns.
    """
    scaled = []
    tests = []
    for one, test_MD in zip(rows, tests_EMD, strict=True):
        scaled_rows, scaled_test = standardised(one, test_MD)
        scaled.append(scaled_rows)
        tests.append(scaled_test)
    fit_END, fit_labels_EN = _stacked([one.fit for one in scaled])
    held_EVD, held_labels_EV = _stacked([one.held for one in scaled])
    problems, _, width = fit_END.shape
    point_EP = fit_END.new_zeros(problems, (width + 1) * classes)
    best_EP = point_EP
    best_EV = torch.zeros_like(held_labels_EV)
    best_penalty_E = fit_END.new_zeros(problems)
    best_accuracy_E = fit_END.new_full((problems,), -1.0)
    for penalty in sorted(settings.penalties, reverse=True):
        penalty_E = fit_END.new_full((problems,), penalty)
        point_EP = fit_probes(fit_END, fit_labels_EN, point_EP, penalty_E, classes, settings)
        predicted_EV = _predict(point_EP, held_EVD, classes)
        accuracy_E = (predicted_EV == held_labels_EV).float().mean(1)
        is_better_E = accuracy_E > best_accuracy_E
        best_accuracy_E = torch.where(is_better_E, accuracy_E, best_accuracy_E)
        best_penalty_E = torch.where(is_better_E, penalty_E, best_penalty_E)
        best_EV = torch.where(is_better_E[:, None], predicted_EV, best_EV)
        best_EP = torch.where(is_better_E[:, None], point_EP, best_EP)
    all_END, all_labels_EN = _stacked([one.all for one in scaled])
    point_EP = fit_probes(all_END, all_labels_EN, best_EP, best_penalty_E, classes, settings)
    tested_EM = _predict(point_EP, torch.stack(tests), classes)
    return list(zip(best_EV, tested_EM, strict=True))


def _stacked(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return features and labels of all encoders in one tensor each."""
    features, labels = zip(*parts, strict=True)
    return torch.stack(features), torch.stack(labels)
