"""Optimisers beyond torch's own: parameters in, an optimiser out."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from stealing.errors import ConfigError


def lars(
    parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, trust: float
) -> Optimizer:
    """SGD whose rate for each layer is scaled by |weights| / |gradient|, for batches of a thousand images and more.

    Biases and the parameters of normalisation take plain SGD without weight decay.

    Args:
        parameters: to train.
        lr: learning rate, before the layers' own scales.
        momentum: of SGD.
        weight_decay: L2 penalty, part of the gradient that is scaled.
        trust: the coefficient of the scale.

    Raises:
        ConfigError: timm is not installed.

    Source: You et al. 2017 (arXiv:1708.03888); the exceptions as in SimCLR (arXiv:2002.05709). timm has the step.
    """
    try:
        from timm.optim.lars import Lars
    except ImportError:
        raise ConfigError("LARS needs timm: pip install -e '.[targets]', or choose another pretrain=.") from None
    all_ = list(parameters)
    groups = [
        {"params": [p for p in all_ if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in all_ if p.ndim <= 1], "weight_decay": 0.0},  # without decay, timm does not scale
    ]
    return Lars(groups, lr=lr, momentum=momentum, trust_coeff=trust)
