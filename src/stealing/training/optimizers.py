"""Optimizers beyond torch's own: parameters in, an optimizer out."""

from collections.abc import Iterable
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from stealing.config import unwrap
from stealing.errors import ConfigError, StealingError
from stealing.numbers import check_number
from stealing.reading import first_line


def lars(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> Optimizer:
    """Return LARS: SGD whose rate is scaled for each layer by the norms of weights and gradient.

    It serves batches of a thousand images and more. Biases and the parameters of normalisation take
    plain SGD without weight decay.

    Args:
        parameters: to train.
        lr: learning rate, before the layers' own scales.
        momentum: of SGD.
        weight_decay: L2 penalty, part of the gradient that is scaled.
        trust: the coefficient of the scale.

    Raises:
        ConfigError: `trust` is out of range, or timm is not installed.

    Source: You et al. 2017 (arXiv:1708.03888); the exceptions as in SimCLR (arXiv:2002.05709). The
    step is timm's.
    """
    check_number("optimizer.trust", trust)
    try:
        from timm.optim.lars import Lars
    except ImportError:
        raise ConfigError(
            "LARS needs timm: pip install -e '.[targets]', or choose another pretrain=."
        ) from None
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        if parameter.ndim > 1:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        # timm scales no layer that has no weight decay
        {"params": vectors, "weight_decay": 0.0},
    ]
    return Lars(groups, lr=lr, momentum=momentum, trust_coeff=trust)


def check_optimizer(node: dict[str, Any], place: str) -> None:
    """Refuse settings that an optimizer does not take; one parameter stands in for all.

    Args:
        node: resolved.
        place: of the node, such as `control.optimizer`.

    Raises:
        ConfigError: with the optimizer's own reason.
    """
    try:
        instantiate(node)([nn.Parameter(torch.zeros(2, 2))])
    except Exception as error:  # torch refuses a number by a ValueError
        cause = unwrap(error)
        if isinstance(cause, StealingError):
            raise cause from None
        raise ConfigError(
            f"{place}={node['_target_']} takes no such settings ({first_line(cause)}): "
            "correct or drop that one."
        ) from error
