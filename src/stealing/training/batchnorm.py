"""BatchNorm over the rows of all processes, on CPUs: a network in, the same network out.

torch's SyncBatchNorm refuses tensors on a CPU. If each process normalised only its own rows,
it would train another network than one process does, and contrastive training could tell positives
from negatives by their statistics (SimCLR, arXiv:2002.05709, section 2.3).

Shape letters: B rows of this process, C channels, W processes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stealing.training.distributed import world_size


class _Normalise(torch.autograd.Function):
    """Normalises by the statistics of all rows, with a gradient through the statistics.

    Each process computes the loss of the whole batch, so gradients are W times too large here. They
    stay so: DistributedDataParallel divides those of weights and biases by W.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, mean, var)
        ctx.eps = eps
        return F.batch_norm(rows, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, var = ctx.saved_tensors
        # first the gradient under fixed statistics, as in evaluation
        scaled, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient,
            rows,
            weight,
            mean,
            var,
            save_mean=None,
            save_invstd=None,
            train=False,
            eps=ctx.eps,
            output_mask=[True, True, True],
        )
        # then what flows through mean and variance, which all rows of all processes share
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        means = sums * rows.shape[1] / (rows.numel() * world_size())
        over_weight, over_bias = means
        inverse = (var + ctx.eps).rsqrt()
        slope = -weight * inverse * inverse * over_weight
        shift = -weight * inverse * over_bias - slope * mean
        shape = [1, -1] + [1] * (rows.dim() - 2)
        total = torch.addcmul(scaled, rows, slope.view(shape)).add_(shift.view(shape))
        return total, of_weight, of_bias, None, None, None


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the rows of all processes in training, and torch's own in evaluation.

    Weights and buffers are those of torch's BatchNorm.
    """

    def _check_input_dim(self, _: Tensor) -> None:
        """Accept any (B, C, ...)."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise (B, C, ...); B is the same in all processes. Statistics are float32."""
        if not self.training:
            evaluated: Tensor = super().forward(rows)
            return evaluated
        rows_float = rows.float()
        with torch.no_grad():
            mean, var = self._statistics(rows_float)
        normalised: Tensor = _Normalise.apply(
            rows_float, self.weight, self.bias, mean, var, self.eps
        )
        return normalised.to(rows.dtype)

    def _statistics(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return each channel's mean and variance over all processes; update the running ones."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        own_mean, own_var = torch.batch_norm_update_stats(rows, None, None, 0.0)
        # mean and mean square add up over processes; variances do not
        both = torch.stack([own_mean, own_var + own_mean.square()])
        dist.all_reduce(both)
        mean, square = both / world_size()
        var = (square - mean.square()).clamp(min=0)
        count = rows.numel() // rows.shape[1] * world_size()
        momentum = self.momentum or 0.0
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        # as torch does: the running variance is the unbiased one, the batch's is not
        self.running_var.lerp_(var * count / (count - 1), momentum)
        return mean, var


def share_batchnorm(module: nn.Module) -> None:
    """Make every BatchNorm of a module share its statistics, in place.

    Only classes change. Parameters, buffers and their names stay, and so does the form of
    checkpoints.
    """
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            inner.__class__ = SharedBatchNorm
