"""Gaussian priors."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks import shape_of
from pyro_vae.priors.families import FamilyPrior, Sizes, Value


class StandardNormal(Remembered, nn.Module):
    r"""The standard normal prior, :math:`p(z) = \mathcal N(0, I)`.

    Args:
        latent_dim: size (or event shape) of z.

    Raises:
        ValueError: if a size is below 1.

    Source: Kingma & Welling (2013), section 3.

    >>> StandardNormal(20)().event_shape
    torch.Size([20])
    """

    zero: Tensor

    @checked
    def __init__(self, latent_dim: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows the device and dtype

    def forward(self) -> dist.Distribution:
        loc = self.zero.expand(self.event_shape)
        return dist.Normal(loc, torch.ones_like(loc)).to_event(len(self.event_shape))


class LearnedNormal(FamilyPrior):
    r"""A Gaussian with learned parameters, :math:`p(z) = \mathcal N(\mathrm{loc}, \mathrm{scale}^2)`.

    Args:
        latent_dim: size (or event shape) of z.
        loc: where loc starts, a number or a tensor that expands to the shape of z.
        scale: where scale starts, likewise.

    Raises:
        ValueError: if a size is below 1, or ``scale`` is not positive.
    """

    distribution = dist.Normal

    def __init__(self, latent_dim: Sizes, loc: Value = 0.0, scale: Value = 1.0) -> None:
        super().__init__(latent_dim, True, loc=loc, scale=scale)
