"""Likelihoods against their formulae."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pairs import binary, real
from torch import Tensor, nn

from pyro_vae import MLP, Bernoulli, Gaussian

LATENT, EVENTS = 2, [(6,), (1, 2, 3)]


class Constant(nn.Module):
    """A network that gives the same output for each latent."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        return self.output.expand(*z.shape[:-1], *self.output.shape)


def summed(log_prob: Tensor, event: tuple[int, ...]) -> Tensor:
    return log_prob.flatten(-len(event)).sum(-1)


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", EVENTS)
def test_bernoulli(event: tuple[int, ...], leading: tuple[int, ...]) -> None:
    likelihood = Bernoulli(MLP(LATENT, event, (4,)))
    z, x = torch.randn(*leading, LATENT), binary(*event)
    p = likelihood(z)
    assert p.batch_shape == leading
    assert p.event_shape == event
    m = likelihood.network(z).sigmoid()
    torch.testing.assert_close(p.log_prob(x), summed(x * m.log() + (1 - x) * (1 - m).log(), event))
    assert set(p.sample().unique().tolist()) <= {0.0, 1.0}


def test_grey_pixels_only_on_purpose() -> None:
    network, z = MLP(LATENT, 6, (4,)), torch.randn(5, LATENT)
    grey = torch.rand(5, 6)
    binary_p, grey_p = Bernoulli(network)(z), Bernoulli(network, support="unit_interval")(z)
    assert not binary_p.support.check(grey).any()
    assert grey_p.support.check(grey).all()
    assert not grey_p.support.check(grey + 1).any()
    m = network(z).sigmoid()
    by_hand = (grey * m.log() + (1 - grey) * (1 - m).log()).sum(-1)
    torch.testing.assert_close(grey_p.log_prob(grey), by_hand)
    # What Pyro does to a distribution keeps the relaxed support.
    assert grey_p.expand((3, 5)).support.check(grey).all()
    with pytest.raises(ValueError, match=r"'binary' or 'unit_interval'; got 'grey'"):
        Bernoulli(network, support="grey")


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_extreme_logits_stay_finite(logit: float) -> None:
    output = torch.full((6,), logit, requires_grad=True)
    p = Bernoulli(Constant(output))(torch.zeros(5, LATENT))
    x = torch.ones(5, 6) if logit < 0 else torch.zeros(5, 6)
    torch.testing.assert_close(p.log_prob(x), torch.full((5,), -6 * 80.0))
    torch.testing.assert_close(p.log_prob(1 - x), torch.full((5,), 0.0))
    p.log_prob(x).sum().backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().max() > 1  # the wrong side of a steep sigmoid still pulls


def normal(x: Tensor, loc: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - loc) ** 2 / log_variance.exp())


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_gaussian(scale: float | None, sigmoid_mean: bool, event: Any, leading: Any) -> None:
    likelihood = Gaussian(MLP(LATENT, event if scale else (2, *event), (4,)), scale, sigmoid_mean)
    z, x = torch.randn(*leading, LATENT), real(*event)
    p = likelihood(z)
    assert p.batch_shape == leading
    assert p.event_shape == event
    output = likelihood.network(z)
    if scale is None:
        loc, log_variance = output.unbind(len(leading))
    else:
        loc, log_variance = output, torch.full_like(output, 2 * math.log(scale))
    loc = loc.sigmoid() if sigmoid_mean else loc
    torch.testing.assert_close(p.log_prob(x), summed(normal(x, loc, log_variance), event))


def test_gaussian_of_known_scale_may_have_two_channels() -> None:
    # A first event dimension of size 2 is no pair of parameters there.
    assert Gaussian(MLP(LATENT, (2, 3), (4,)), 1.0)(torch.zeros(5, LATENT)).event_shape == (2, 3)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_gaussian_needs_a_positive_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="has to be positive, or None to learn it"):
        Gaussian(MLP(LATENT, 6), scale)


def test_gaussian_that_learns_its_scale_needs_two_parameters() -> None:
    with pytest.raises(ValueError, match=r"scale=None.*\[5, 6\]"):
        Gaussian(MLP(LATENT, 6), scale=None)(torch.zeros(5, LATENT))


@pytest.mark.parametrize(
    "likelihood", [Bernoulli(MLP(LATENT, 6)), Gaussian(MLP(LATENT, 6)), Gaussian(MLP(LATENT, (2, 6)), scale=None)]
)
def test_bfloat16_networks_give_float32_log_probabilities(likelihood: nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        p = likelihood(torch.randn(5, LATENT))
        assert p.log_prob(binary(6)).dtype == torch.float32
        assert p.base_dist.mean.dtype == torch.float32
