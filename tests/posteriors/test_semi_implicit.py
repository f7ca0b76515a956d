"""Semi-implicit posteriors: their weights are unbiased for p(x), whatever the network and K."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pairs import real
from torch import Tensor, nn
from torch.distributions import Normal

from pyro_vae import IWAE, MLP, SGVB_A, SGVB_B, VAE, DiagonalNormal, DReG, StandardNormal, check, evidence, fit
from pyro_vae.posteriors import SemiImplicitNormal
from pyro_vae.posteriors.semi_implicit import SemiImplicit


def posterior(num_mixtures: int = 3, latent: int = 1, width: int = 1, **options: Any) -> SemiImplicitNormal:
    head = MLP(4 + 2, (2, latent), (8,))
    return SemiImplicitNormal(MLP(width, 4, (8,)), head, noise_dim=2, num_mixtures=num_mixtures, **options)


class Spread(nn.Module):
    """z | noise ~ N(0.6 x + 0.8 noise_1, 0.6^2), so that q(z | x) = N(0.6 x, 1)."""

    in_shape, out_shape = (3,), (2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        loc = 0.6 * inputs[..., :1] + 0.8 * inputs[..., 1:2]
        return torch.stack([loc, torch.full_like(loc, math.log(0.36))], -2)


def spread(num_mixtures: int) -> SemiImplicitNormal:
    return SemiImplicitNormal(nn.Identity(), Spread(), noise_dim=2, num_mixtures=num_mixtures)


class LinearGaussian(nn.Module):
    """x ~ N(z, 0.5^2), so that p(x) = N(0, 1.25) with z ~ N(0, 1)."""

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(z, 0.5).to_event(1)


class Squared(nn.Module):
    """x ~ N(z^2, 0.5^2): two modes of z for a positive x."""

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(z**2, 0.5).to_event(1)


@pytest.mark.parametrize("num_mixtures", [0, 1, 10])
def test_weights_are_unbiased_for_the_evidence(num_mixtures: int) -> None:
    vae = VAE(StandardNormal(1), spread(num_mixtures), LinearGaussian())
    x = torch.tensor([[0.3], [-0.8], [1.5]])
    weights = SGVB_A(40000).log_weights(vae, x).exp().detach()
    exact = Normal(0.0, math.sqrt(1.25)).log_prob(x[:, 0]).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert (error < 0.05 * exact).all()
    assert ((weights.mean(0) - exact).abs() < 4.5 * error).all()


def test_the_bound_rises_with_the_mixtures() -> None:
    x = torch.tensor([[0.3], [-0.8], [1.5]])
    q = spread(0)
    vae = VAE(StandardNormal(1), q, LinearGaussian())
    bounds = []
    for num_mixtures in (0, 1, 4, 40):
        q.num_mixtures = num_mixtures
        bounds.append(SGVB_A(20000).log_weights(vae, x).mean().item())
    exact = Normal(0.0, math.sqrt(1.25)).log_prob(x[:, 0]).mean().item()
    # With all noises, it is the bound of N(0.6 x, 1): 0.5 log(2 pi e) + E[log p(x, z)].
    quadratic = (0.6 * x).square() + 1 + ((0.4 * x).square() + 1) / 0.25
    limit = (0.5 - math.log(0.5) - 0.5 * math.log(2 * math.pi) - quadratic.mean() / 2).item()
    assert all(later > earlier + 0.005 for earlier, later in itertools.pairwise(bounds))
    assert bounds[-1] == pytest.approx(limit, abs=0.1)
    assert IWAE(500).bound(vae, x).mean().item() == pytest.approx(exact, abs=0.05)


def test_importance_sampling_finds_the_evidence() -> None:
    vae = VAE(StandardNormal(1), spread(5), LinearGaussian())
    x = torch.tensor([[0.3], [-0.8], [1.5]])
    found = evidence.importance(vae, x, num_samples=5000).log_prob
    torch.testing.assert_close(found, Normal(0.0, math.sqrt(1.25)).log_prob(x[:, 0]), atol=0.05, rtol=0)


def test_log_prob_is_the_mean_over_the_noises() -> None:
    q = posterior(3, latent=2, width=6)(real(6))
    z = q.rsample()
    assert q._drawn is not None
    noise = q._drawn[1]
    assert noise.shape == (4, 5, 2)
    by_hand = torch.stack([Normal(*q.conditional(q.features, each)).log_prob(z).sum(-1) for each in noise])
    torch.testing.assert_close(q.log_prob(z), by_hand.logsumexp(0) - math.log(4))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z), rtol=0, atol=0)


def test_the_draw_comes_from_the_first_noise() -> None:
    q = posterior(2)(real(1, size=1).expand(20000, 1))
    z = q.rsample()
    assert q._drawn is not None
    loc, scale = q.conditional(q.features, q._drawn[1][0])
    standard = ((z - loc) / scale).detach()
    assert abs(standard.mean()) < 4.5 / math.sqrt(20000)
    assert abs(standard.square().mean() - 1) < 4.5 * math.sqrt(2 / 20000)


def test_other_values_are_not_scored() -> None:
    q = posterior()(real(1))
    first = q.rsample()
    with pytest.raises(NotImplementedError, match="its own last draw only"):
        q.log_prob(first.clone())
    q.rsample()
    with pytest.raises(NotImplementedError, match="its own last draw only"):
        q.log_prob(first)
    with pytest.raises(NotImplementedError):
        posterior()(real(1)).log_prob(first)
    vae = VAE(StandardNormal(1), posterior(), LinearGaussian())
    for estimator in (SGVB_A(sticking_the_landing=True), DReG(2)):
        with pytest.raises(ValueError, match=r"scores draws anew, which q\(z\), a SemiImplicit, cannot do"):
            estimator.bound(vae, real(1))


def test_a_draw_without_a_graph_is_scored_with_one() -> None:
    q = posterior()(real(1))
    z = q.sample()
    with torch.no_grad():
        before = q.log_prob(z)
    assert q.log_prob(z).requires_grad
    torch.testing.assert_close(q.log_prob(z), before)


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("latent", [(3,), (2, 3)])
def test_shapes(latent: tuple[int, ...], leading: tuple[int, ...]) -> None:
    q_of = SemiImplicitNormal(MLP(6, 4), MLP(4 + 2, (2, *latent)), noise_dim=2, num_mixtures=1)
    q = q_of(real(6).expand(*leading, 6))
    assert q.batch_shape == leading
    assert q.event_shape == latent
    particles = q.expand((7, *leading))
    assert type(particles) is SemiImplicit
    z = particles.rsample()
    assert z.shape == (7, *leading, *latent)
    assert (z[0] != z[1]).all()
    assert particles.log_prob(z).shape == (7, *leading)
    assert particles.support.check(z).all()
    z = q.rsample((3,))
    assert q.log_prob(z).shape == (3, *leading)


def test_two_modes_are_found() -> None:
    x = torch.full((32, 1), 1.5)
    head = MLP(1 + 1, (2, 1), (8,), nn.Tanh)
    with torch.no_grad():  # a start whose noise reaches both modes
        head.layers[0].weight[:, 1] = 20.0
        head.layers[0].bias.zero_()
        head.layers[-1].weight[0] = 0.15
        head.layers[-1].bias.copy_(torch.tensor([0.0, -2.0]))
    semi_implicit = SemiImplicitNormal(nn.Identity(), head, noise_dim=1, num_mixtures=10)
    bounds = {}
    for q in (DiagonalNormal(MLP(1, (2, 1), (16,))), semi_implicit):
        vae = VAE(StandardNormal(1), q, Squared())
        optimizer = torch.optim.Adam(vae.parameters(), 0.01)
        start = SGVB_A(200).bound(vae, x).mean().item()
        for _ in range(150):
            optimizer.zero_grad()
            SGVB_A().objective(vae.model, vae.guide, x).loss.backward()
            optimizer.step()
        bounds[type(q).__name__] = SGVB_A(200).bound(vae, x).mean().item()
        assert bounds[type(q).__name__] > start + 0.2
    z = torch.linspace(-6, 6, 20001, dtype=torch.double)
    joint = Normal(0.0, 1.0).log_prob(z) + Normal(z**2, 0.5).log_prob(torch.tensor(1.5))
    exact = joint.logsumexp(0).item() + math.log(12 / 20000)
    assert bounds["DiagonalNormal"] < exact - 0.6  # one of two modes: log 2
    assert exact - 0.25 < bounds["SemiImplicitNormal"] < exact


def test_a_pair_trains_traced() -> None:
    x = real(6, size=16)
    for estimator in (SGVB_A(), SGVB_B(2), IWAE(3)):
        vae = VAE(StandardNormal(2), posterior(2, latent=2, width=6), _decoder())
        assert not check(vae, x).sites[0].analytic_kl
        if isinstance(estimator, SGVB_B):
            with pytest.warns(UserWarning, match="no closed-form KL is registered for z"):
                fit(vae, x, estimator=estimator, epochs=1, batch_size=8, compile="traced", progress=False)
        else:
            fit(vae, x, estimator=estimator, epochs=1, batch_size=8, compile="traced", progress=False)


def _decoder() -> nn.Module:
    from pyro_vae import Gaussian

    return Gaussian(MLP(2, 6, (8,)), 1.0, sigmoid_mean=False)


def test_bfloat16_networks_give_float32_distributions() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior()(real(1))
        z = q.rsample()
        assert z.dtype == q.log_prob(z).dtype == torch.float32


def test_errors() -> None:
    network, head = MLP(6, 4), MLP(6, (2, 3))
    assert SemiImplicitNormal(network, head, 2).network_shape((3,)) == (4,)
    assert SemiImplicitNormal(network, head, 2).head_shape((3,)) == (2, 3)
    with pytest.raises(ValueError, match=r"noise_dim has to be a whole number of at least 1; got 0"):
        SemiImplicitNormal(network, head, 0)
    with pytest.raises(ValueError, match=r"num_mixtures has to be a whole number of at least 0; got -1"):
        SemiImplicitNormal(network, head, 2, -1)
    with pytest.raises(ValueError, match=r"out_shape=\(3,\)"):
        SemiImplicitNormal(network, MLP(6, 3), 2)
    with pytest.raises(ValueError, match="give latent_shape"):
        SemiImplicitNormal(network, nn.Linear(6, 6), 2)
    with pytest.raises(ValueError, match=r"a vector for each datum.*\[5, 4, 1\]"):
        SemiImplicitNormal(MLP(6, (4, 1)), head, 2)(real(6))
    own = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(-1, (2, 3)))
    assert SemiImplicitNormal(network, own, 2, latent_shape=3)(real(6)).sample().shape == (5, 3)
