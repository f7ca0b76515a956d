r"""Correlated Gaussians whose KL to independent ones is known in closed form.

torch registers no KL between a multivariate and an independent Normal. Here it is registered, for these two classes
alone: importing this module changes no other distribution.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from pyro_vae._checks import checked
from pyro_vae._torch import factor
from pyro_vae.distributions.base import Parametrized, Sized, validated


class MultivariateNormal(Sized, dist.MultivariateNormal):
    r"""Pyro's Gaussian of any covariance, whose KL to an ``Independent`` Normal is in closed form.

    .. math::
        \mathrm{KL} = \tfrac 1 2 \sum_d \Big[ \frac{\Sigma_{dd} + (\mathrm{loc}_d - m_d)^2}{s_d^2} - 1
        + \log s_d^2 \Big] - \tfrac 1 2 \log |\Sigma|

    to :math:`\mathcal N(m, \mathrm{diag}(s^2))`, in nats. Triangular algebra is never done in half precision.

    Args:
        loc: ``[*, D]``.
        covariance_matrix, precision_matrix, scale_tril: ``[*, D, D]``, one of them.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        with full_precision(self.loc):
            return super().rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        with full_precision(self.loc):
            return super().log_prob(validated(self, value).to(self.loc.dtype))


class LowRankNormal(Parametrized):
    r"""Gaussian whose covariance is diagonal up to a correction of low rank, by scales and correlations apart.

    .. math:: \mathcal N(\mathrm{loc}, S \, (I + F F^\top) \, S), \quad S = \mathrm{diag}(\mathrm{scale})

    Unlike in torch's ``LowRankMultivariateNormal`` no variance is inverted, so that very different scales do no harm;
    the same KL to independent Normals is in closed form. One draw costs O(D rank), one score O(D rank^2). Determinant
    and score are computed in float64, as what F explains of a draw is nearly all of it where F is large.

    Args:
        loc: ``[*, D]``.
        scale: ``[*, D]``, positive.
        factor: F, ``[*, D, rank]``.

    Source: Ong, Nott & Smith (2018), section 3.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "factor": constraints.independent(constraints.real, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    @checked
    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor, validate_args: bool | None = None) -> None:
        if not (loc.dim() and scale.shape[-1:] == loc.shape[-1:] == factor.shape[-2:-1] and loc.shape[-1]):
            shapes = ", ".join(str(list(part.shape)) for part in (loc, scale, factor))
            raise ValueError(f"loc and scale have to be [*, D] and factor [*, D, R]; got shapes {shapes}.")
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1], factor.shape[:-2])
        self.loc = loc.expand(*batch_shape, -1)
        self.scale = scale.expand(*batch_shape, -1)
        self.factor = factor.expand(*batch_shape, -1, -1)
        with full_precision(loc):
            # |I + F F'| = |I + F' F|
            unit, exact = torch.eye(factor.shape[-1], dtype=torch.double, device=factor.device), factor.double()
            self._capacitance_tril = torch.linalg.cholesky_ex(unit + exact.mT @ exact).L
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        kind: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        shared = torch.randn((*shape[:-1], 1, self.factor.shape[-1]), **kind)
        return self.loc + self.scale * (torch.randn(shape, **kind) + (self.factor * shared).sum(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        # (I + F F')^-1 = I - F (I + F' F)^-1 F'
        u = (validated(self, value).double() - self.loc) / self.scale
        with full_precision(self.loc):
            projected = (self.factor * u.unsqueeze(-1)).sum(-2, keepdim=True).mT
            explained = torch.linalg.solve_triangular(self._capacitance_tril, projected, upper=False)
        square = u.square().sum(-1) - explained.squeeze(-1).square().sum(-1)
        score = -(square + self.event_shape[0] * math.log(2 * math.pi)) / 2
        return score.to(self.loc.dtype) - self._half_log_det()

    def _half_log_det(self) -> Tensor:
        return (self.scale.double().log().sum(-1) + log_diagonal(self._capacitance_tril)).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        return self._half_log_det() + self.event_shape[0] / 2 * (1 + math.log(2 * math.pi))

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * (1 + self.factor.square().sum(-1))


def full_precision(like: Tensor) -> torch.autocast:
    """Triangular algebra is never done in half precision."""
    return torch.autocast(like.device.type, enabled=False)


def log_diagonal(tril: Tensor) -> Tensor:
    """The log-determinant of a triangular matrix."""
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(MultivariateNormal, Independent)
def _full_to_independent(q: MultivariateNormal, p: Independent) -> Tensor:
    scale_tril = factor(q)
    return to_independent(q.loc, scale_tril.square().sum(-1), log_diagonal(scale_tril), p)


@register_kl(LowRankNormal, Independent)
def _low_rank_to_independent(q: LowRankNormal, p: Independent) -> Tensor:
    return to_independent(q.loc, q.variance, q._half_log_det(), p)


def to_independent(loc: Tensor, variance: Tensor, half_log_det: Tensor, p: Independent) -> Tensor:
    """KL of a Gaussian to an independent Normal p.

    Args:
        loc: mean of the Gaussian, ``[*, *event]``.
        variance: the diagonal of its covariance, ``[*, *event]``.
        half_log_det: half the log-determinant of its covariance.
        p: over the same events.

    Raises:
        NotImplementedError: if ``p`` is something else, as torch's registry expects.
    """
    event_dim = len(p.event_shape)
    if type(p.base_dist) not in (Normal, dist.Normal) or p.event_shape != loc.shape[loc.dim() - event_dim :]:
        raise NotImplementedError
    other, scale = p.base_dist.loc, p.base_dist.scale
    each = (variance + (loc - other) ** 2) / scale**2 - 1 + 2 * scale.log()
    return each.flatten(-event_dim).sum(-1) / 2 - half_log_det
