"""Householder flows."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._checks import checked, whole
from pyro_vae.transforms.base import Parameters, Step


class Householder(Step):
    r"""Reflections, which turn the space and keep volumes: :math:`\log |\det| = 0`.

    .. math:: y = H_R \cdots H_1 z, \quad H_i = I - 2 v_i v_i^\top / \|v_i\|^2

    It starts near the identity where ``num_reflections`` is even (in pairs that undo each other), and near one
    reflection where it is odd. A v shorter than 1e-12 reflects nothing.

    Args:
        latent_dim, context_dim: see :class:`Step`.
        num_reflections: R.

    Source: Tomczak & Welling (2016).
    """

    @checked
    def __init__(self, latent_dim: int, context_dim: int | None = None, *, num_reflections: int = 1) -> None:
        super().__init__(latent_dim, context_dim)
        whole(num_reflections=num_reflections)
        self.num_reflections = num_reflections
        self.numbers = Parameters([reflections(num_reflections, latent_dim)], context_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_reflections={self.num_reflections}"

    def call_and_ladj(self, z: Tensor, theta: tuple[Tensor]) -> tuple[Tensor, Tensor]:
        y = reflected(z, *theta)
        return y, y.new_zeros(y.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: tuple[Tensor]) -> tuple[Tensor, Tensor]:
        z = reflected(y, *theta, back=True)
        return z, z.new_zeros(z.shape[:-1])


def reflected(z: Tensor, vectors: Tensor, back: bool = False) -> Tensor:
    """``z: [*, D]`` behind the reflections at ``vectors: [*, R, D]``, the first one first, or last on the way back."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    short = norm < 1e-12
    units = torch.where(short, 0.0, vectors / torch.where(short, 1.0, norm))
    count = range(units.size(-2))
    for i in reversed(count) if back else count:
        unit = units[..., i, :]
        z = z - 2.0 * ((unit * z).sum(dim=-1, keepdim=True) * unit)
    return z


def reflections(count: int, dim: int) -> Tensor:
    """Vectors ``[count, dim]`` of about length 1, in pairs that nearly agree."""
    vectors = torch.nn.functional.normalize(torch.randn((count + 1) // 2, dim), dim=-1).repeat_interleave(2, 0)
    return vectors[:count] + 0.01 * torch.randn(count, dim)
