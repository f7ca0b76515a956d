"""Families with a reparameterized sampler: what their laws do not say (test_distribution_laws.py)."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch.distributions import constraints

from pyro_vae.distributions import families


@pytest.mark.parametrize("concentration", [0.05, 0.3, 5.0])
def test_draws_of_other_concentrations(concentration: float) -> None:
    # At 0.05 a third of torch's own Gamma draws in float32 would be cut off or crowded near 0.
    c = torch.tensor(concentration)
    u = scipy.stats.gamma(concentration).cdf(families.Gamma(c, torch.ones(())).sample((20_000,)).double().numpy())
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    z = families.Beta(c.double(), torch.tensor(1.0).double()).sample((20_000,))
    assert scipy.stats.kstest(z.numpy(), scipy.stats.beta(concentration, 1.0).cdf).pvalue > 1e-3


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
