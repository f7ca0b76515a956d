"""Where networks start."""

from __future__ import annotations

import torch
from torch import nn


def normal_init(module: nn.Module, scale: float = 0.01, generator: torch.Generator | None = None) -> nn.Module:
    """Draws every weight from N(0, scale^2) and sets every bias to 0, in place, as Kingma & Welling (2013) did.

    What is neither (the gain of a normalisation, a scale) stays as it is.

    Returns:
        ``module``.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, scale, generator=generator)
            elif name.split(".")[-1] == "bias":
                parameter.zero_()
    return module
