"""Priors on the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks import shape_of


class SphereUniform(Remembered, nn.Module):
    r"""The uniform prior on the unit sphere of R^D, :math:`p(z) = \Gamma(D / 2) / (2 \pi^{D / 2})`.

    Args:
        latent_dim: D, at least 2.

    Raises:
        ValueError: if ``latent_dim`` is below 2.

    Source: Davidson et al. (2018), section 3.

    >>> SphereUniform(3)().event_shape
    torch.Size([3])
    """

    zero: Tensor

    @checked
    def __init__(self, latent_dim: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)
        if len(self.event_shape) != 1:
            raise ValueError(f"latent_dim of a sphere is one size; got {list(self.event_shape)}.")
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows the device and dtype
        self()  # a sphere needs two dimensions

    def forward(self) -> dist.Distribution:
        (latent_dim,) = self.event_shape
        return distributions.SphereUniform(latent_dim, dtype=self.zero.dtype, device=self.zero.device)
