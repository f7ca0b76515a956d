"""Gaussian posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae._checks import checked, whole
from pyro_vae.posteriors.base import Posterior
from pyro_vae.posteriors.families import FamilyPosterior


class DiagonalNormal(FamilyPosterior):
    r"""Gaussian with diagonal covariance, :math:`q(z \mid x) = \mathcal N(\mathrm{loc}(x), \mathrm{scale}(x)^2)`.

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2, latent_dim]``, loc and log variance, 2 log(scale), stacked.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if the network does not give two stacked parameters.

    Source: Kingma & Welling (2013), appendix C.2.
    """

    distribution = dist.Normal

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_variance = self._stacked(x, 2)
        return self._independent(dist.Normal(loc, (log_variance / 2).exp()), x)


class FullNormal(Posterior):
    r"""Gaussian of any covariance, by its triangular factor.

    .. math:: q(z \mid x) = \mathcal N(\mathrm{loc}, L L^\top), \quad L = \mathrm{diag}(s) \, (I + N / D)

    with s = exp(log variance / 2) and N strictly lower triangular, so that a network of small outputs starts close to
    a diagonal covariance, whatever the scales. The KL to an independent Normal prior is in closed form.

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2 D + D (D - 1) / 2]``: loc, log variance, and N row by row.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if the network gives another number of parameters, or the latent is no vector.

    Source: Kingma & Welling (2019), An introduction to variational autoencoders, section 2.5.1.
    """

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        size = _vector("FullNormal", latent_shape)
        return (size * (size + 3) // 2,)

    def forward(self, x: Tensor) -> dist.Distribution:
        def size_of(count: int) -> int:
            return (math.isqrt(9 + 8 * count) - 3) // 2

        output = self._vector(
            x,
            "D (D + 3) / 2 numbers for a latent of size D (loc, log variance and what is below the diagonal): "
            "[*, B, 2] for D = 1, [*, B, 5] for D = 2",
            lambda count: size_of(count) > 0 and self.network_shape((size_of(count),)) == (count,),
        )
        size = size_of(output.shape[-1])
        loc, log_variance, below = output.split([size, size, output.shape[-1] - 2 * size], -1)
        scale = (log_variance / 2).exp()
        row, column = torch.tril_indices(size, size, -1, device=output.device)
        lower = scale.new_zeros(*scale.shape[:-1], size * size).index_copy(-1, row * size + column, below / size)
        unit = lower.unflatten(-1, (size, size)) + torch.eye(size, dtype=scale.dtype, device=scale.device)
        return self._made(distributions.MultivariateNormal, x, loc, scale_tril=scale.unsqueeze(-1) * unit)


class LowRankNormal(Posterior):
    r"""Gaussian whose covariance is diagonal up to a correction of low rank.

    .. math:: q(z \mid x) = \mathcal N(\mathrm{loc}, S \, (I + F F^\top) \, S), \quad S = \mathrm{diag}(s)

    with s = exp(log variance / 2) and ``F: [D, rank]``. The KL to an independent Normal prior is in closed form.

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2 + rank, D]``: loc, log variance and the columns of F, stacked.
        rank: number of columns of F.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if ``rank`` is below 1, or the network does not give 2 + rank stacked vectors.

    Source: Rezende, Mohamed & Wierstra (2014), section 4.3; Ong, Nott & Smith (2018), section 3.
    """

    def __init__(self, network: nn.Module, rank: int = 1, event_dim: int | None = None) -> None:
        super().__init__(network, event_dim)
        whole(rank=rank)
        self.rank = rank

    def extra_repr(self) -> str:
        return f"rank={self.rank}"

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return (2 + self.rank, _vector("LowRankNormal", latent_shape))

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_variance, *columns = self._stacked(x, 2 + self.rank)
        _vector("LowRankNormal", loc.shape[x.dim() - self.event_dim :])
        return self._made(distributions.LowRankNormal, x, loc, (log_variance / 2).exp(), torch.stack(columns, -1))


def _vector(name: str, latent_shape: Sequence[int]) -> int:
    if len(latent_shape) != 1:
        raise ValueError(
            f"{name} has a covariance matrix, so its latent is a vector, of shape (D,); got {tuple(latent_shape)}."
        )
    return latent_shape[0]
