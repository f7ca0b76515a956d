"""The distributions of pixels and counts: masses and densities of one, moments, and safety in float32."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_vae.distributions.pixels import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    NegativeBinomial,
    OptimalNormal,
    Poisson,
    QuantizedCategorical,
    UniformLevels,
    logarithmic_above,
    soft_floor,
)

LOGITS = [0.0, 1e-8, 1e-4, 0.004, 0.1, 0.5, 0.99, 0.999, 1.001, 2.0, 5.0, 17.0, 80.0, 200.0, 1e4, 1e6]
SIGNED = [*LOGITS, *(-logit for logit in LOGITS[1:])]


def tensors(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(num_levels: int) -> list[Any]:
    """Of batch shape [4], the parameters from middling to extreme."""
    loc, scale = torch.tensor([0.4, -3.0, 0.5, 0.998]), torch.tensor([0.07, 0.5, 1e-4, 30.0])
    weights, locs = tensors(4, 3), torch.stack([loc, 1 - loc, loc.flip(0)], -1)
    scales = torch.stack([scale, scale.flip(0), scale], -1)
    return [
        QuantizedCategorical(tensors(4, num_levels) * torch.tensor([1.0, 0.0, 30.0, 5.0])[:, None]),
        DiscretizedLogistic(loc, scale, num_levels),
        DiscretizedLogisticMixture(weights, locs, scales, num_levels),
    ]


def levels(num_levels: int) -> Tensor:
    """``[L, 1]``: k / (L - 1), computed as the data are, by a division in float32."""
    return (torch.arange(num_levels) / (num_levels - 1)).unsqueeze(-1)


@pytest.mark.parametrize("num_levels", [2, 8, 256])
@pytest.mark.parametrize("which", range(3))
def test_masses_are_those_of_draws_and_of_the_mean(which: int, num_levels: int) -> None:
    p, x = quantized(num_levels)[which], levels(num_levels)
    masses = p.log_prob(x).double().exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(p.mean.double(), (masses * x).sum(0), atol=1e-5, rtol=0)
    if num_levels == 8:
        draws = p.sample((20_000,))
        assert p.support.check(draws).all()
        frequencies = (draws == x.unsqueeze(1)).double().mean(1)
        assert ((frequencies - masses).abs() <= 4.5 * (masses * (1 - masses) / 20_000).sqrt() + 1e-6).all()


def log_mass(k: int, loc: float, scale: float) -> float:
    """In as many digits as a mass of exp(-2000) takes."""
    with mpmath.workdps(1000):
        edge = [(mpmath.mpf(k) + s * mpmath.mpf(1) / 2) / 255 for s in (-1, 1)]
        u, v = ((e - mpmath.mpf(loc)) / mpmath.mpf(scale) for e in reversed(edge))
        above = 1 / (1 + mpmath.exp(v)) if k > 0 else mpmath.mpf(1)  # of the lower edge
        beyond = 1 / (1 + mpmath.exp(u)) if k < 255 else mpmath.mpf(0)
        return float(mpmath.log(above - beyond))


@pytest.mark.parametrize("scale", [2.0**-11, 2.0**-6, 1.0, 1024.0])
@pytest.mark.parametrize("k", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("loc", [0.0, 0.5, 1.0])
def test_discretized_logistic_in_the_far_tail(loc: float, k: int, scale: float) -> None:
    loc_, scale_ = torch.tensor(loc, requires_grad=True), torch.tensor(scale, requires_grad=True)
    value = DiscretizedLogistic(loc_, scale_).log_prob(torch.tensor(k / 255))
    # An edge has the digits of float32, of which a tiny scale is a multiple.
    assert value.item() == pytest.approx(log_mass(k, loc, scale), rel=2e-5, abs=1e-5 + 1.2e-7 / scale)
    value.backward()
    step = scale * 1e-6
    slope = (log_mass(k, loc + step, scale) - log_mass(k, loc - step, scale)) / (2 * step)
    assert loc_.grad is not None
    assert scale_.grad is not None
    assert loc_.grad.item() == pytest.approx(slope, rel=1e-3, abs=1e-3)
    assert torch.isfinite(scale_.grad)


@pytest.mark.parametrize("log_scale", [-30.0, -8.0, 0.0, 40.0, 80.0])
def test_discretized_logistic_of_any_scale_has_a_finite_gradient(log_scale: float) -> None:
    loc, scale = torch.tensor(0.5, requires_grad=True), torch.tensor(log_scale).exp().requires_grad_()
    log_prob = DiscretizedLogistic(loc, scale).log_prob(levels(256))
    assert log_prob.double().exp().sum().item() == pytest.approx(1, abs=1e-5)
    log_prob.sum().backward()
    assert loc.grad is not None
    assert scale.grad is not None
    assert torch.isfinite(torch.stack([loc.grad, scale.grad])).all()
    if log_scale >= 40:  # all but the open ends are of mass 1 / (255 * 4 * scale)
        assert (scale.grad * scale).item() == pytest.approx(-254, rel=1e-4)


def test_a_mixture_is_the_weighted_sum() -> None:
    logits, loc, scale, x = tensors(4, 3), tensors(4, 3, seed=5).sigmoid(), tensors(4, 3, seed=6).exp(), levels(256)
    p = DiscretizedLogisticMixture(logits, loc, scale)
    parts = [logits.softmax(-1)[:, m] * DiscretizedLogistic(loc[:, m], scale[:, m]).log_prob(x).exp() for m in range(3)]
    torch.testing.assert_close(p.log_prob(x).exp(), torch.stack(parts).sum(0))
    means = [logits.softmax(-1)[:, m] * DiscretizedLogistic(loc[:, m], scale[:, m]).mean for m in range(3)]
    torch.testing.assert_close(p.mean, torch.stack(means).sum(0))


def test_levels_know_what_is_off() -> None:
    for num_levels in (2, 16, 256):
        support, x = UniformLevels(num_levels), levels(num_levels)
        assert support.check(x).all()
        assert not support.check(x + 0.5 / (num_levels - 1)).any()
        assert not support.check(x + 0.02 / (num_levels - 1)).any()
        assert support.check(x.double()).all()
    assert not UniformLevels(256).check(torch.tensor([-1 / 255, 256 / 255, math.nan, math.inf])).any()


class ContinuousBernoulliByHand:
    """In 60 digits: log p(x), mean, variance and entropy, and the slopes by the logit of the first and the last."""

    def __init__(self, logit: float) -> None:
        with mpmath.workdps(60):
            at = mpmath.mpf(logit)
            self.mean, self.variance = mpmath.mpf(1) / 2, mpmath.mpf(1) / 12
            self.log_normalizer = mpmath.mpf(0)
            if at != 0:
                self.mean = 1 / (1 - mpmath.exp(-at)) - 1 / at
                self.variance = 1 / at**2 - 1 / (4 * mpmath.sinh(at / 2) ** 2)
                self.log_normalizer = mpmath.log(mpmath.expm1(at) / at)
            self.entropy, self.entropy_slope = self.log_normalizer - at * self.mean, -at * self.variance
            self.logit = at

    def log_prob(self, x: float) -> tuple[float, float]:
        with mpmath.workdps(60):
            return float(self.logit * x - self.log_normalizer), float(x - self.mean)


@pytest.mark.parametrize("logit", SIGNED)
def test_continuous_bernoulli_to_the_last_digits(logit: float) -> None:
    parameter = torch.tensor(logit, requires_grad=True)
    p, by_hand = ContinuousBernoulli(logits=parameter), ContinuousBernoulliByHand(parameter.item())
    for x in (0.0, 0.25, 1.0):
        log_prob, by_logit = by_hand.log_prob(x)
        value = p.log_prob(torch.tensor(x))
        (slope,) = torch.autograd.grad(value, parameter)
        assert value.item() == pytest.approx(log_prob, rel=1e-6, abs=1e-6)
        assert slope.item() == pytest.approx(by_logit, rel=1e-4, abs=1e-6)
    assert p.mean.item() == pytest.approx(float(by_hand.mean), rel=1e-5)
    assert p.variance.item() == pytest.approx(float(by_hand.variance), rel=1e-5)
    (slope,) = torch.autograd.grad(p.entropy(), parameter)
    assert p.entropy().item() == pytest.approx(float(by_hand.entropy), rel=1e-6, abs=1e-6)
    assert slope.item() == pytest.approx(float(by_hand.entropy_slope), rel=1e-4, abs=1e-12)
    draws = p.sample((20_000,))
    assert p.support.check(draws).all()
    assert abs(draws.mean() - p.mean) < 4.5 * (p.variance / 20_000).sqrt() + 1e-7
    assert 0.9 < draws.var() / p.variance < 1.1
    if abs(logit) < 100:  # in float64 beside the same
        parameter, point = torch.tensor(logit, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
        p, by_hand = ContinuousBernoulli(logits=parameter), ContinuousBernoulliByHand(logit)
        assert p.log_prob(point).item() == pytest.approx(by_hand.log_prob(0.25)[0], rel=1e-12)
        assert p.mean.item() == pytest.approx(float(by_hand.mean), rel=1e-12)
        assert p.variance.item() == pytest.approx(float(by_hand.variance), rel=1e-10)


@pytest.mark.parametrize("logit", [-30.0, -2.0, -0.5, 0.0, 1e-5, 0.7, 3.0, 200.0])
def test_continuous_bernoulli_is_a_density(logit: float) -> None:
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = p.log_prob(x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(p.cdf(x)[1:], torch.cumulative_trapezoid(density, x), atol=1e-6, rtol=0)
    shares = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(p.cdf(p.icdf(shares)), shares, atol=1e-8, rtol=0)


@pytest.mark.parametrize("rate", [1e-3, 0.7, 30.0, 1000.0])
def test_poisson(rate: float) -> None:
    p, x = Poisson(torch.tensor(rate, dtype=torch.float64).log()), torch.arange(2000.0, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), torch.from_numpy(scipy.stats.poisson(rate).logpmf(x.numpy())))
    assert p.mean.item() == pytest.approx(rate)


COUNTS = [1.0, 1e3, 1e5, 1e6, 1e7]


def agrees(value: Tensor, of: tuple[Tensor, ...], reference: Any) -> None:
    """A value in float32 and its gradients are those of ``reference`` in 40 digits."""
    slopes = torch.autograd.grad(value, of)
    with mpmath.workdps(40):
        at = [mpmath.mpf(parameter.item()) for parameter in of]
        assert value.item() == pytest.approx(float(reference(*at)), rel=1e-6, abs=1e-6)
        for place, slope in enumerate(slopes):
            order = [int(place == other) for other in range(len(of))]
            assert slope.item() == pytest.approx(
                float(mpmath.diff(reference, tuple(at), tuple(order))), rel=1e-5, abs=1e-9
            )


@pytest.mark.parametrize("count", COUNTS)
def test_poisson_of_large_counts_in_float32(count: float) -> None:
    log_rate = torch.tensor(math.log(count) + count**-0.5, requires_grad=True)  # a standard deviation off

    def by_hand(log_rate: Any) -> Any:
        return count * log_rate - mpmath.exp(log_rate) - mpmath.loggamma(mpmath.mpf(count) + 1)

    agrees(Poisson(log_rate).log_prob(torch.tensor(count)), (log_rate,), by_hand)


@pytest.mark.parametrize("total", [1e-3, 1.0, 19.0, 21.0, 1e6, 1e12])
@pytest.mark.parametrize("count", COUNTS)
def test_negative_binomial_of_large_counts_in_float32(count: float, total: float) -> None:
    of = torch.tensor(total, requires_grad=True), torch.tensor(math.log(count / total), requires_grad=True)

    def by_hand(total: Any, logits: Any) -> Any:
        ratio = mpmath.loggamma(count + total) - mpmath.loggamma(total) - mpmath.loggamma(mpmath.mpf(count) + 1)
        return ratio - total * mpmath.log1p(mpmath.exp(logits)) - count * mpmath.log1p(mpmath.exp(-logits))

    agrees(NegativeBinomial(of[0], logits=of[1]).log_prob(torch.tensor(count)), of, by_hand)


def test_poisson_of_no_rate_still_pulls() -> None:
    log_rate = torch.tensor(-200.0, requires_grad=True)  # whose exp is 0 in float32
    value = Poisson(log_rate).log_prob(torch.tensor(3.0))
    value.backward()
    assert value.item() == pytest.approx(-600 - math.log(6))
    assert log_rate.grad == 3


@pytest.mark.parametrize("logit", [-4.0, 0.0, 2.0])
@pytest.mark.parametrize("count", [1e-3, 0.5, 7.0, 19.9, 20.1, 300.0])
def test_negative_binomial(count: float, logit: float) -> None:
    total_count, logits = torch.tensor(count, dtype=torch.float64), torch.tensor(logit, dtype=torch.float64)
    p, x = NegativeBinomial(total_count, logits=logits), torch.arange(4000.0, dtype=torch.float64)
    # scipy's p is the probability of what stops the count.
    theirs = scipy.stats.nbinom(count, 1 / (1 + math.exp(logit)))
    torch.testing.assert_close(p.log_prob(x), torch.from_numpy(theirs.logpmf(x.numpy())), atol=1e-9, rtol=1e-9)
    assert p.mean.item() == pytest.approx(theirs.mean())
    single = NegativeBinomial(total_count.float(), logits=logits.float())
    torch.testing.assert_close(single.log_prob(x[:300].float()).double(), p.log_prob(x[:300]), atol=2e-4, rtol=1e-5)


def test_negative_binomial_of_a_large_count_is_a_poisson() -> None:
    x, rate = torch.arange(30.0), 6.0
    for count in (1e7, 1e12):
        p = NegativeBinomial(torch.tensor(count), logits=torch.tensor(math.log(rate / count)))
        by_hand = Poisson(torch.tensor(math.log(rate))).log_prob(x)
        torch.testing.assert_close(p.log_prob(x), by_hand, atol=1e-4, rtol=1e-5)


def test_soft_floor() -> None:
    above = torch.linspace(-5, 40, 100)
    torch.testing.assert_close(soft_floor(above, -6.0), above, atol=1e-6, rtol=0)
    everywhere = torch.cat([torch.linspace(-1e6, 1e6, 1001), torch.linspace(-9, -3, 101)])
    torch.testing.assert_close(
        soft_floor(everywhere, -6.0).double(),
        torch.logaddexp(12 * everywhere.double(), torch.tensor(-72.0).double()) / 12,
        atol=1e-6,
        rtol=1e-6,
    )
    torch.testing.assert_close(soft_floor(above - 40, -math.inf), above - 40)
    least = torch.tensor([-math.inf, -1e30, -100.0], requires_grad=True)
    soft_floor(least, -6.0).sum().backward()
    torch.testing.assert_close(soft_floor(least, -6.0), torch.full((3,), -6.0))
    assert torch.isfinite(least.grad).all()


def test_logarithmic_above() -> None:
    below = torch.tensor([-math.inf, -1e30, -3.0, 0.0, 14.99, 15.0])
    assert torch.equal(logarithmic_above(below, 15.0), below)
    above = torch.tensor([15.0 + 1e-3, 16.0, 100.0, 1e30], requires_grad=True)
    value = logarithmic_above(above, 15.0)
    torch.testing.assert_close(value, 15 + (above - 15).log1p())
    value.sum().backward()
    torch.testing.assert_close(above.grad, 1 / (above.detach() - 14))


def mean_square_and_sum(x: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    mean_square = (x - loc).square().mean()
    return mean_square, -0.5 * (x - loc).numel() * (2 * math.pi * math.e * mean_square).log()


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
def test_optimal_normal_sums_to_the_closed_form(leading: tuple[int, ...]) -> None:
    loc, x = tensors(*leading, 2, 3).double().requires_grad_(), tensors(5, 2, 3, seed=8).double()
    seen: list[Tensor] = []
    log_prob = OptimalNormal(loc, torch.tensor(1.0), 2, seen=seen.append).log_prob(x)
    assert log_prob.shape == leading
    mean_square, closed = mean_square_and_sum(x, loc)
    torch.testing.assert_close(log_prob.sum(), closed)
    torch.testing.assert_close(seen, [mean_square.detach()])
    assert not seen[0].requires_grad
    # Each datum: a Gaussian of the one scale; and no other scale gives the batch more.
    torch.testing.assert_close(
        log_prob, torch.distributions.Normal(loc, mean_square.sqrt()).log_prob(x).flatten(-2).sum(-1)
    )
    for factor in (0.9, 1.1):
        other = torch.distributions.Normal(loc, factor * mean_square.sqrt()).log_prob(x).sum()
        assert other < log_prob.sum()
    (ours,), (theirs,) = torch.autograd.grad(log_prob.sum(), loc), torch.autograd.grad(closed, loc)
    torch.testing.assert_close(ours, theirs)


def test_optimal_normal_differentiates_through_its_scale() -> None:
    # Weighted data, as in an importance-weighted bound: there the scale's own gradient does not vanish.
    loc, x, weights = (
        tensors(4, 3).double().requires_grad_(),
        tensors(4, 3, seed=8).double(),
        torch.arange(4.0).double(),
    )

    def weighted(loc: Tensor) -> Tensor:
        return (OptimalNormal(loc, torch.tensor(1.0), 1).log_prob(x) * weights).sum()

    assert torch.autograd.gradcheck(weighted, loc)


def test_optimal_normal_in_plates() -> None:
    p, x = OptimalNormal(tensors(5, 2), torch.tensor(0.5), 1), tensors(5, 2, seed=4)
    wide = p.expand((3, 5))
    assert type(wide) is OptimalNormal
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x).expand(3, 5))
    assert wide.sample((2,)).shape == (2, 3, 5, 2)


def test_optimal_normal_without_an_error_stays_finite() -> None:
    loc = torch.zeros(4, 3, requires_grad=True)
    log_prob = OptimalNormal(loc, torch.tensor(1.0), 1).log_prob(torch.zeros(4, 3))
    torch.testing.assert_close(log_prob, torch.full((4,), 3 * (6 - 0.5 * math.log(2 * math.pi))))
    log_prob.sum().backward()
    assert loc.grad is not None
    assert torch.isfinite(loc.grad).all()
