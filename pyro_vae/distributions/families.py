r"""Families with a reparameterized sampler, by the three ways of Kingma & Welling (2013), section 2.4.

Each is Pyro's distribution with a sampler whose draws stay inside the open support in floating point, where torch's
own may give exactly 0, 1 or infinity and so an infinite log-probability. A draw that float32 cannot tell from the
boundary is put next to it. :func:`constrained` maps any number to what ``arg_constraints`` asks of a parameter.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints, register_kl

from pyro_vae._pyro import standard_gamma
from pyro_vae.distributions.base import validated
from pyro_vae.distributions.wrappers import bare

LEAST = 1e-6
"""The least positive parameter that :func:`constrained` gives."""

_EULER = 0.57721566490153286


def constrained(constraint: Any, value: Tensor) -> Tensor:
    """An unconstrained ``value`` as a parameter: itself where it may be real, its softplus where it is positive."""
    return F.softplus(value).clamp(min=LEAST) if is_positive(constraint) else value


def unconstrained(constraint: Any, parameter: Tensor) -> Tensor:
    """The value of which :func:`constrained` makes ``parameter``."""
    if not is_positive(constraint):
        return parameter
    parameter = parameter.clamp(min=LEAST)
    return parameter + (-torch.expm1(-parameter)).log()


def is_positive(constraint: Any) -> bool:
    """Whether a parameter has to be positive, or may be any real number."""
    constraint = bare(constraint)
    if constraint is not constraints.real and constraint is not constraints.positive:
        raise TypeError(f"parameters of a family are real or positive; got {constraint}.")
    return constraint is constraints.positive


def _exponential(like: Tensor, shape: Any) -> Tensor:
    """e = -log(1 - u), the inverse CDF of Exponential(1) at uniform u; never 0 or infinite."""
    noise = torch.empty(shape, dtype=like.dtype, device=like.device).exponential_()
    return noise.clamp(torch.finfo(like.dtype).tiny, 100.0)


def _positive(log_value: Tensor, room: float = 1.0) -> Tensor:
    """exp(log_value), neither 0 nor so large that its square is infinite; at least e^room times the least number."""
    info = torch.finfo(log_value.dtype)
    return log_value.clamp(math.log(info.tiny) + room, math.log(info.max) / 2 - 1).exp()


def _fraction(log_value: Tensor) -> Tensor:
    """exp(log_value), neither 0 nor 1."""
    info = torch.finfo(log_value.dtype)
    return log_value.clamp(min=math.log(info.tiny) + 1).exp().clamp(max=1 - info.eps)


def _finite_exp(value: Tensor) -> Tensor:
    return value.clamp(max=80.0).exp()


def log_gamma_draw(concentration: Tensor, shape: Any = None) -> Tensor:
    r"""log g of :math:`g \sim \mathrm{Gamma}(c, 1)`, also where g itself would be 0.

    .. math:: g = g' u^{1/c}, \quad g' \sim \mathrm{Gamma}(c + 1, 1), \quad u \sim \mathrm{Uniform}(0, 1)

    with torch's implicit gradient of g' and that of the inverse CDF of the power of u.

    Args:
        concentration: c, ``[*]``.
        shape: of the draw, by default that of c; c expands to it.

    Source: Marsaglia & Tsang (2000), section 6; Figurnov, Mohamed & Mnih (2018).
    """
    shape = concentration.shape if shape is None else shape
    concentration = concentration.expand(shape)
    return standard_gamma(concentration + 1).log() - _exponential(concentration, shape) / concentration


class _Drawn:
    """A family is drawn by ``_draw``; ``sample`` is the same without a gradient."""

    _extended_shape: Any

    def _draw(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def rsample(self, sample_shape: Any = (), generator: Any = None) -> Tensor:
        if generator is not None:
            raise ValueError(f"a {type(self).__name__} is drawn with torch's own generator; seed that.")
        return self._draw(self._extended_shape(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class Exponential(_Drawn, dist.Exponential):
    r""":math:`z = e / \mathrm{rate}` on :math:`(0, \infty)`, :math:`e = -\log(1 - u)`."""

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = _exponential(self.rate, shape)
        return _positive(noise.log() - self.rate.log())


class Cauchy(_Drawn, dist.Cauchy):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \tan(\pi(u - 1/2))`; it has no mean."""

    def _draw(self, shape: torch.Size) -> Tensor:
        uniform = _uniform(self.loc, shape)
        return self.loc + self.scale * torch.tan(math.pi * (uniform - 0.5))


