"""Approximate posteriors q(theta) of the weights of one layer, a matrix ``[R, C]``."""

from __future__ import annotations

import math
from abc import abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae._checks import checked, number, whole


class WeightPosterior(nn.Module):
    """Base of the posteriors over weights: a point to start at, and a scale about it.

    Args:
        loc: ``[R, C]``, where the mean starts: the weights that the layer has.
        scale: standard deviation of each weight at the start, by default a tenth of :math:`1 / \\sqrt C`, so that the
            noise of a layer's outputs starts well below the signal. A start at the scale of the prior drowns it.

    Raises:
        ValueError: if the scale is not positive.
    """

    @checked
    def __init__(self, loc: Tensor, scale: float | None = None) -> None:
        super().__init__()
        if loc.dim() != 2 or not loc.numel() or not loc.is_floating_point():
            raise ValueError(f"loc has to be a matrix of floats, [R, C]; got {list(loc.shape)} of {loc.dtype}.")
        self.initial_scale = 0.1 * loc.shape[1] ** -0.5 if scale is None else scale
        number(above=0, scale=self.initial_scale)
        self.loc = nn.Parameter(loc.detach().clone())

    def extra_repr(self) -> str:
        return f"shape={tuple(self.loc.shape)}"

    @abstractmethod
    def forward(self) -> dist.Distribution:
        """q(theta), with event shape ``[R, C]``."""


class MeanField(WeightPosterior):
    r"""Independent weights, :math:`q(\theta) = \mathcal N(\mathrm{loc}, \mathrm{scale}^2)`.

    Args:
        loc, scale: see :class:`WeightPosterior`.

    Source: Kingma & Welling (2013), appendix F; Graves (2011).

    >>> import torch
    >>> MeanField(torch.zeros(3, 5))().rsample().shape
    torch.Size([3, 5])
    """

    def __init__(self, loc: Tensor, scale: float | None = None) -> None:
        super().__init__(loc, scale)
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(self.initial_scale)))

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(2)


class LowRank(WeightPosterior):
    r"""Weights of a layer whose covariance is diagonal up to a correction of low rank.

    .. math::
        \mathrm{vec}(\theta) \sim \mathcal N(\mathrm{loc}, S (I + F F^\top) S), \quad S = \mathrm{diag}(\mathrm{scale})

    Args:
        loc, scale: see :class:`WeightPosterior`.
        rank: number of columns of F.

    Raises:
        ValueError: if ``rank`` is below 1.

    Source: Ong, Nott & Smith (2018), section 3.

    >>> import torch
    >>> LowRank(torch.zeros(3, 5))().rsample().shape
    torch.Size([3, 5])
    """

    @checked
    def __init__(self, loc: Tensor, scale: float | None = None, rank: int = 4) -> None:
        super().__init__(loc, scale)
        whole(rank=rank)
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(self.initial_scale)))
        self.factor = nn.Parameter(0.1 * rank**-0.5 * torch.randn(loc.numel(), rank).to(loc))  # at 0 it has no gradient

    def forward(self) -> dist.Distribution:
        scale = self.log_scale.exp().flatten()
        return distributions.Rows(distributions.LowRankNormal(self.loc.flatten(), scale, self.factor), self.loc.shape)


class MatrixVariate(WeightPosterior):
    r"""A matrix-variate normal: the layer's outputs and its inputs each have a covariance.

    .. math:: \theta = \mathrm{loc} + A E B^\top, \quad E_{rc} \sim \mathcal N(0, 1)

    It has R (R + 1) / 2 + C (C + 1) / 2 parameters for the covariance, where :class:`MeanField` has R C.

    Args:
        loc, scale: see :class:`WeightPosterior`.

    Source: Louizos & Welling (2016), section 3.1.

    >>> import torch
    >>> MatrixVariate(torch.zeros(3, 5))().rsample().shape
    torch.Size([3, 5])
    """

    def __init__(self, loc: Tensor, scale: float | None = None) -> None:
        super().__init__(loc, scale)
        rows, columns = loc.shape
        self.row_factor = nn.Parameter(_unit_factor(rows, math.sqrt(self.initial_scale)).to(loc))
        self.column_factor = nn.Parameter(_unit_factor(columns, math.sqrt(self.initial_scale)).to(loc))

    def forward(self) -> dist.Distribution:
        return distributions.MatrixNormal(self.loc, _tril(self.row_factor), _tril(self.column_factor))


class FullCovariance(WeightPosterior):
    r"""Weights of a layer with any covariance, :math:`\mathrm{vec}(\theta) \sim \mathcal N(\mathrm{loc}, L L^\top)`.

    For small layers: L has as many rows as the layer has weights. It holds the exact posterior of a linear model.

    Args:
        loc, scale: see :class:`WeightPosterior`.

    >>> import torch
    >>> FullCovariance(torch.zeros(3, 5))().rsample().shape
    torch.Size([3, 5])
    """

    def __init__(self, loc: Tensor, scale: float | None = None) -> None:
        super().__init__(loc, scale)
        self.factor = nn.Parameter(_unit_factor(loc.numel(), self.initial_scale).to(loc))

    def forward(self) -> dist.Distribution:
        base = distributions.MultivariateNormal(self.loc.flatten(), scale_tril=_tril(self.factor))
        return distributions.Rows(base, self.loc.shape)


def _unit_factor(size: int, scale: float) -> Tensor:
    return torch.eye(size) * math.log(scale)


def _tril(factor: Tensor) -> Tensor:
    r"""A triangular matrix with a positive diagonal: :math:`\mathrm{diag}(s) (I + N / \sqrt D)`, s = exp(diagonal)."""
    size = len(factor)
    unit = torch.eye(size, dtype=factor.dtype, device=factor.device)
    return factor.diagonal().exp()[:, None] * (unit + factor.tril(-1) / math.sqrt(size))
