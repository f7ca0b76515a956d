"""Planar flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae._checks import checked
from pyro_vae.transforms.base import Parameters, Step
from pyro_vae.transforms.roots import tanh_root


class Planar(Step):
    r"""Expands or contracts the space along a plane.

    .. math:: y = z + \hat u \tanh(w^\top z + b), \quad \hat u = u + (\log(1 + e^{w^\top u}) - 1 - w^\top u) w / \|w\|^2

    and :math:`\log |\det| = \log(1 + w^\top \hat u \, (1 - \tanh^2(w^\top z + b)))`, where
    :math:`w^\top \hat u > -1` makes it invertible. The inverse has one scalar equation a latent, solved numerically;
    its first-order gradients are exact. Where w is (nearly) zero, the step is the translation by :math:`u \tanh(b)`.

    Args:
        latent_dim, context_dim: see :class:`Step`.

    Source: Rezende & Mohamed (2015), eqs. 10 to 12 and appendix A.1.
    """

    @checked(but=("latent_dim", "context_dim"))
    def __init__(self, latent_dim: int, context_dim: int | None = None) -> None:
        super().__init__(latent_dim, context_dim)
        w = (2 * torch.rand(latent_dim) - 1) / math.sqrt(latent_dim)
        # Where w.u = log(e - 1) the constrained w.u_hat is 0; what is left of u_hat is small.
        u = math.log(math.e - 1) * w / w.square().sum() + 0.01 * torch.randn(latent_dim)
        self.numbers = Parameters((torch.zeros(1), u, w), context_dim)

    @staticmethod
    def constrained(*parts: Tensor) -> tuple[Tensor, ...]:
        """b, u_hat, w, and the slope 1 + w.u_hat."""
        bias, u, w = parts
        product = (w * u).sum(-1, keepdim=True)
        square = w.square().sum(-1, keepdim=True)
        flat = square < torch.finfo(square.dtype).tiny ** 0.5
        slope = torch.where(flat, 1 + product, F.softplus(product))
        return bias, u + (slope - 1 - product) * w / torch.where(flat, 1.0, square), w, slope

    def call_and_ladj(self, z: Tensor, theta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        bias, u_hat, w, slope = theta
        # No matrix product, which autocast would run in half precision.
        t = ((w * z).sum(-1, keepdim=True) + bias).tanh()
        ladj = _log_det(t, slope)
        return z + u_hat * t, ladj

    def inverse_and_ladj(self, y: Tensor, theta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        bias, u_hat, w, slope = theta
        t = tanh_root(slope, (w * y).sum(-1, keepdim=True) + bias).tanh()
        ladj = _log_det(t, slope)
        return y - u_hat * t, -ladj


def _log_det(t: Tensor, slope: Tensor) -> Tensor:
    # 1 + (slope - 1) (1 - t^2), as a sum of what is not negative.
    return (t.square() + (1 - t.square()) * slope).log().squeeze(-1)
