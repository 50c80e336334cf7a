"""BatchNorm whose statistics are those of the whole batch, on processors: torch's own refuses them.

With statistics of its own rows alone, each process trains another network, and contrastive training can tell positives
by them (SimCLR, arXiv:2002.05709, section 2.3).

Shape letters: B rows of this process, C channels, W processes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stealing.training.ranks import world


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all rows; the gradient sees the rows of all processes as well.

    Each process computes the loss of the whole batch, so gradients arrive W times too large and leave so: the average
    that DistributedDataParallel takes mends those of weight and bias.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(rows, weight, mean, var)
        ctx.eps = eps
        return F.batch_norm(rows, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, var = ctx.saved_tensors
        fixed = (None, None, False, ctx.eps, [True, True, True])  # as if the statistics were given
        scaled, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, rows, weight, mean, var, *fixed
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        over_weight, over_bias = sums * rows.shape[1] / (rows.numel() * world())  # means over the rows of all
        inverse = (var + ctx.eps).rsqrt()
        slope = -weight * inverse * inverse * over_weight
        shift = -weight * inverse * over_bias - slope * mean
        shape = [1, -1] + [1] * (rows.dim() - 2)
        through = torch.addcmul(scaled, rows, slope.view(shape)).add_(shift.view(shape))
        return through, of_weight, of_bias, None, None, None


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the rows of all processes in training, torch's own in evaluation; same weights, same buffers."""

    def _check_input_dim(self, _: Tensor) -> None:
        """Any (B, C, ...)."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise (B, C, ...); every process has as many rows. Statistics are computed in float32."""
        if not self.training:
            evaluated: Tensor = super().forward(rows)
            return evaluated
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        kept = rows.float()
        with torch.no_grad():
            own_mean, own_var = torch.batch_norm_update_stats(kept, None, None, 0.0)
            both = torch.stack([own_mean, own_var + own_mean.square()])
            dist.all_reduce(both)
            mean, square = both / world()
            var = (square - mean.square()).clamp(min=0)
            count = rows.numel() // rows.shape[1] * world()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(var * count / (count - 1), self.momentum or 0.0)
        normed: Tensor = _Normalise.apply(kept, self.weight, self.bias, mean, var, self.eps)
        return normed.to(rows.dtype)


def share_batchnorm(module: nn.Module) -> None:
    """Make every BatchNorm inside share its statistics, in place: parameters, buffers and names stay what they are."""
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            inner.__class__ = SharedBatchNorm
