"""Families with a reparameterized sampler: what their laws do not say (test_distribution_laws.py)."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from pyro_vae.distributions import families


@pytest.mark.parametrize("concentration", [0.05, 0.3, 5.0])
def test_draws_of_other_concentrations(concentration: float) -> None:
    # At 0.05 a third of torch's own Gamma draws in float32 would be cut off or crowded near 0.
    c = torch.tensor(concentration)
    u = scipy.stats.gamma(concentration).cdf(families.Gamma(c, torch.ones(())).sample((20_000,)).double().numpy())
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    z = families.Beta(c.double(), torch.tensor(1.0).double()).sample((20_000,))
    assert scipy.stats.kstest(z.numpy(), scipy.stats.beta(concentration, 1.0).cdf).pvalue > 1e-3


def _kumaraswamy_to_uniform(q: families.Kumaraswamy, _: Any) -> Tensor:
    a, b = q.concentration1, q.concentration0
    harmonic = torch.digamma(b + 1) + 0.57721566490153286
    return (a * b).log() - (1 - 1 / b) - (1 - 1 / a) * harmonic  # the entropy is Jones's (2009)


def _student(q: families.StudentT, p: families.StudentT) -> Tensor:
    u = torch.linspace(-60, 400, 200_001, dtype=torch.float64)
    total = torch.zeros(())
    for sign in (1, -1):
        z = q.loc + sign * u.exp()
        total = total + torch.trapezoid(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)) * u.exp(), u)
    return total


# (family, parameters of q, of p, and the exact divergence where torch has no closed form)
BEYOND_FLOAT32: list[Any] = [
    (families.Gamma, ([0.02], [1.0]), ([1.0], [1.0]), kl_divergence),
    (families.Gamma, ([0.02, 0.05], [1.0, 3.0]), ([0.3, 2.0], [2.0, 1.0]), kl_divergence),
    (families.Beta, ([0.02, 3.0], [0.03, 0.05]), ([0.3, 0.5], [0.3, 2.0]), kl_divergence),
    (families.Dirichlet, ([0.02, 0.05, 1.0],), ([0.5, 0.5, 0.5],), kl_divergence),
    (families.Weibull, ([1.0], [0.02]), ([2.0], [0.03]), kl_divergence),
    (families.LogNormal, ([-90.0, 60.0], [10.0, 5.0]), ([-70.0, 50.0], [20.0, 5.0]), kl_divergence),
    (families.Exponential, ([1e-25, 1e25],), ([1e-24, 1e24],), kl_divergence),
    (families.Kumaraswamy, ([0.5] * 10, [0.2] * 10), ([1.0] * 10, [1.0] * 10), _kumaraswamy_to_uniform),
    (families.Kumaraswamy, ([0.02], [0.02]), ([1.0], [1.0]), _kumaraswamy_to_uniform),
    (families.StudentT, ([0.05], [1.0], [2.0]), ([0.1], [0.0], [1.0]), _student),
]


@pytest.mark.parametrize(("family", "of_q", "of_p", "exact"), BEYOND_FLOAT32)
def test_a_sampled_divergence_counts_what_lies_beyond_float32(family: Any, of_q: Any, of_p: Any, exact: Any) -> None:
    """Draws that round to the edge of the support are scored at where they were; value and gradients."""
    torch.manual_seed(3)
    given = [torch.tensor(value, requires_grad=True) for value in of_q]
    q, p = family(*given), family(*map(torch.tensor, of_p))
    z = q.rsample((200_000,))
    log_ratio = (q.log_prob(z) - p.log_prob(z)).double()
    double = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in of_q]
    kl = exact(family(*double), family(*(torch.tensor(value, dtype=torch.float64) for value in of_p)))
    error = log_ratio.std(0) / math.sqrt(len(z))
    assert ((log_ratio.mean(0) - kl).abs() <= 4.5 * error + 1e-5 * kl.abs()).all(), (log_ratio.mean(0), kl)
    if exact is not _student:
        found, expected = (
            torch.autograd.grad(value.sum(), of) for value, of in ((log_ratio.mean(0), given), (kl, double))
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0.03, atol=0.02)


def test_a_part_of_a_draw_is_scored_as_in_the_whole() -> None:
    """Also where it is seen through a view, without a gradient, or by the prior; what was changed is scored anew."""
    q, p = families.Beta(torch.tensor(0.02), torch.tensor(0.02)), families.Beta(torch.tensor(0.5), torch.tensor(0.3))
    z = q.rsample((50, 7))
    for fn in (q, p):
        whole = fn.log_prob(z)
        assert torch.equal(fn.log_prob(z[3:9, 2]), whole[3:9, 2])
        assert torch.equal(fn.log_prob(z.detach().T.unsqueeze(0))[0].T, whole)
        assert not torch.equal(fn.log_prob(z.clone()), whole)
    z.mul_(0.5)
    assert torch.equal(q.log_prob(z), q.log_prob(z.clone()))


LARGE = [
    (families.Gamma, (1e6, 2.0), lambda c, r: scipy.stats.gamma(c, 0, 1 / r)),
    (families.Beta, (1e6, 3e5), scipy.stats.beta),
]


@pytest.mark.parametrize(("family", "of", "reference"), LARGE)
def test_large_concentrations_in_float32(family: Any, of: Any, reference: Any) -> None:
    """The terms of a log-density, and of a KL, cancel to the last digits of float32."""
    p = family(*map(torch.tensor, of))
    z = p.sample((1000,)).clone()
    theirs = torch.as_tensor(reference(*of).logpdf(z.double().numpy()))
    torch.testing.assert_close(p.log_prob(z).double(), theirs, rtol=1e-6, atol=1e-5)
    assert abs(p.log_prob(p.sample((100_000,))).mean() + reference(*of).entropy()) < 4.5 * 0.71 / math.sqrt(100_000)
    other = [1.001 * value for value in of]
    in_double = kl_divergence(*(family(*(torch.tensor(x).double() for x in values)) for values in (of, other)))
    for against in (family, getattr(dist, family.__name__)):  # the library's, and Pyro's own
        kl = kl_divergence(p, against(*map(torch.tensor, other)))
        assert kl.item() == pytest.approx(in_double.item(), rel=1e-4)


@pytest.mark.parametrize("df", [0.01, 0.5, 1.5, 4.0, 30.0, 59.0, 61.0, 1e3, 1e5, 1e8])
def test_student_of_any_df_in_float32(df: float) -> None:
    z, one = torch.tensor([-3e3, -3.0, 0.0, 0.5, 6.0, 1e3]), torch.ones(())
    by_scipy = torch.as_tensor(scipy.stats.t(df).logpdf(z)).float()
    if df > 1e6:  # scipy's own has no digits left far out
        z, by_scipy = z[1:-1], by_scipy[1:-1]
    torch.testing.assert_close(families.StudentT(df * one, 0 * one, one).log_prob(z), by_scipy, rtol=1e-5, atol=1e-5)


def test_uniform_draws_are_inside_a_narrow_interval() -> None:
    low = torch.tensor([1.0, -1.0, 0.0])
    p = families.Uniform(low, torch.tensor([1.0 + 4e-7, -1.0 + 4e-7, 1.0]))
    z = p.sample((100_000,))
    assert (z > p.low).all()
    assert (z < p.high).all()
    assert p.log_prob(z).isfinite().all()


def test_positive_parameters_come_back() -> None:
    positive = families.Gamma.arg_constraints["rate"]
    for value in [1e-5, 0.3, 1.0, 30.0, 1e4]:
        parameter = torch.tensor(value)
        raw = families.unconstrained(positive, parameter)
        torch.testing.assert_close(families.constrained(positive, raw), parameter, rtol=1e-4, atol=0)
    assert families.constrained(positive, torch.tensor(-math.inf)) > 0
    with pytest.raises(TypeError, match="real or positive"):
        families.constrained(constraints.unit_interval, torch.zeros(()))


def test_other_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="seed that"):
        families.Gamma(torch.ones(()), torch.ones(())).rsample(generator=torch.Generator())


@pytest.mark.parametrize("family", [families.Laplace, families.Cauchy, families.Logistic])
def test_truth_values_are_scored_as_numbers(family: Any) -> None:
    law, value = family(torch.zeros(2), torch.ones(2)), torch.tensor([True, False])
    assert torch.equal(law.log_prob(value), law.log_prob(value.float()))
