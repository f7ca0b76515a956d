"""Permutations of the latent's dimensions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_vae._checks import checked, is_whole, shown
from pyro_vae.transforms.base import Bijection, Step


class Permutation(Step):
    r"""A fixed order of the dimensions: :math:`y_d = z_{\pi(d)}`, :math:`\log |\det| = 0`.

    Args:
        latent_dim: D.
        context_dim: has no effect, as there is nothing to amortize; nor has a context.
        order: ``"reversed"``, or the seed of a random permutation, which is kept with the weights.

    Raises:
        ValueError: if ``latent_dim`` is below 1, or ``order`` is neither.
    """

    permutation: Tensor

    @checked(but=("latent_dim", "order"))
    def __init__(
        self, latent_dim: int, context_dim: int | None = None, *, order: Literal["reversed"] | int = "reversed"
    ) -> None:
        super().__init__(latent_dim)
        if isinstance(order, str) and order == "reversed":
            permutation = torch.arange(latent_dim - 1, -1, -1)
        elif is_whole(order):
            permutation = torch.randperm(latent_dim, generator=torch.Generator().manual_seed(int(order)))
        else:
            raise ValueError(f"order of a Permutation is 'reversed' or an integer, the seed; got {shown(order)}.")
        self.order = order
        self.register_buffer("permutation", permutation)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, order={self.order!r}"

    def forward(self, context: Tensor | None = None) -> Bijection:
        return super().forward()

    def call_and_ladj(self, z: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        return z.index_select(-1, self.permutation), z.new_zeros(z.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        return y.index_select(-1, self.permutation.argsort()), y.new_zeros(y.shape[:-1])
