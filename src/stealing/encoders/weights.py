"""Weights that make no encoder: a network in, what is wrong with its numbers out."""

import torch
from torch import nn


@torch.no_grad()
def flaw_of_weights(network: nn.Module) -> str | None:
    """Return a phrase such as "has NaN in 'mean'"; None if the weights are sound.

    Weights are sound if every parameter is finite, no buffer is NaN (a mask may be infinite), and
    not every weight matrix or kernel is constant, as in a network of zeros.
    """
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"has weights in {name!r} that are not finite"
    for name, buffer in network.named_buffers():
        if buffer.isnan().any():
            return f"has NaN in {name!r}"
    has_kernels = False
    for parameter in network.parameters():
        # Biases and scales of normalisation have one dimension, and are constant at first.
        if parameter.ndim < 2 or parameter.numel() < 2:
            continue
        flat = parameter.flatten()
        if not (flat == flat[0]).all():
            return None
        has_kernels = True
    return "has weights that are all one number" if has_kernels else None
