r"""Distributions on the unit sphere :math:`S^{D-1}` of R^D, with densities by its surface measure.

A draw is :math:`x = t \, \mathrm{loc} + \sqrt{1 - t^2} \, v`, with v uniform on the directions orthogonal to loc. What
a family says is the law of t in [-1, 1]. Here it is said by y, with :math:`t = -\tanh(y / 2)`, that is
:math:`1 - t = 2 \, \mathrm{sigmoid}(y)`: y keeps its digits where t is close to 1, and its density is smooth on the
whole line. One number for each datum, it is computed in float64.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.nn.functional import logsigmoid

from pyro_vae._checks import checked
from pyro_vae.distributions.base import Parametrized, broadcast, validated
from pyro_vae.distributions.families import log_gamma_draw


class _UnitVector(constraints.Constraint):
    """Vectors of length 1, to within 1e-4."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(value, dim=-1) - 1).abs() < 1e-4

    def __repr__(self) -> str:
        return "a vector of length 1"


unit_vector = _UnitVector()


def _log_area(dim: int) -> float:
    """Log surface area of the unit sphere of R^dim."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _direction(normal: Tensor) -> Tensor:
    return normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)


class SphereUniform(Parametrized):
    r"""The uniform distribution on the unit sphere, :math:`p(z) = \Gamma(D / 2) / (2 \pi^{D / 2})`.

    Args:
        dim: D, at least 2.
        dtype, device: of its draws, torch's default ones if not given.

    Raises:
        ValueError: if ``dim`` is below 2.

    Source: Davidson et al. (2018), section 3.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = unit_vector
    has_rsample = True

    @checked
    def __init__(
        self,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        validate_args: bool | None = None,
    ) -> None:
        _check_dim(dim)
        self._kind: dict[str, Any] = {"dtype": dtype or torch.get_default_dtype(), "device": device}
        super().__init__(torch.Size(), torch.Size((dim,)), validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return _direction(torch.randn(self._extended_shape(sample_shape), **self._kind))

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(validated(self, value).shape[:-1], self.batch_shape)
        return value.new_full(shape, -_log_area(self.event_shape[0]))

    def entropy(self) -> Tensor:
        return torch.full(self.batch_shape, _log_area(self.event_shape[0]), **self._kind)

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.batch_shape + self.event_shape, **self._kind)


