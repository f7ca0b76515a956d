"""Distributions of single pixels and counts, safe in float32 for any parameters that a network may give.

Gray levels are floats in [0, 1], as :mod:`pyro_vae.data` gives them: level k of L is the value k / (L - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs

from pyro_vae._checks import checked, is_number, is_tensor, shown
from pyro_vae.distributions.base import Parametrized, Sized, broadcast, chosen, expandable, size_of, validated

_SHARPNESS = 12.0


def soft_floor(log_scale: Tensor, minimum: float) -> Tensor:
    r"""A smooth maximum of a log scale and ``minimum``, :math:`\frac 1 {12} \log(e^{12 l} + e^{12 m})`.

    It differs from the log scale by less than 1e-6 where that is above ``minimum`` + 1, and never goes below
    ``minimum``. Rybkin et al. (2021) clip with 1 in place of 12, which adds :math:`e^m` to every scale.
    """
    larger = torch.maximum(log_scale, torch.full_like(log_scale, minimum))
    return larger + F.softplus(-_SHARPNESS * (log_scale - minimum).abs()) / _SHARPNESS


def logarithmic_above(value: Tensor, bound: float) -> Tensor:
    """A value up to ``bound``, and bound + log(1 + distance) of one above: its exp does not overflow, and the gradient
    does not vanish."""
    above = value > bound
    return torch.where(above, bound + torch.where(above, value - bound, 0.0).log1p(), value)


LARGEST_LOG_SCALE = 15.0
"""The log scale from which on a learned one goes on as a logarithm, a scale of 3.3 million."""


def learned_scale(log_scale: Tensor, minimum: float) -> Tensor:
    """The exp of a log scale that may be any number: above exp(``minimum``) by :func:`soft_floor`, and growing but
    linearly from :data:`LARGEST_LOG_SCALE` on by :func:`logarithmic_above`."""
    return soft_floor(logarithmic_above(log_scale, LARGEST_LOG_SCALE), minimum).exp()


# B_2k / (2k)! for k = 1 to 8, with the Bernoulli numbers B: coth(l / 2) / 2 - 1 / l = sum of B_2k / (2k)! l^(2k - 1).
_COTH = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
    -3617 / 10670622842880000,
)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The sum of ``coefficients[k]`` x^k."""
    *rest, last = coefficients
    total = torch.full_like(x, last)
    for coefficient in reversed(rest):
        total = coefficient + x * total
    return total


def _log_sinhc(logits: Tensor) -> Tensor:
    r""":math:`\log(\sinh(l / 2) / (l / 2))`, by its series where :math:`|l| < 1`."""
    small = logits.abs() < 1
    square = torch.where(small, logits, 0.0).square()
    series = square * _polynomial(square, [c / (2 * k) for k, c in enumerate(_COTH, 1)])
    size = torch.where(small, 1.0, logits.abs())
    return torch.where(small, series, size / 2 + (-torch.expm1(-size)).log() - size.log())