class Logistic(_Drawn, dist.Logistic):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, \log(u / (1 - u))`."""

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc + self.scale * _uniform(self.loc, shape).logit()


class Gumbel(_Drawn, dist.Gumbel):
    r""":math:`z = \mathrm{loc} - \mathrm{scale} \, \log e`, :math:`e = -\log(1 - u)`."""

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc - self.scale * _exponential(self.loc, shape).log()

    def log_prob(self, value: Tensor) -> Tensor:
        y = (self.loc - validated(self, value)) / self.scale
        return y - _finite_exp(y) - self.scale.log()


class Weibull(_Drawn, dist.Weibull):
    r""":math:`z = \mathrm{scale} \, e^{1 / \mathrm{concentration}}` on :math:`(0, \infty)`."""

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = _exponential(self.scale, shape)
        return _positive(noise.log() / self.concentration + self.scale.log())

    def log_prob(self, value: Tensor) -> Tensor:
        log_ratio = validated(self, value).log() - self.scale.log()
        log_rate = self.concentration.log() - self.scale.log()
        return log_rate + (self.concentration - 1) * log_ratio - _finite_exp(self.concentration * log_ratio)


class Kumaraswamy(_Drawn, dist.Kumaraswamy):
    r""":math:`z = (1 - (1 - u)^{1/b})^{1/a}` on (0, 1), a = concentration1, b = concentration0."""

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = _exponential(self.concentration1, shape)
        tiny = torch.finfo(noise.dtype).tiny
        return _fraction((-torch.expm1(-(noise / self.concentration0).clamp(min=tiny))).log() / self.concentration1)

    def log_prob(self, value: Tensor) -> Tensor:
        log_value = validated(self, value).log()
        log_power = (self.concentration1 * log_value).clamp(max=-torch.finfo(value.dtype).tiny)
        log_rest = (-torch.expm1(log_power)).log()
        log_scale = self.concentration1.log() + self.concentration0.log()
        return log_scale + (self.concentration1 - 1) * log_value + (self.concentration0 - 1) * log_rest


class Laplace(_Drawn, dist.Laplace):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, (e - e')`, e and e' from Exponential(1)."""

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc + self.scale * (_exponential(self.loc, shape) - _exponential(self.loc, shape))


