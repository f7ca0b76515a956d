"""Stratified draws of a mixture of experts; its density and single draws are held to the laws of distributions."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions import MixtureOfExperts

WEIGHTS = torch.tensor([0.3, 0.0, 0.7], dtype=torch.float64)


def mixture(stratified: bool = True) -> tuple[MixtureOfExperts, torch.Tensor]:
    """Of experts that do not overlap, so that a draw tells which it is of."""
    loc = torch.tensor([-20.0, 0.0, 20.0], dtype=torch.float64).requires_grad_()
    experts = [dist.Normal(loc[m].expand(4, 1), 1.0).to_event(1) for m in range(3)]
    return MixtureOfExperts(experts, WEIGHTS.expand(4, 3), stratified), loc


@pytest.mark.parametrize("wide", ["expanded", "sample_shape"])
def test_each_expert_gives_its_share(wide: str) -> None:
    """Of 10 draws 3 and 7, for each datum; each draw by itself is of an expert by its weight."""
    q, _ = mixture()
    counts = torch.zeros(10, dtype=torch.float64)
    for seed in range(300):
        torch.manual_seed(seed)
        z = (q.expand([10, 4]).rsample() if wide == "expanded" else q.rsample((10,))).squeeze(-1)
        assert ((z < 0).sum(0) == 3).all()
        assert (z.abs() > 10).all()
        counts += (z < 0).double().mean(1)
    assert ((counts / 300 - 0.3).abs() < 5 * (0.3 * 0.7 / 1200) ** 0.5).all()
    torch.manual_seed(0)
    assert (mixture(False)[0].rsample((10,)) < 0).sum(0).unique().numel() > 1


def test_means_and_gradients_are_unbiased() -> None:
    """Of 3 draws, of which no expert has a whole share."""
    q, loc = mixture()
    torch.manual_seed(0)
    z = torch.stack([q.expand([3, 4]).rsample() for _ in range(4000)])
    value = (z / 30).tanh()
    at = dist.Normal(loc.detach(), 1.0).sample((400_000,))
    expected = (WEIGHTS * (at / 30).tanh().mean(0)).sum()
    means = value.mean((1, 2, 3))
    assert (means.mean() - expected).abs() < 5 * means.std() / 4000**0.5
    (slope,) = torch.autograd.grad(value.mean(), loc)
    expected = WEIGHTS * ((1 - (at / 30).tanh().square()) / 30).mean(0)
    assert (slope - expected).abs().max() < 2e-4


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.3, 0.3], [1.5, -0.5]])
def test_weights_are_shares(weights: list[float]) -> None:
    """Others make no density: with weights of 1 each it would integrate to 2."""
    with pytest.raises(ValueError, match="sum to 1"):
        MixtureOfExperts([dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)], torch.tensor(weights))
