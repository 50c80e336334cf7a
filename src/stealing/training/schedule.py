"""Learning-rate schedules whose horizon is a number of steps that the caller computes."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float) -> LambdaLR:
    """Rise linearly over the first share `warmup` of the steps, then fall as half a cosine to zero.

    Source: SimCLR (arXiv:2002.05709), section 2.3.
    """
    rising = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total_steps - rising))))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Keep the optimiser's own rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)