class StudentT(_Drawn, dist.StudentT):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, n \sqrt{\mathrm{df} / 2g}`, n ~ N(0, 1), g ~ Gamma(df / 2, 1)."""

    def _draw(self, shape: torch.Size) -> Tensor:
        normal = torch.randn(shape, dtype=self.df.dtype, device=self.df.device)
        log_gamma = log_gamma_draw(self.df / 2, shape)
        return self.loc + self.scale * normal * _positive(((self.df / 2).log() - log_gamma) / 2)

    def log_prob(self, value: Tensor) -> Tensor:
        y = ((validated(self, value) - self.loc) / self.scale).abs().clamp(min=torch.finfo(value.dtype).tiny)
        log_norm = _log_gamma_half_step(self.df / 2) - 0.5 * (self.df * math.pi).log() - self.scale.log()
        return log_norm - 0.5 * (self.df + 1) * F.softplus(2 * y.log() - self.df.log())  # of log(1 + y^2 / df)


def _log_gamma_half_step(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a), whose terms would cancel in float32 where a is large."""
    large = a.clamp(min=30.0)
    series = 0.5 * large.log() - 1 / (8 * large) + 1 / (192 * large**3)
    small = a.clamp(max=30.0)
    return torch.where(a > 30.0, series, torch.lgamma(small + 0.5) - torch.lgamma(small))


class Uniform(_Drawn, dist.Uniform):
    r""":math:`z = \mathrm{low} + (\mathrm{high} - \mathrm{low}) \, u` on (low, high)."""

    def _draw(self, shape: torch.Size) -> Tensor:
        z = self.low + (self.high - self.low) * _uniform(self.low, shape)
        low, high = self.low.detach(), self.high.detach()
        return torch.minimum(torch.maximum(z, torch.nextafter(low, high)), torch.nextafter(high, low))


def _uniform(like: Tensor, shape: Any) -> Tensor:
    """u ~ Uniform(0, 1), neither 0 nor 1."""
    eps = torch.finfo(like.dtype).eps
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(eps / 2, 1 - eps / 2)


class LogNormal(_Drawn, dist.LogNormal):
    r""":math:`z = \exp(\mathrm{loc} + \mathrm{scale} \, n)` on :math:`(0, \infty)`, n ~ N(0, 1)."""

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return _positive(self.loc + self.scale * noise, room=12.0)  # for log(z) / z, in the gradient of log_prob


class Gamma(_Drawn, dist.Gamma):  # type: ignore[misc]
    r""":math:`z = g / \mathrm{rate}` on :math:`(0, \infty)`, g ~ Gamma(concentration, 1)."""

    def _draw(self, shape: torch.Size) -> Tensor:
        return _positive(log_gamma_draw(self.concentration, shape) - self.rate.log())


class Beta(_Drawn, dist.Beta):
    r""":math:`z = g_1 / (g_1 + g_0)` on (0, 1), :math:`g_i` ~ Gamma(:math:`c_i`, 1), c the two concentrations."""

    def _draw(self, shape: torch.Size) -> Tensor:
        one, zero = log_gamma_draw(self.concentration1, shape), log_gamma_draw(self.concentration0, shape)
        return _fraction(F.logsigmoid(one - zero))


class Dirichlet(_Drawn, dist.Dirichlet):
    r""":math:`z_k = g_k / \sum_j g_j` on the simplex, :math:`g_k` ~ Gamma(:math:`c_k`, 1), c the concentration."""

    def _draw(self, shape: torch.Size) -> Tensor:
        return _fraction(log_gamma_draw(self.concentration, shape).log_softmax(-1))


@register_kl(Weibull, Weibull)
def _kl_weibull_weibull(q: Weibull, p: Weibull) -> Tensor:
    """Bauckhage (2013), Computing the Kullback-Leibler divergence between two Weibull distributions."""
    log_ratio = q.scale.log() - p.scale.log()
    power = p.concentration / q.concentration
    moment = _finite_exp(p.concentration * log_ratio + torch.lgamma(1 + power))
    return (power - 1) * _EULER - power.log() - p.concentration * log_ratio + moment - 1


@register_kl(Gumbel, Gumbel)
def _kl_gumbel_gumbel(q: Gumbel, p: Gumbel) -> Tensor:
    """Torch's, without an infinite exponential."""
    ratio, apart = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return apart - ratio.log() + (ratio - 1) * _EULER - 1 + _finite_exp(torch.lgamma(1 + ratio) - apart)


@register_kl(Kumaraswamy, Kumaraswamy)
def _kl_kumaraswamy_kumaraswamy(q: Kumaraswamy, p: Kumaraswamy) -> Tensor:
    # No closed form. Torch would ask whether the two are one transform, by their values, which cannot be traced.
    raise NotImplementedError


def check_bounds(whose: str, low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"the bounds of {whose} have to be finite, low below high; got low={low}, high={high}.")
