"""Learning-rate schedules: an optimizer and a number of steps in, a schedule out."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stealing.numbers import check_number


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float) -> LambdaLR:
    """Rise linearly over the first share `warmup` of the steps, then fall as half a cosine to zero.

    Args:
        optimizer: whose rate is the highest one.
        total_steps: of the training.
        warmup: share of the steps with a rising rate, 0 to 1.

    Raises:
        ConfigError: `warmup` is not in [0, 1].

    Source: SimCLR (arXiv:2002.05709), section 2.3.
    """
    check_number("warmup", warmup, high=1)
    rising = max(1, round(warmup * total_steps))
    falling = max(1, total_steps - rising)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        # beyond the horizon the rate stays zero: the cosine alone would rise again
        progress = min(1.0, (step - rising) / falling)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Keep the optimizer's own rate in all steps.

    Args:
        optimizer: whose rate stays.
        total_steps: of the training.
    """
    return LambdaLR(optimizer, lambda step: 1.0)
