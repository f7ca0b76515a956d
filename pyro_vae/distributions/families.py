r"""Families with a reparameterized sampler, by the three ways of Kingma & Welling (2013), section 2.4.

Each is Pyro's distribution with a sampler whose draws stay inside the open support in floating point, where torch's
own may give exactly 0, 1 or infinity and so an infinite log-probability. A draw that float32 cannot tell from the
boundary is put next to it, and its exact logarithm (on (0, 1) its logit) goes with it: every family scores a draw at
where it was before rounding, so that a sampled KL loses nothing of what lies beyond, and the gradient is that of the
exact draw. A copy of a draw, or a distribution that is not of this module, has the rounded value alone.

Log-densities and divergences are computed in float64, since large parameters leave float32 no digits of them.
:func:`constrained` maps any number to what ``arg_constraints`` asks of a parameter.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from pyro_vae._torch import remember, remembered, standard_gamma
from pyro_vae.distributions.base import Sized, validated
from pyro_vae.distributions.supports import bare

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


def _exactly(value: Tensor, exact: Tensor) -> Tensor:
    """The number ``exact``, with the gradient of ``value``."""
    return exact + (value - value.detach())


def _clamped(value: Tensor, low: float, high: float) -> Tensor:
    """``value`` between two numbers, with the gradient of ``value`` also where it was beyond."""
    return _exactly(value, value.detach().clamp(low, high))


def _positive(log_value: Tensor, room: float = 1.0, largest: float = math.inf) -> Tensor:
    """exp(log_value) as a draw: at least e^room times the least number, below ``largest`` and of a finite square."""
    info = torch.finfo(log_value.dtype)
    high = min(math.log(info.max) / 2 - 1, math.log(largest) - info.eps)
    value = _clamped(log_value, math.log(info.tiny) + room, high).exp()
    remember(value, "log", log_value)
    return value


def _fraction(logit: Tensor) -> Tensor:
    """sigmoid(logit) as a draw, neither 0 nor 1 in its dtype."""
    info = torch.finfo(logit.dtype)
    value = _clamped(logit, math.log(info.tiny) + 1, -math.log(info.eps)).sigmoid()
    remember(value, "logit", logit)
    return value


_FAR = 1e300  # in the place of infinity, of which 0 times is 0


def log_of(value: Tensor) -> Tensor:
    """log z in float64, exact of a draw of this module."""
    kind, exact = remembered(value) or ("", value)
    log = value.double().log().clamp(min=-_FAR)
    if kind == "log":
        return _exactly(log, exact.double())
    return F.logsigmoid(logit_of(value)) if kind == "logit" else log


def logit_of(value: Tensor) -> Tensor:
    """log z - log(1 - z) in float64, exact of a draw of this module."""
    kind, exact = remembered(value) or ("", value)
    z = value.double()
    logit = (z.log() - torch.log1p(-z)).clamp(-_FAR, _FAR)
    return _exactly(logit, exact.double()) if kind == "logit" else logit


def _log_neg_log(logit: Tensor) -> Tensor:
    """log(-log z) of z = sigmoid(logit), float64, also where z rounds to 1."""
    high, low = logit.clamp(min=0), logit.clamp(max=0)
    rest = (-high).exp().clamp(min=1e-300)
    return torch.where(logit > 0, (torch.log1p(rest) / rest).log() - high, F.softplus(-low).log())


def _of_complement(log_neg_log: Tensor) -> Tensor:
    """log(-log(1 - z)) of log(-log z), float64: x to log(-log(1 - exp(-e^x)))."""
    low, t = log_neg_log.clamp(max=0), log_neg_log.clamp(min=0).exp()
    small, rest = low.clamp(min=-700).exp(), (-t).exp().clamp(min=1e-300)
    near_one = (-low - (-torch.expm1(-small) / small).log()).log()
    return torch.where(log_neg_log < 0, near_one, (-torch.log1p(-rest) / rest).log() - t)


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


class _Drawn(Sized):
    """A family is drawn by ``_draw``; ``sample`` is the same without a gradient."""

    def _draw(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def rsample(self, sample_shape: Any = (), generator: Any = None) -> Tensor:
        if generator is not None:
            raise ValueError(f"a {type(self).__name__} is drawn with torch's own generator; seed that.")
        return self._draw(self._extended_shape(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(validated(self, value))  # type: ignore[misc]


class Exponential(_Drawn, dist.Exponential):
    r""":math:`z = e / \mathrm{rate}` on :math:`(0, \infty)`, :math:`e = -\log(1 - u)`.

    Args:
        rate: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = _exponential(self.rate, shape)
        return _positive(noise.log() - self.rate.log())

    def log_prob(self, value: Tensor) -> Tensor:
        log_rate = self.rate.double().log()
        return (log_rate - (log_rate + log_of(validated(self, value))).exp()).to(self.rate.dtype)


