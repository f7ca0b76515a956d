"""Radial flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae._checks import checked
from pyro_vae.transforms.base import Parameters, Step


class Radial(Step):
    r"""Expands or contracts the space around a point.

    .. math:: y = z + \frac \beta {\alpha + r} (z - z_0), \quad r = \|z - z_0\|

    with :math:`\alpha > 0` and :math:`\beta > -\alpha`, which makes it invertible, by a quadratic equation in r.

    Args:
        latent_dim, context_dim: see :class:`Step`.

    Source: Rezende & Mohamed (2015), eq. 14 and appendix A.2.
    """

    @checked(but=("latent_dim", "context_dim"))
    def __init__(self, latent_dim: int, context_dim: int | None = None) -> None:
        super().__init__(latent_dim, context_dim)
        center = (2 * torch.rand(latent_dim) - 1) / math.sqrt(latent_dim)
        # beta = softplus(second) - softplus(first), about 0.
        self.numbers = Parameters((center, torch.zeros(1), 0.1 * torch.randn(1)), context_dim)

    @staticmethod
    def constrained(*parts: Tensor) -> tuple[Tensor, ...]:
        """The center, alpha, and alpha + beta."""
        center, alpha_prime, beta_prime = parts
        return center, F.softplus(alpha_prime), F.softplus(beta_prime)

    def call_and_ladj(self, z: Tensor, theta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        center, alpha, total = theta
        beta = -alpha + total
        difference = z - center
        r = difference.norm(dim=-1, keepdim=True)
        h = (alpha + r).reciprocal()
        slope = -(h**2)
        beta_h = beta * h
        ladj = ((self.latent_dim - 1) * torch.log1p(beta_h) + torch.log1p(beta_h + beta * slope * r)).sum(-1)
        return z + beta_h * difference, ladj

    def inverse_and_ladj(self, y: Tensor, theta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        center, alpha, total = theta
        difference = y - center
        radius = difference.norm(dim=-1, keepdim=True)
        # r^2 + (total - radius) r - alpha radius = 0; of its two forms the one without cancellation.
        half = radius - total
        larger = (half.abs() + (half.square() + 4 * alpha * radius).sqrt()) / 2
        r = torch.where(half >= 0, larger, alpha * radius / larger)
        z = center + difference * (alpha + r) / (total + r)
        return z, -self.call_and_ladj(z, theta)[1]
