"""L-BFGS of several independent problems side by side: losses in, their minima out.

A GPU is kept busy: the device is asked for numbers once in many evaluations, and the work of one
evaluation is a fixed number of operations, however many problems and remembered steps there are.

Shape letters: E problems, P parameters of each, H remembered steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Losses = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Parameters (E, P) in; convex losses (E,) and their gradients (E, P) out."""

HISTORY = 20
"""Steps that are remembered, as many as in `LinearProbe`."""

PATIENCE = 8
"""Evaluations between two looks at how many problems are left; a look waits for the device."""

DECREASE = 1e-4
CURVATURE = 0.9
"""Of Wolfe's conditions: least share of the expected decrease, greatest share of the slope.

Source: Nocedal and Wright, Numerical Optimization (2006), section 3.1 and chapter 7.
"""

TRIES = 25
"""Most evaluations of one line search. More are needed only if rounding hides the decrease."""


class SideBySide:
    """L-BFGS for each of E problems: own steps, own line search, own end.

    One evaluation serves all problems. A problem whose trial point fulfils Wolfe's conditions takes
    the step; another one changes its step length and tries again; one that has converged stays
    where it is. So no problem waits for another one's line search.

    Args:
        losses: computes all problems at once; the rows of its argument do not influence each other.
        start_EP: where the problems start.
        tolerance: a problem has converged if no entry of its gradient exceeds this.
        iterations: most steps of a problem.
    """

    def __init__(
        self,
        losses: Losses,
        start_EP: Tensor,
        tolerance: float,
        iterations: int,
    ) -> None:
        self.losses = losses
        self.tolerance = tolerance
        self.iterations = iterations
        self.point_EP = start_EP
        self.loss_E, self.gradient_EP = losses(start_EP)
        # Nothing is known about the curvature yet: the first step is short.
        self.step_E = self.gradient_EP.abs().sum(1).reciprocal().clamp(max=1)
        self.direction_EP = -self.gradient_EP
        self.slope_E = _dot(self.gradient_EP, self.direction_EP)
        problems, parameters = start_EP.shape
        self.moves_EHP = start_EP.new_zeros(problems, HISTORY, parameters)
        self.changes_EHP = torch.zeros_like(self.moves_EHP)
        self.low_E = torch.zeros_like(self.step_E)
        self.high_E = torch.full_like(self.step_E, torch.inf)
        self.tries_E = torch.zeros_like(self.step_E)
        self.steps_E = torch.zeros_like(self.step_E)

    def minimise(self) -> Tensor:
        """Go on until every problem has converged or cannot, and return the parameters (E, P)."""
        while bool(self._is_active().any()):
            for _ in range(PATIENCE):
                self._evaluate()
        return self.point_EP

    def largest(self) -> Tensor:
        """Return the largest absolute entry of each gradient, (E,)."""
        return self.gradient_EP.abs().amax(1)

    def is_converged(self) -> Tensor:
        """Return whether no entry of a gradient exceeds the tolerance, bool (E,)."""
        return self.largest() <= self.tolerance

    def _is_active(self) -> Tensor:
        is_possible = (self.steps_E < self.iterations) & (self.tries_E < TRIES)
        return is_possible & ~self.is_converged()

    def _evaluate(self) -> None:
        """Try the next point of each line search, and take those that are good enough."""
        is_active_E = self._is_active()
        trial_EP = self.point_EP + self.step_E[:, None] * self.direction_EP
        loss_E, gradient_EP = self.losses(trial_EP)
        # Near the minimum the loss changes by less than it is rounded by. The slope decides there.
        rounding_E = 10 * torch.finfo(loss_E.dtype).eps * self.loss_E.abs()
        bound_E = self.loss_E + DECREASE * self.step_E * self.slope_E + rounding_E
        is_low_E = loss_E <= bound_E  # false for NaN too, of a step that was much too long
        is_flat_E = _dot(gradient_EP, self.direction_EP) >= CURVATURE * self.slope_E
        is_taken_E = is_active_E & is_low_E & is_flat_E
        self._bisect(is_low_E, is_taken_E)
        self._take(is_taken_E, trial_EP, loss_E, gradient_EP)

    def _bisect(self, is_low_E: Tensor, is_taken_E: Tensor) -> None:
        """Choose the next step lengths: between the bounds known so far, or twice as long.

        Source: Lewis and Overton 2013 (doi:10.1007/s10107-012-0514-2), algorithm 2.6.
        """
        self.low_E = torch.where(is_low_E, self.step_E, self.low_E)
        self.high_E = torch.where(is_low_E, self.high_E, self.step_E)
        middle_E = (self.low_E + self.high_E) / 2
        next_E = torch.where(self.high_E.isinf(), 2 * self.step_E, middle_E)
        self.step_E = next_E.masked_fill(is_taken_E, 1)
        self.low_E = self.low_E.masked_fill(is_taken_E, 0)
        self.high_E = self.high_E.masked_fill(is_taken_E, torch.inf)
        self.tries_E = (self.tries_E + 1).masked_fill(is_taken_E, 0)
        self.steps_E = self.steps_E + is_taken_E

    def _take(
        self,
        is_taken_E: Tensor,
        trial_EP: Tensor,
        loss_E: Tensor,
        gradient_EP: Tensor,
    ) -> None:
        """Go to the trial point, where it is taken, and choose the next direction there."""
        is_taken_E1 = is_taken_E[:, None]
        move_EP = trial_EP - self.point_EP
        change_EP = gradient_EP - self.gradient_EP
        self.moves_EHP = _pushed(is_taken_E, self.moves_EHP, move_EP)
        self.changes_EHP = _pushed(is_taken_E, self.changes_EHP, change_EP)
        self.point_EP = torch.where(is_taken_E1, trial_EP, self.point_EP)
        self.loss_E = torch.where(is_taken_E, loss_E, self.loss_E)
        self.gradient_EP = torch.where(is_taken_E1, gradient_EP, self.gradient_EP)
        direction_EP = -self._inverse_hessian_times(self.gradient_EP)
        slope_E = _dot(self.gradient_EP, direction_EP)
        # Rounding may spoil a direction; the gradient always leads down.
        is_down_E = slope_E < 0
        direction_EP = torch.where(is_down_E[:, None], direction_EP, -self.gradient_EP)
        slope_E = torch.where(is_down_E, slope_E, _dot(self.gradient_EP, direction_EP))
        self.direction_EP = torch.where(is_taken_E1, direction_EP, self.direction_EP)
        self.slope_E = torch.where(is_taken_E, slope_E, self.slope_E)

    def _inverse_hessian_times(self, vector_EP: Tensor) -> Tensor:
        """Return the estimate of the inverse Hessian by the remembered steps, times a vector.

        Two products with all remembered steps take the place of the usual two loops over them,
        which would be 160 operations. A place that is not filled yet holds zeros and adds nothing.

        Source: Byrd, Nocedal and Schnabel 1994 (doi:10.1007/BF01582063), theorem 2.2.
        """
        moves = self.moves_EHP
        changes = self.changes_EHP
        # The products of H x H numbers are small and ill-conditioned.
        crossed_EHH = (moves @ changes.mT).double()
        squared_EHH = (changes @ changes.mT).double()
        curvature_EH = crossed_EHH.diagonal(dim1=1, dim2=2)
        scale_E = curvature_EH[:, -1] / squared_EHH[:, -1, -1]
        scale_E11 = scale_E.nan_to_num(1.0)[:, None, None]  # 0 / 0 before the first step
        upper_EHH = crossed_EHH.triu() + torch.diag_embed((curvature_EH == 0).double())
        vector_EP1 = vector_EP[:, :, None]
        on_moves_EH1 = (moves @ vector_EP1).double()
        on_changes_EH1 = (changes @ vector_EP1).double()
        solved_EH1 = torch.linalg.solve_triangular(upper_EHH, on_moves_EH1, upper=True)
        inner_EHH = torch.diag_embed(curvature_EH) + scale_E11 * squared_EHH
        right_EH1 = inner_EHH @ solved_EH1 - scale_E11 * on_changes_EH1
        weights_EH1 = torch.linalg.solve_triangular(upper_EHH.mT, right_EH1, upper=False)
        dtype = vector_EP.dtype
        along_moves = moves.mT @ weights_EH1.to(dtype)
        along_changes = changes.mT @ (scale_E11 * solved_EH1).to(dtype)
        product_EP1: Tensor = scale_E11.to(dtype) * vector_EP1 + along_moves - along_changes
        return product_EP1[:, :, 0]


def _dot(first_EP: Tensor, second_EP: Tensor) -> Tensor:
    return (first_EP * second_EP).sum(1)


def _pushed(is_taken_E: Tensor, history_EHP: Tensor, row_EP: Tensor) -> Tensor:
    """Return histories without their oldest and with a newest row, of problems that took a step."""
    newer_EHP = torch.cat([history_EHP[:, 1:], row_EP[:, None]], 1)
    return torch.where(is_taken_E[:, None, None], newer_EHP, history_EHP)