class Cauchy(_Drawn, dist.Cauchy):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \tan(\pi(u - 1/2))`; it has no mean.

    Args:
        loc: ``[*]``.
        scale: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        uniform = _uniform(self.loc, shape)
        return self.loc + self.scale * torch.tan(math.pi * (uniform - 0.5))


class Logistic(_Drawn, dist.Logistic):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, \log(u / (1 - u))`.

    Args:
        loc: ``[*]``.
        scale: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc + self.scale * _uniform(self.loc, shape).logit()


class Gumbel(_Drawn, dist.Gumbel):
    r""":math:`z = \mathrm{loc} - \mathrm{scale} \, \log e`, :math:`e = -\log(1 - u)`.

    Args:
        loc: ``[*]``.
        scale: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc - self.scale * _exponential(self.loc, shape).log()

    def log_prob(self, value: Tensor) -> Tensor:
        y = (self.loc - validated(self, value)) / self.scale
        return y - _finite_exp(y) - self.scale.log()


class Weibull(_Drawn, dist.Weibull):
    r""":math:`z = \mathrm{scale} \, e^{1 / \mathrm{concentration}}` on :math:`(0, \infty)`.

    Args:
        scale: ``[*]``, positive.
        concentration: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = _exponential(self.scale, shape)
        return _positive(noise.log() / self.concentration + self.scale.log())

    def log_prob(self, value: Tensor) -> Tensor:
        concentration, log_scale = self.concentration.double(), self.scale.double().log()
        log_ratio = log_of(validated(self, value)) - log_scale
        log_rate = concentration.log() - log_scale
        score = log_rate + (concentration - 1) * log_ratio - _finite_exp(concentration * log_ratio)
        return score.to(self.scale.dtype)


class Kumaraswamy(_Drawn, dist.Kumaraswamy):
    r""":math:`z = (1 - (1 - u)^{1/b})^{1/a}` on (0, 1), a = concentration1, b = concentration0.

    Args:
        concentration1: ``[*]``, positive, a.
        concentration0: ``[*]``, positive, b.

    Source: Nalisnick & Smyth (2017).
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        a, b = self.concentration1, self.concentration0
        log_rate = _exponential(a, shape).double().log() - b.double().log()
        log_neg_log = _of_complement(log_rate) - a.double().log()
        return _fraction((_of_complement(log_neg_log).exp() - log_neg_log.exp()).to(a.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration1.double(), self.concentration0.double()
        logit = logit_of(validated(self, value))
        log_rest = -_of_complement(a.log() + _log_neg_log(logit)).exp()  # log(1 - z^a)
        score = a.log() + b.log() + (a - 1) * F.logsigmoid(logit) + (b - 1) * log_rest
        return score.to(self.concentration1.dtype)


class Laplace(_Drawn, dist.Laplace):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, (e - e')`, e and e' from Exponential(1).

    Args:
        loc: ``[*]``.
        scale: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.loc + self.scale * (_exponential(self.loc, shape) - _exponential(self.loc, shape))


class StudentT(_Drawn, dist.StudentT):
    r""":math:`z = \mathrm{loc} + \mathrm{scale} \, n \sqrt{\mathrm{df} / 2g}`, n ~ N(0, 1), g ~ Gamma(df / 2, 1).

    Args:
        df: ``[*]``, positive, degrees of freedom.
        loc: ``[*]``.
        scale: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        normal = torch.randn(shape, dtype=self.df.dtype, device=self.df.device)
        log_root = ((self.df / 2).log() - log_gamma_draw(self.df / 2, shape)) / 2
        value = self.loc + self.scale * normal * _positive(log_root)
        remember(value, "log of size", log_root + normal.abs().log() + self.scale.log())
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        kind, exact = remembered(validated(self, value)) or ("", value)
        df, scale = _once(self.df).double(), self.scale.double()
        dtype = value.dtype if value.is_floating_point() else df.dtype
        size = (value.double() - self.loc).abs().clamp(min=torch.finfo(dtype).tiny).log()
        if kind == "log of size":  # of a draw so far out that loc is nothing beside it
            size = torch.where(value.abs() > 1e15, _exactly(size, exact.double()), size)
        log_norm = _log_gamma_half_step(df / 2) - 0.5 * (df * math.pi).log() - scale.log()
        score = log_norm - 0.5 * (df + 1) * F.softplus(2 * (size - scale.log()) - df.log())  # of log(1 + y^2 / df)
        return score.to(self.loc.dtype)


def _once(parameter: Tensor) -> Tensor:
    """With size 1 along what repeats one number, as where it is one for all, so that functions of it are taken once."""
    for dim, stride in enumerate(parameter.stride()):
        if stride == 0 and parameter.shape[dim] > 1:
            parameter = parameter.narrow(dim, 0, 1)
    return parameter


