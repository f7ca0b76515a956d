"""Householder flows."""

from __future__ import annotations

import torch
from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor
from torch.distributions import Transform

from pyro_vae._checks import whole
from pyro_vae.transforms.base import Bijection, Parameters, Step


class Householder(Step):
    r"""Reflections, which turn the space and keep volumes: :math:`\log |\det| = 0`.

    .. math:: y = H_R \cdots H_1 z, \quad H_i = I - 2 v_i v_i^\top / \|v_i\|^2

    It starts near the identity where ``num_reflections`` is even (in pairs that undo each other), and near one
    reflection where it is odd. A v shorter than 1e-12 reflects nothing.

    Args:
        latent_dim, context_dim: see :class:`Step`.
        num_reflections: R.

    Source: Tomczak & Welling (2016); Pyro's ``ConditionedHouseholder``.
    """

    def __init__(self, latent_dim: int, context_dim: int | None = None, *, num_reflections: int = 1) -> None:
        super().__init__(latent_dim, context_dim)
        whole(num_reflections=num_reflections)
        self.num_reflections = num_reflections
        self.numbers = Parameters(reflections(num_reflections, latent_dim).flatten(), context_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_reflections={self.num_reflections}"

    def _transform(self, context: Tensor | None) -> Transform:
        vectors = self.numbers(context).unflatten(-1, (self.num_reflections, self.latent_dim))
        return HouseholderProduct(self.latent_dim, vectors)


class HouseholderProduct(Bijection, ConditionedHouseholder):
    def u(self) -> Tensor:
        norm = torch.linalg.vector_norm(self.u_unnormed, dim=-1, keepdim=True)
        short = norm < 1e-12
        return torch.where(short, 0.0, self.u_unnormed / torch.where(short, 1.0, norm))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(torch.broadcast_shapes(x.shape, y.shape)[:-1])


def reflections(count: int, dim: int) -> Tensor:
    """Vectors ``[count, dim]`` of about length 1, in pairs that nearly agree."""
    vectors = torch.nn.functional.normalize(torch.randn((count + 1) // 2, dim), dim=-1).repeat_interleave(2, 0)
    return vectors[:count] + 0.01 * torch.randn(count, dim)
