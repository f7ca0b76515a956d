"""Correlated Gaussians: what their laws do not say (test_distribution_laws.py)."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.distributions import LowRankNormal


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_low_rank_of_a_large_factor_in_float32(size: float) -> None:
    """Columns that are nearly the same, beside which the rest of the covariance is small."""
    torch.manual_seed(2)
    column = size * torch.randn(6, 1)
    of = torch.randn(6), torch.rand(6) + 0.1, torch.cat([column, column + torch.randn(6, 1)], -1)
    p, double = LowRankNormal(*of), LowRankNormal(*(value.double() for value in of))
    z = p.rsample((1000,))
    torch.testing.assert_close(p.log_prob(z).double(), double.log_prob(z.double()), rtol=1e-6, atol=1e-5)
    assert p.entropy().item() == pytest.approx(double.entropy().item(), rel=1e-6)