def _log_gamma_half_step(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a), whose terms would cancel in float32 where a is large."""
    large = a.clamp(min=30.0)
    series = 0.5 * large.log() - 1 / (8 * large) + 1 / (192 * large**3)
    small = a.clamp(max=30.0)
    return torch.where(a > 30.0, series, torch.lgamma(small + 0.5) - torch.lgamma(small))


class Uniform(_Drawn, dist.Uniform):
    r""":math:`z = \mathrm{low} + (\mathrm{high} - \mathrm{low}) \, u` on (low, high).

    Args:
        low: ``[*]``.
        high: ``[*]``, above ``low``.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        z = self.low + (self.high - self.low) * _uniform(self.low, shape)
        low, high = self.low.detach(), self.high.detach()
        return torch.minimum(torch.maximum(z, torch.nextafter(low, high)), torch.nextafter(high, low))


def _uniform(like: Tensor, shape: Any) -> Tensor:
    """u ~ Uniform(0, 1), neither 0 nor 1."""
    eps = torch.finfo(like.dtype).eps
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(eps / 2, 1 - eps / 2)


class LogNormal(_Drawn, dist.LogNormal):
    r""":math:`z = \exp(\mathrm{loc} + \mathrm{scale} \, n)` on :math:`(0, \infty)`, n ~ N(0, 1).

    Args:
        loc: ``[*]``, of log z.
        scale: ``[*]``, positive, of log z.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return _positive(self.loc + self.scale * noise, room=12.0)  # for log(z) / z, in the gradient of log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        log_value, scale = log_of(validated(self, value)), self.scale.double()
        square = ((log_value - self.loc) / scale).square()
        score = -0.5 * (square + math.log(2 * math.pi)) - scale.log() - log_value
        return score.to(self.loc.dtype)


class Gamma(_Drawn, dist.Gamma):  # type: ignore[misc]
    r""":math:`z = g / \mathrm{rate}` on :math:`(0, \infty)`, g ~ Gamma(concentration, 1).

    Args:
        concentration: ``[*]``, positive.
        rate: ``[*]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        return _positive(log_gamma_draw(self.concentration, shape) - self.rate.log())

    def log_prob(self, value: Tensor) -> Tensor:
        c, log_rate, log_value = self.concentration.double(), self.rate.double().log(), log_of(validated(self, value))
        score = c * log_rate + (c - 1) * log_value - (log_rate + log_value).exp() - torch.lgamma(c)
        return score.to(self.rate.dtype)


class Beta(_Drawn, dist.Beta):
    r""":math:`z = g_1 / (g_1 + g_0)` on (0, 1), :math:`g_i` ~ Gamma(:math:`c_i`, 1), c the two concentrations.

    Args:
        concentration1: ``[*]``, positive; of z.
        concentration0: ``[*]``, positive; of 1 - z.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        one, zero = log_gamma_draw(self.concentration1, shape), log_gamma_draw(self.concentration0, shape)
        return _fraction(one - zero)

    def log_prob(self, value: Tensor) -> Tensor:
        one, zero = self.concentration1.double(), self.concentration0.double()
        logit = logit_of(validated(self, value))
        log_norm = torch.lgamma(one + zero) - torch.lgamma(one) - torch.lgamma(zero)
        score = (one - 1) * F.logsigmoid(logit) + (zero - 1) * F.logsigmoid(-logit) + log_norm
        return score.to(self.concentration1.dtype)


class Dirichlet(_Drawn, dist.Dirichlet):
    r""":math:`z_k = g_k / \sum_j g_j` on the simplex, :math:`g_k` ~ Gamma(:math:`c_k`, 1), c the concentration.

    Args:
        concentration: ``[*, K]``, positive.

    Source: Kingma & Welling (2013), section 2.4.
    """

    def _draw(self, shape: torch.Size) -> Tensor:
        return _positive(log_gamma_draw(self.concentration, shape).log_softmax(-1), largest=1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        c = self.concentration.double()
        log_norm = torch.lgamma(c.sum(-1)) - torch.lgamma(c).sum(-1)
        return (((c - 1) * log_of(validated(self, value))).sum(-1) + log_norm).to(self.concentration.dtype)


def _in_float64(kind: Any, q: Any, p: Any) -> Tensor:
    """torch's divergence, of which float32 has no digits left where the concentrations are large."""
    of = [[getattr(d, name).double() for name in kind.arg_constraints] for d in (q, p)]
    kl = kl_divergence(*(kind(*parameters, validate_args=False) for parameters in of))
    return kl.to(getattr(q, next(iter(kind.arg_constraints))).dtype)


for _kind, _base in (
    (Gamma, torch.distributions.Gamma),
    (Beta, torch.distributions.Beta),
    (Dirichlet, torch.distributions.Dirichlet),
):
    register_kl(_kind, _base)(functools.partial(_in_float64, _base))


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
    dtype = torch.get_default_dtype()
    most = torch.finfo(dtype).max
    if not -most <= low < high <= most:
        raise ValueError(
            f"the bounds of {whose} have to be finite in {dtype}, low below high; got low={low}, high={high}."
        )