class _AroundLoc(Parametrized):
    """A distribution that is symmetric about a direction."""

    arg_constraints = {"loc": unit_vector, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = unit_vector
    has_rsample = True

    @checked
    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        _check_dim(loc.shape[-1] if loc.dim() else 0)
        if not loc.is_floating_point():
            raise TypeError(f"loc has to be vectors of floats, [*, D]; got {loc.dtype}.")
        batch_shape = broadcast(loc=loc[..., 0], concentration=concentration)[0].shape
        self.loc = loc.expand(*batch_shape, -1)
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def _half(self) -> float:
        """(D - 1) / 2."""
        return (self.event_shape[0] - 1) / 2

    @abstractmethod
    def _draw(self, concentration: Tensor) -> Tensor:
        """y, reparameterized, for each of ``concentration`` (float64)."""

    @abstractmethod
    def _entropy(self) -> Tensor:
        """In float64."""

    @abstractmethod
    def _mean_length(self) -> Tensor:
        """E[t], in float64."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        y = self._draw(self.concentration.double().expand(shape[:-1]))
        t = -(y / 2).tanh().unsqueeze(-1)
        radius = ((logsigmoid(y) + logsigmoid(-y)) / 2).exp().unsqueeze(-1) * 2
        normal = torch.randn((*shape[:-1], shape[-1] - 1), dtype=self.loc.dtype, device=self.loc.device)
        at_pole = torch.cat([t, radius * _direction(normal)], -1).to(self.loc.dtype)
        # The Householder reflection that takes the pole e to -sign * loc, of the two signs the well-conditioned one.
        pole = (torch.arange(shape[-1], device=self.loc.device) == 0).to(self.loc.dtype)
        first = self.loc[..., :1]
        sign = torch.where(first < 0, -1.0, 1.0)
        axis = self.loc + sign * pole
        return sign * (axis * (axis * at_pole).sum(-1, keepdim=True) / (1 + first.abs()) - at_pole)

    def entropy(self) -> Tensor:
        return self._entropy().to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """E[z], inside the sphere; the mean direction is ``mode``."""
        return self._mean_length().to(self.loc.dtype).unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc


class PowerSpherical(_AroundLoc):
    r"""Power spherical distribution on the unit sphere.

    .. math::
        p(z) = \Big[ 2^{\alpha + \beta} \pi^{\beta} \frac{\Gamma(\alpha)}{\Gamma(\alpha + \beta)} \Big]^{-1}
        (1 + \mathrm{loc}^\top z)^\kappa, \quad \alpha = \tfrac{D - 1} 2 + \kappa, \quad \beta = \tfrac{D - 1} 2

    (1 + t) / 2 is Beta(alpha, beta), so that draws need no rejection.

    Args:
        loc: ``[*, D]``, of length 1: the mean direction.
        concentration: ``[*]``, :math:`\kappa` at least 0, where the distribution is uniform.

    Raises:
        ValueError: if D is below 2; while validation is on, if a parameter leaves its domain.

    Source: De Cao & Aziz (2020).
    """

    def _draw(self, concentration: Tensor) -> Tensor:
        half = torch.full_like(concentration, self._half)
        return log_gamma_draw(half) - log_gamma_draw(self._half + concentration)

    def _log_normalizer(self) -> Tensor:
        alpha, beta = self._half + self.concentration.double(), self._half
        return (
            (alpha + beta) * math.log(2) + beta * math.log(math.pi) + torch.lgamma(alpha) - torch.lgamma(alpha + beta)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        # 1 + loc'z = |z + loc|^2 / 2 = 2 - |z - loc|^2 / 2, of which the smaller square keeps its digits.
        value, loc = validated(self, value).double(), self.loc.double()
        plus, minus = (value + loc).square().sum(-1) / 2, (value - loc).square().sum(-1) / 2
        far = (plus / 2).clamp(min=torch.finfo(self.loc.dtype).tiny).log()
        log_half = torch.where(minus < 1, torch.log1p(-minus.clamp(max=1) / 2), far)
        score = self.concentration.double() * (log_half + math.log(2)) - self._log_normalizer()
        return score.to(self.loc.dtype)

    def _entropy(self) -> Tensor:
        alpha, beta = self._half + self.concentration.double(), self._half
        mean_log = math.log(2) + torch.digamma(alpha) - torch.digamma(alpha + beta)
        return self._log_normalizer() - self.concentration.double() * mean_log

    def _mean_length(self) -> Tensor:
        concentration = self.concentration.double()
        return concentration / (concentration + 2 * self._half)


class VonMisesFisher(_AroundLoc):
    r"""Von Mises-Fisher distribution on the unit sphere.

    .. math::
        p(z) = \frac{\kappa^{D / 2 - 1}}{(2 \pi)^{D / 2} I_{D / 2 - 1}(\kappa)} \exp(\kappa \, \mathrm{loc}^\top z)

    The Bessel function is an integral over y, taken by the trapezoidal rule after a substitution y ~ sinh(v), which is
    exact here to about 1e-11. t is drawn by rejection, 16 proposals at once: at least 0.65 of them are accepted, and
    fewer than one draw in 1e7 finds none and keeps a rejected one. Its gradient is the implicit one,
    :math:`dy / d\kappa = -\partial_\kappa F(y; \kappa) / p(y; \kappa)`, the derivative of the cumulative distribution
    function being an integral again; it can be taken once, not twice.

    Args:
        loc: ``[*, D]``, of length 1: the mean direction.
        concentration: ``[*]``, :math:`\kappa` at least 0, where the distribution is uniform.

    Raises:
        ValueError: if D is below 2; while validation is on, if a parameter leaves its domain.

    Source: Davidson et al. (2018), section 3; Ulrich (1984) and Wood (1994) for the rejection; Figurnov et al. (2018),
    eq. 5, for the gradient.
    """

    _proposals = 16

    def _log_density(self, y: Tensor, concentration: Tensor) -> Tensor:
        """The log-density of y, up to its normalizer: beta (log s + log(1 - s)) - 2 kappa s, s = sigmoid(y)."""
        return self._half * (logsigmoid(y) + logsigmoid(-y)) - 2 * concentration * y.sigmoid()

    def _mode_of_y(self, concentration: Tensor) -> Tensor:
        """Where beta (1 - 2 s) = 2 kappa s (1 - s); s is b / (1 + b), the odds b being Wood's."""
        return _log_odds(self._half, concentration)

    @property
    def _reach(self) -> float:
        """Farther than this from the mode the density of y is below e^-36 of its maximum."""
        return 36 / self._half + 2

    def _moments(self, concentration: Tensor) -> tuple[Tensor, Tensor]:
        """Log integral of exp(log density) over y, and E[s]."""
        # y = mode + sinh(v) / sqrt(beta): the density is about 1 / sqrt(beta) wide and falls off exponentially.
        step, width = 0.08, 1 / math.sqrt(self._half)
        size = math.ceil(math.asinh(self._reach / width) / step)
        v = torch.arange(-size, size + 1, dtype=torch.double, device=concentration.device) * step
        kappa = concentration.unsqueeze(-1)
        y = self._mode_of_y(kappa.detach()) + width * v.sinh()
        log_terms = self._log_density(y, kappa) + v.cosh().log()
        return log_terms.logsumexp(-1) + math.log(step * width), (log_terms.softmax(-1) * y.sigmoid()).sum(-1)

    def _draw(self, concentration: Tensor) -> Tensor:
        fixed = concentration.detach()
        y = self._reject(fixed)
        return y + self._slope(y, fixed) * (concentration - fixed)

    def _reject(self, concentration: Tensor) -> Tensor:
        count = self._proposals
        half = torch.full((count, *concentration.shape), self._half, dtype=torch.double, device=concentration.device)
        peak = _log_odds(self._half, concentration)
        logit = log_gamma_draw(half) - log_gamma_draw(half)
        y = peak + logit
        # The log-ratio of density and proposal is largest at the peak.
        log_ratio = self._log_density(y, concentration) - self._half * (logsigmoid(logit) + logsigmoid(-logit))
        largest = self._log_density(peak, concentration) + 2 * self._half * math.log(2)
        accepted = torch.rand_like(y).log() < log_ratio - largest
        order = torch.arange(count, 0, -1, device=y.device).view(-1, *(1,) * concentration.dim())
        return y.gather(0, (accepted * order).argmax(0, keepdim=True)).squeeze(0)

    def _slope(self, y: Tensor, concentration: Tensor) -> Tensor:
        """dy / dkappa at fixed F(y; kappa)."""
        mean = self._moments(concentration)[1].unsqueeze(-1)
        y, kappa = y.unsqueeze(-1), concentration.unsqueeze(-1)
        # From y away from the mode, over r = exp(u - exp(-u)) / sqrt(beta): a double exponential rule.
        side = torch.where(y < self._mode_of_y(kappa), -1.0, 1.0)
        end, step = math.log(self._reach * math.sqrt(self._half)) + 0.1, 0.1
        u = torch.arange(-3.5, end, step, dtype=torch.double, device=y.device)
        r = (u - (-u).exp()).exp() / math.sqrt(self._half)
        points = y + side * r
        ratio = (self._log_density(points, kappa) - self._log_density(y, kappa)).exp()
        weights = r * (1 + (-u).exp()) * step
        return (-2 * side * (points.sigmoid() - mean) * ratio * weights).sum(-1)

    def _log_normalizer(self) -> tuple[Tensor, Tensor]:
        """Log integral of exp(kappa (t - 1)) over the sphere, and E[s]."""
        log_integral, mean = self._moments(self.concentration.double())
        return log_integral + _log_area(self.event_shape[0] - 1) + 2 * self._half * math.log(2) - math.log(2), mean

    def log_prob(self, value: Tensor) -> Tensor:
        # loc'z - 1 = -|z - loc|^2 / 2
        below = (validated(self, value) - self.loc).square().sum(-1) / 2
        return -self.concentration * below - self._log_normalizer()[0].to(self.loc.dtype)

    def _entropy(self) -> Tensor:
        log_normalizer, mean = self._log_normalizer()
        return log_normalizer + 2 * self.concentration.double() * mean

    def _mean_length(self) -> Tensor:
        return 1 - 2 * self._moments(self.concentration.double())[1]


def _log_odds(half: float, concentration: Tensor) -> Tensor:
    """log b, b = (-kappa + sqrt(kappa^2 + beta^2)) / beta, without cancellation."""
    return math.log(half) - (concentration + torch.hypot(concentration, torch.full_like(concentration, half))).log()


def _check_dim(dim: int) -> None:
    if dim < 2:
        raise ValueError(f"a sphere lies in a space of at least 2 dimensions; got {dim}.")


@register_kl(_AroundLoc, SphereUniform)
def _to_uniform(q: _AroundLoc, p: SphereUniform) -> Tensor:
    if p.event_shape != q.event_shape:
        raise NotImplementedError
    return (_log_area(q.event_shape[0]) - q._entropy()).to(q.loc.dtype)