class ContinuousBernoulli(Sized, dist.ContinuousBernoulli):
    r"""The continuous Bernoulli on [0, 1], :math:`\log p(x) = l x - \log \frac{e^l - 1}{l}` with logits l.

    torch's own class goes over the probability :math:`\lambda = \sigma(l)`, which float32 rounds to 0 or 1 from
    :math:`|l| = 16` on, and divides by :math:`\lambda - 1/2` where that has few digits left. Here all comes from l.

    Args:
        probs, logits: ``[*]``, either of them.

    Source: Loaiza-Ganem & Cunningham (2019), section 3.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        value = validated(self, value)
        small, near, size = self._parts()
        # Elsewhere p falls off as exp(-|l| d) with the distance d from the likelier end.
        distance = torch.where(self.logits > 0, 1 - value, value)
        far = size.log() - (-torch.expm1(-size)).log() - size * distance
        return torch.where(small, near * (value - 0.5) - _log_sinhc(near), far)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where :math:`|l| < 1`, l there (0 elsewhere), and :math:`|l|` elsewhere (1 there)."""
        small = self.logits.abs() < 1
        return small, torch.where(small, self.logits, 0.0), torch.where(small, 1.0, self.logits.abs())

    @property
    def mean(self) -> Tensor:
        r""":math:`1 / (1 - e^{-l}) - 1 / l`."""
        small, near, size = self._parts()
        series = 0.5 + near * _polynomial(near.square(), _COTH)
        low = 1 / size - (-size).exp() / -torch.expm1(-size)  # of -|l|
        return torch.where(small, series, torch.where(self.logits > 0, 1 - low, low))

    @property
    def variance(self) -> Tensor:
        r""":math:`1 / l^2 - e^l / (e^l - 1)^2`."""
        small, near, size = self._parts()
        series = _polynomial(near.square(), [c * (2 * k - 1) for k, c in enumerate(_COTH, 1)])
        return torch.where(small, series, 1 / size.square() - (-size).exp() / torch.expm1(-size).square())

    def cdf(self, value: Tensor) -> Tensor:
        logits, value = broadcast_all(self.logits, self._floats(value))
        value = value.clamp(0, 1)
        rate = logits.abs().clamp(min=torch.finfo(logits.dtype).tiny)
        # Of -|l|; the other side is its mirror image.
        low = torch.expm1(-rate * torch.where(logits > 0, 1 - value, value)) / torch.expm1(-rate)
        return torch.where(logits > 0, 1 - low, low)

    def icdf(self, value: Tensor) -> Tensor:
        logits, value = broadcast_all(self.logits, self._floats(value))
        near = logits.abs() < 1e-4
        rate = torch.where(near, 1.0, logits.abs())
        share = clamp_probs(torch.where(logits > 0, 1 - value, value))
        low = -torch.log1p(share * torch.expm1(-rate)) / rate
        series = value + torch.where(near, logits, 0.0) * value * (1 - value) / 2
        return torch.where(near, series, torch.where(logits > 0, 1 - low, low)).clamp(0, 1)

    def _floats(self, value: Any) -> Any:
        """A number, or a tensor of floats that broadcasts to the logits."""
        if is_number(value) and not isinstance(value, Tensor):
            return float(value)
        if not is_tensor(value):
            raise TypeError(f"a ContinuousBernoulli takes a number or a dense tensor of numbers; got {shown(value)}.")
        try:
            torch.broadcast_shapes(value.shape, self.logits.shape)
        except RuntimeError as error:
            raise ValueError(
                f"a value of shape {list(value.shape)} does not broadcast to the logits, {list(self.logits.shape)}."
            ) from error
        return value if value.is_floating_point() else value.to(self.logits.dtype)

    def entropy(self) -> Tensor:
        small, near, size = self._parts()
        series = _log_sinhc(near) - near.square() * _polynomial(near.square(), _COTH)
        # The mean is 1 / |l| from the likelier end, but for what decays.
        rest = -torch.expm1(-size)
        return torch.where(small, series, 1 - size * (-size).exp() / rest + rest.log() - size.log())


class UniformLevels(constraints.Constraint):
    """The values k / (num_levels - 1), k = 0 .. num_levels - 1, to 1/100 of their distance."""

    is_discrete = True

    @checked
    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        scaled = value * (self.num_levels - 1)
        return ((scaled - scaled.round()).abs() < 0.01) & (scaled > -0.5) & (scaled < self.num_levels - 0.5)

    def __repr__(self) -> str:
        return f"UniformLevels(k / {self.num_levels - 1})"


class _OnLevels(Parametrized):
    """Base of the distributions over k / (L - 1). A value off its level counts as the nearest."""

    num_levels: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return UniformLevels(self.num_levels)

    def _level(self, value: Tensor) -> Tensor:
        return (validated(self, value) * (self.num_levels - 1)).round().clamp(0, self.num_levels - 1)


