"""Distributions over matrices, for weights: a vector's distribution laid out in rows, and the matrix-variate normal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, kl_divergence, register_kl

from pyro_vae._checks import checked, shown
from pyro_vae.distributions.base import Sized, expandable, size_of, validated
from pyro_vae.distributions.normal import full_precision, log_diagonal, to_independent


class Rows(Sized, TorchDistribution):
    """A matrix whose rows, one after another, follow the distribution of a vector.

    Its KL to an ``Independent`` Normal over matrices is that of the vector's, where that is registered.

    Args:
        base: over vectors of R C numbers.
        shape: (R, C).

    Raises:
        ValueError: if the vector has another size.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    @checked(but=("base",))
    def __init__(self, base: TorchDistribution, shape: Sequence[int], validate_args: bool | None = None) -> None:
        if not hasattr(base, "event_shape"):
            raise TypeError(f"base has to be a distribution of vectors; got {shown(base)}.")
        shape = torch.Size(shape)
        if base.event_shape != (shape.numel(),):
            raise ValueError(f"{tuple(shape)} is no shape of the vectors of size {tuple(base.event_shape)}.")
        self.base = base
        super().__init__(base.batch_shape, shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Rows:
        return Rows(self.base.expand(expandable(self, batch_shape)), self.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.rsample(size_of(sample_shape)).unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(validated(self, value).flatten(-2))

    def entropy(self) -> Tensor:
        return self.base.entropy()

    @property
    def mean(self) -> Tensor:
        return self.base.mean.unflatten(-1, self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.base.variance.unflatten(-1, self.event_shape)


class MatrixNormal(Sized, TorchDistribution):
    r"""The matrix-variate normal: rows and columns each have a covariance.

    .. math:: W = \mathrm{loc} + A E B^\top, \quad E_{rc} \sim \mathcal N(0, 1), \qquad
        \mathrm{vec}(W) \sim \mathcal N(\mathrm{vec}(\mathrm{loc}), B B^\top \otimes A A^\top)

    Its KL to an ``Independent`` Normal over matrices is in closed form.

    Args:
        loc: ``[*, R, C]``.
        row_tril: A, ``[R, R]``, lower triangular with a positive diagonal.
        column_tril: B, ``[C, C]``, lower triangular with a positive diagonal.

    Source: Gupta & Nagar (1999), Matrix variate distributions, section 2.2; Louizos & Welling (2016).
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.independent(constraints.real, 2),
        "row_tril": constraints.lower_cholesky,
        "column_tril": constraints.lower_cholesky,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    @checked
    def __init__(self, loc: Tensor, row_tril: Tensor, column_tril: Tensor, validate_args: bool | None = None) -> None:
        factors = [(size, size) for size in loc.shape[-2:]]
        if loc.dim() < 2 or not loc.numel() or [row_tril.shape[-2:], column_tril.shape[-2:]] != factors:
            shapes = ", ".join(str(list(part.shape)) for part in (loc, row_tril, column_tril))
            raise ValueError(
                f"loc, row_tril and column_tril have to be [*, R, C], [R, R], [C, C]; got shapes {shapes}."
            )
        self.loc, self.row_tril, self.column_tril = loc, row_tril, column_tril
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MatrixNormal:
        loc = self.loc.expand(expandable(self, batch_shape) + self.event_shape)
        new = MatrixNormal(loc, self.row_tril, self.column_tril, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        with full_precision(self.loc):
            return self.loc + self.row_tril @ noise @ self.column_tril.mT

    def log_prob(self, value: Tensor) -> Tensor:
        validated(self, value)
        with full_precision(self.loc):
            left = torch.linalg.solve_triangular(self.row_tril, value - self.loc, upper=False)
            both = torch.linalg.solve_triangular(self.column_tril, left.mT, upper=False)
        count = self.event_shape.numel()
        return -(both.square().flatten(-2).sum(-1) + count * math.log(2 * math.pi)) / 2 - self.half_log_det()

    def half_log_det(self) -> Tensor:
        """Half the log-determinant of the covariance of vec(W)."""
        rows, columns = self.event_shape
        return columns * log_diagonal(self.row_tril) + rows * log_diagonal(self.column_tril)

    def entropy(self) -> Tensor:
        entropy = self.half_log_det() + self.event_shape.numel() / 2 * (1 + math.log(2 * math.pi))
        return entropy.expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        rows, columns = self.row_tril.square().sum(-1), self.column_tril.square().sum(-1)
        return (rows[:, None] * columns).expand_as(self.loc)


@register_kl(Rows, Independent)
def _rows_to_independent(q: Rows, p: Independent) -> Tensor:
    if type(p.base_dist) not in (Normal, dist.Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    flat = dist.Normal(p.base_dist.loc.flatten(-2), p.base_dist.scale.flatten(-2)).to_event(1)
    return kl_divergence(q.base, flat)


@register_kl(MatrixNormal, Independent)
def _matrix_to_independent(q: MatrixNormal, p: Independent) -> Tensor:
    return to_independent(q.loc, q.variance, q.half_log_det(), p)
