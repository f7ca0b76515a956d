"""Posteriors against their formulae."""

from __future__ import annotations

import math

import pytest
import torch
from pairs import real
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import MLP, ConvEncoder, DiagonalNormal, StandardNormal


def parts(posterior: DiagonalNormal, x: Tensor) -> tuple[Tensor, Tensor]:
    """loc and log variance, by hand."""
    output = posterior.network(x)
    return output[..., 0, :], output[..., 1, :]


@pytest.mark.parametrize("leading", [(5,), (2, 5), (3, 2, 5)])
def test_diagonal_normal(leading: tuple[int, ...]) -> None:
    posterior = DiagonalNormal(MLP(6, (2, 3), (4,)))
    x = real(6).expand(*leading, 6)
    q = posterior(x)
    assert q.batch_shape == leading
    assert q.event_shape == (3,)
    assert q.has_rsample
    loc, log_variance = parts(posterior, x)
    z = torch.randn(*leading, 3)
    by_hand = -0.5 * (math.log(2 * math.pi) + log_variance + (z - loc) ** 2 / log_variance.exp()).sum(-1)
    torch.testing.assert_close(q.log_prob(z), by_hand)


def test_kl_from_the_standard_normal() -> None:
    # Kingma & Welling (2013), appendix B.
    posterior = DiagonalNormal(MLP(6, (2, 3), (4,)))
    x = 3 * real(6)
    loc, log_variance = parts(posterior, x)
    by_hand = -0.5 * (1 + log_variance - loc**2 - log_variance.exp()).sum(-1)
    torch.testing.assert_close(kl_divergence(posterior(x), StandardNormal(3)()), by_hand)


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_the_stacked_dimension_is_the_right_one(latent_dim: int) -> None:
    # A latent of two dimensions has a 2 on both sides.
    posterior = DiagonalNormal(MLP(6, (2, latent_dim), (4,)))
    q = posterior(real(6, size=2))
    loc, log_variance = parts(posterior, real(6, size=2))
    torch.testing.assert_close(q.base_dist.loc, loc)
    torch.testing.assert_close(q.base_dist.scale, log_variance.exp().sqrt())


def test_images() -> None:
    x = real(1, 5, 7)
    assert DiagonalNormal(ConvEncoder((1, 5, 7), (2, 3)))(x).batch_shape == (5,)
    own = nn.Sequential(nn.Flatten(), nn.Linear(35, 6), nn.Unflatten(-1, (2, 3)))
    assert DiagonalNormal(own, event_dim=3)(x).batch_shape == (5,)
    with pytest.raises(ValueError, match=r"event_dim=1 here"):
        DiagonalNormal(own)(x)


def test_network_without_two_parameters() -> None:
    with pytest.raises(ValueError, match=r"DiagonalNormal has 2 parameters.*\[5, 3\]"):
        DiagonalNormal(MLP(6, 3))(real(6))


def test_bfloat16_networks_give_float32_distributions() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        q = DiagonalNormal(MLP(6, (2, 3), (4,)))(real(6))
        z = q.rsample()
    assert z.dtype == torch.float32
    assert q.log_prob(z).dtype == torch.float32