class QuantizedCategorical(_OnLevels):
    r"""Any distribution over the gray levels: :math:`P(x = k / (L - 1)) = \mathrm{softmax}(\mathrm{logits})_k`.

    Args:
        logits: ``[*, L]``.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, section 2.2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.independent(constraints.real, 1)}

    @checked
    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        if not logits.numel() or not logits.dim():
            raise ValueError(f"logits have to be [*, K], one for each of K levels; got the shape {list(logits.shape)}.")
        self.logits = logits
        self.num_levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        level = self._level(value)
        shape = torch.broadcast_shapes(level.shape, self.batch_shape)
        index = level.expand(shape).long().unsqueeze(-1)
        chosen = self.logits.expand(*shape, self.num_levels).gather(-1, index).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        levels = chosen(self.logits, size_of(sample_shape))
        return levels.to(self.logits.dtype) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * torch.linspace(0, 1, self.num_levels).to(self.logits)).sum(-1)


class DiscretizedLogistic(_OnLevels):
    r"""A logistic distribution whose mass in the bin around each gray level is the level's, open at both ends:

    .. math:: P(x) = \sigma\Big(\frac{x + h - \mathrm{loc}}{\mathrm{scale}}\Big)
        - \sigma\Big(\frac{x - h - \mathrm{loc}}{\mathrm{scale}}\Big), \qquad h = \frac{1}{2 (L - 1)}

    with :math:`\sigma(\infty) = 1` above level L - 1 and :math:`\sigma(-\infty) = 0` below level 0. The logarithm of
    the difference is :math:`\log \sigma(u) + \log \sigma(-v) + \log(1 - e^{v - u})`, exact also in the far tail.

    Args:
        loc: ``[*]``, in units of x.
        scale: ``[*]``.
        num_levels: L.

    Source: Kingma et al. (2016), appendix; Salimans et al. (2017), eq. 2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    @checked
    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, num_levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast(loc=loc, scale=scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        level, top = self._level(value), self.num_levels - 1
        # Neighbors share an edge to the last digit, so that the masses sum to one also where scale is tiny.
        below = F.logsigmoid(((level + 0.5) / top - self.loc) / self.scale)
        above = F.logsigmoid((self.loc - (level - 0.5) / top) / self.scale)
        inside = below + above + self._log_between()
        return torch.where(level == 0, below, torch.where(level == top, above, inside))

    def _log_between(self) -> Tensor:
        """log(1 - exp(v - u)); by its series where the bin is narrow, as 1 / (u - v) may overflow in the gradient."""
        width = 1 / ((self.num_levels - 1) * self.scale)
        narrow = width < 1
        series = -math.log(self.num_levels - 1) - self.scale.log() - width / 2
        return torch.where(
            narrow,
            series + _log_sinhc(torch.where(narrow, width, 0.0)),
            (-torch.expm1(-torch.where(narrow, 1.0, width))).log(),
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            uniform = clamp_probs(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))
            return self._quantized(self.loc + self.scale * uniform.logit())

    def _quantized(self, x: Tensor) -> Tensor:
        return (x * (self.num_levels - 1)).round().clamp(0, self.num_levels - 1) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean of the levels, which the open ends pull inwards from loc."""
        edges = (torch.arange(self.num_levels - 1).to(self.loc) + 0.5) / (self.num_levels - 1)
        above = ((self.loc.unsqueeze(-1) - edges) / self.scale.unsqueeze(-1)).sigmoid()
        return above.sum(-1) / (self.num_levels - 1)


class DiscretizedLogisticMixture(_OnLevels):
    r"""A mixture of M discretized logistics, each pixel by itself:
    :math:`P(x) = \sum_m \mathrm{softmax}(\mathrm{logits})_m P_m(x)`.

    Args:
        logits: ``[*, M]``, of the weights.
        loc: ``[*, M]``.
        scale: ``[*, M]``.
        num_levels: L.

    Source: Salimans et al. (2017), eq. 1 and 2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }

    @checked
    def __init__(
        self,
        logits: Tensor,
        loc: Tensor | float,
        scale: Tensor | float,
        num_levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = broadcast(logits=logits, loc=loc, scale=scale)
        self.num_levels = num_levels
        super().__init__(self.logits.shape[:-1], validate_args=validate_args)

    @property
    def components(self) -> DiscretizedLogistic:
        """The M logistics, with batch shape ``[*, M]``."""
        return DiscretizedLogistic(self.loc, self.scale, self.num_levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        of_components = self.components.log_prob(validated(self, value).unsqueeze(-1))
        return (self.logits.log_softmax(-1) + of_components).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            size = size_of(sample_shape)
            places = chosen(self.logits, size).unsqueeze(-1)
            draws = self.components.sample(size)
            return draws.gather(-1, places).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * self.components.mean).sum(-1)


class OptimalNormal(Sized, TorchDistribution):
    r"""A Gaussian whose one scale is the best for the values it scores: :math:`\mathrm{scale}^2` is their mean square
    error, over everything that a call of ``log_prob`` sees (event, data and particles),

    .. math:: \log p(x_n) = \sum_d \log \mathcal N(x_{nd}; \mathrm{loc}_{nd}, \mathrm{scale}^2), \qquad
        \mathrm{scale}^2 = \frac{1}{N D} \sum_{nd} (x_{nd} - \mathrm{loc}_{nd})^2

    which sums to :math:`-\frac{N D}{2} \log(2 \pi e \, \mathrm{scale}^2)`. It depends on all of the batch: a term of a
    training objective, and no density of a datum.

    Args:
        loc: ``[*, B, *event]``.
        scale: for draws, which have no error of their own; a number or ``[]``.
        event_dim: how many dimensions of ``loc`` are one datum.
        min_log_scale: see :func:`soft_floor`.
        seen: called with the mean square error, ``[]`` and detached, whenever values are scored.

    Source: Rybkin et al. (2021), the optimal sigma-VAE.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real}
    has_rsample = True

    @checked
    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        event_dim: int,
        min_log_scale: float = -6.0,
        seen: Callable[[Tensor], None] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = loc, scale
        self.min_log_scale = min_log_scale
        self.seen = seen
        split = loc.dim() - event_dim
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> OptimalNormal:
        loc = self.loc.expand(*expandable(self, batch_shape), *self.event_shape)
        event_dim = len(self.event_shape)
        return OptimalNormal(loc, self.scale, event_dim, self.min_log_scale, self.seen, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        square = (validated(self, value) - self.loc).square()
        mean_square = square.mean()
        if self.seen is not None:
            self.seen(mean_square.detach())
        log_scale = soft_floor(log_root(mean_square), self.min_log_scale)
        score = -0.5 * math.log(2 * math.pi) - log_scale - square * (-2 * log_scale).exp() / 2
        return sum_rightmost(score, len(self.event_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square().expand_as(self.loc)


def log_root(mean_square: Tensor) -> Tensor:
    """The log scale of a mean square error, finite also for no error at all."""
    return mean_square.clamp(min=torch.finfo(mean_square.dtype).tiny).log() / 2


class Poisson(Parametrized):
    r"""Counts, :math:`\log p(x) = x \log r - r - \log x!`, from the logarithm of the rate r.

    The terms are added in float64: of a count of a million they cancel to all but the last digits of float32.

    Args:
        log_rate: ``[*]``; with a rate so small that it rounds to 0, a count still has a finite log-probability.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    @checked
    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        count, log_rate = validated(self, value).double(), self.log_rate.double()
        return (count * log_rate - log_rate.exp() - torch.lgamma(count + 1)).to(self.log_rate.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean


class NegativeBinomial(Sized, dist.NegativeBinomial):
    r"""Counts, :math:`\log p(x) = \log \frac{\Gamma(x + r)}{\Gamma(r) \, x!} + r \log \sigma(-l) + x \log \sigma(l)`.

    r is ``total_count``, l the ``logits``. The terms are added in float64, as they cancel where counts are large, and
    where r is large the ratio of the two gamma functions comes from Stirling's series.

    Args:
        total_count: ``[*]``, positive, r.
        probs, logits: ``[*]``, either of them.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        count, logits, value = broadcast_all(self.total_count, self.logits, validated(self, value))
        dtype, count, logits, value = count.dtype, count.double(), logits.double(), value.double()
        large = count > 20
        direct = torch.where(large, 1.0, count)
        ratio = torch.where(
            large,
            _log_gamma_ratio(torch.where(large, count, 20.0), value),
            torch.lgamma(direct + value) - torch.lgamma(direct),
        )
        score = ratio - torch.lgamma(value + 1) + count * F.logsigmoid(-logits) + value * F.logsigmoid(logits)
        return score.to(dtype)


def _log_gamma_ratio(count: Tensor, value: Tensor) -> Tensor:
    r""":math:`\log \Gamma(r + x) - \log \Gamma(r)`, for r above 20."""

    def rest(argument: Tensor) -> Tensor:
        return (1 - 1 / (30 * argument.square())) / (12 * argument)

    grown = (count + value - 0.5) * torch.log1p(value / count) - value
    return value * count.log() + grown + rest(count + value) - rest(count)
