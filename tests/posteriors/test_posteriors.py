"""Posteriors against their formulae; the laws of all are in test_posterior_laws.py."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pairs import binary, real
from registry import FAMILIES, POSTERIORS, encoder
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import (
    MLP,
    SGVB_A,
    SGVB_B,
    VAE,
    Bernoulli,
    ConvEncoder,
    DiagonalNormal,
    StandardNormal,
    posteriors,
    priors,
)
from pyro_vae.posteriors import FullNormal, LowRankNormal


def parts(posterior: DiagonalNormal, x: Tensor) -> tuple[Tensor, Tensor]:
    """loc and log variance, by hand."""
    output = posterior.network(x)
    return output[..., 0, :], output[..., 1, :]


@pytest.mark.parametrize("leading", [(5,), (2, 5), (3, 2, 5)])
@pytest.mark.parametrize("latent_dim", [1, 2, 3])  # one of two dimensions has a 2 on both sides
def test_diagonal_normal(latent_dim: int, leading: tuple[int, ...]) -> None:
    posterior = DiagonalNormal(MLP(6, (2, latent_dim), (4,)))
    x = 3 * real(6).expand(*leading, 6)
    q = posterior(x)
    loc, log_variance = parts(posterior, x)
    torch.testing.assert_close(q.base_dist.loc, loc)
    torch.testing.assert_close(q.base_dist.scale, log_variance.exp().sqrt())
    z = torch.randn(*leading, latent_dim)
    by_hand = -0.5 * (math.log(2 * math.pi) + log_variance + (z - loc) ** 2 / log_variance.exp()).sum(-1)
    torch.testing.assert_close(q.log_prob(z), by_hand)
    # Kingma & Welling (2013), appendix B.
    by_hand = -0.5 * (1 + log_variance - loc**2 - log_variance.exp()).sum(-1)
    torch.testing.assert_close(kl_divergence(q, StandardNormal(latent_dim)()), by_hand)


def test_images() -> None:
    x = real(1, 5, 7)
    assert DiagonalNormal(ConvEncoder((1, 5, 7), (2, 3)))(x).batch_shape == (5,)
    own = nn.Sequential(nn.Flatten(), nn.Linear(35, 6), nn.Unflatten(-1, (2, 3)))
    assert DiagonalNormal(own, event_dim=3)(x).batch_shape == (5,)
    with pytest.raises(ValueError, match=r"event_dim=1 here"):
        DiagonalNormal(own)(x)


def full(leading: tuple[int, ...] = (5,), dim: int = 3) -> tuple[Any, Tensor, Tensor]:
    """q, its loc and its covariance by hand."""
    posterior = FullNormal(MLP(6, FullNormal(nn.Identity()).network_shape((dim,)), (4,)))
    x = 3 * real(6).expand(*leading, 6)
    output = posterior.network(x)
    loc, log_variance, below = output.split([dim, dim, dim * (dim - 1) // 2], -1)
    unit = torch.eye(dim).repeat(*leading, 1, 1)
    at = 0
    for row in range(dim):
        for column in range(row):
            unit[..., row, column] = below[..., at] / dim
            at += 1
    factor = torch.diag_embed((log_variance / 2).exp()) @ unit
    return posterior(x), loc, factor @ factor.mT


def low_rank(leading: tuple[int, ...] = (5,), dim: int = 3) -> tuple[Any, Tensor, Tensor]:
    """q, its loc and its covariance by hand."""
    posterior = LowRankNormal(MLP(6, LowRankNormal(nn.Identity(), 2).network_shape((dim,)), (4,)), rank=2)
    x = 3 * real(6).expand(*leading, 6)
    loc, log_variance, *columns = posterior.network(x).unbind(-2)
    scale, factor = torch.diag_embed((log_variance / 2).exp()), torch.stack(columns, -1)
    return posterior(x), loc, scale @ (torch.eye(dim) + factor @ factor.mT) @ scale


CORRELATED = [full, low_rank]


def torch_normal(loc: Tensor, scale: Any = 1.0) -> Any:
    return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize("make", CORRELATED)
def test_correlated_normals(make: Any, dim: int, leading: tuple[int, ...]) -> None:
    """They are torch's of the covariance by hand; LowRankNormal and MultivariateNormal have laws of their own."""
    q, loc, covariance = make(leading, dim)
    p = torch.distributions.MultivariateNormal(loc, covariance)
    z = torch.randn(*leading, dim)
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.variance, covariance.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(q.entropy(), p.entropy(), rtol=1e-4, atol=1e-4)
    centered = q.expand((4000, *leading)).rsample() - loc
    scale = q.variance.sqrt()
    assert (centered.mean(0).abs() < 5 * scale / math.sqrt(4000)).all()
    error = 8 * scale[..., :, None] * scale[..., None, :] / math.sqrt(4000)
    assert ((torch.einsum("k...i,k...j->...ij", centered, centered) / 4000 - covariance).abs() < error).all()
    prior_loc, prior_scale = torch.randn(dim), torch.rand(dim) + 0.5
    kl = kl_divergence(q, dist.Normal(prior_loc, prior_scale).to_event(1).expand(leading))
    prior = torch.distributions.MultivariateNormal(prior_loc, scale_tril=prior_scale.diag())
    torch.testing.assert_close(kl, kl_divergence(p, prior), rtol=1e-4, atol=1e-4)
    # torch's own Normal is as good.
    torch.testing.assert_close(kl_divergence(q, torch_normal(prior_loc, prior_scale)), kl)


@pytest.mark.parametrize("make", CORRELATED)
def test_no_other_kl_is_given(make: Any) -> None:
    q, loc, covariance = make()
    independent, base = torch.distributions.Independent, torch.distributions
    for p in (
        independent(base.Laplace(torch.zeros(3), 1.0), 1),
        independent(base.Cauchy(torch.zeros(3), 1.0), 1),
        independent(base.Normal(torch.zeros(2, 3), 1.0), 2),
        torch_normal(torch.zeros(4)),
    ):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
    # torch's and Pyro's own classes stay as they were.
    with pytest.raises(NotImplementedError):
        kl_divergence(torch.distributions.MultivariateNormal(loc, covariance), torch_normal(torch.zeros(3)))
    with pytest.raises(NotImplementedError):
        kl_divergence(dist.MultivariateNormal(loc, covariance), torch_normal(torch.zeros(3)))


@pytest.mark.parametrize("log_variance", [-60.0, 0.0, 60.0])
def test_extreme_scales_stay_finite(log_variance: float) -> None:
    for posterior, below in (
        (FullNormal(nn.Identity()), torch.ones(3)),
        (LowRankNormal(nn.Identity(), 2, event_dim=2), None),
    ):
        loc, variances = torch.zeros(3), torch.tensor([log_variance, 0.0, -log_variance])
        if below is None:
            output = torch.stack([loc, variances, torch.ones(3), 5 * torch.ones(3)])
        else:
            output = torch.cat([loc, variances, 5 * below])
        output = output[None].requires_grad_()
        q = posterior(output)
        z = q.rsample()
        kl = kl_divergence(q, StandardNormal(3)())
        (gradient,) = torch.autograd.grad((q.log_prob(z) + kl).sum(), output)
        assert z.isfinite().all()
        assert gradient.isfinite().all()
        assert q.log_prob(z).isfinite().all()


def test_words_of_correlated_normals() -> None:
    with pytest.raises(ValueError, match=r"D \(D \+ 3\) / 2 numbers.*\[5, 7\]"):
        FullNormal(MLP(6, 7))(real(6))
    with pytest.raises(ValueError, match=r"event_dim=1 here"):
        FullNormal(MLP(6, (1, 9)))(real(6))
    with pytest.raises(ValueError, match=r"LowRankNormal has 4 parameters.*\[5, 3, 3\]"):
        LowRankNormal(MLP(6, (3, 3)), rank=2)(real(6))
    with pytest.raises(ValueError, match=r"rank has to be a whole number of at least 1; got 0"):
        LowRankNormal(MLP(6, (2, 3)), rank=0)
    for posterior in (FullNormal(nn.Identity()), LowRankNormal(nn.Identity(), 2)):
        with pytest.raises(ValueError, match=r"its latent is a vector, of shape \(D,\); got \(2, 3\)"):
            posterior.network_shape((2, 3))
    with pytest.raises(ValueError, match=r"its latent is a vector, of shape \(D,\); got \(2, 3\)"):
        LowRankNormal(MLP(6, (4, 2, 3)), rank=2)(real(6))


# Families


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_by_hand(name: str) -> None:
    posterior = POSTERIORS[name].posterior()
    q, output = posterior(real(6)), posterior.network(real(6))
    of_one = q if name == "Dirichlet" else q.base_dist
    for place, parameter in enumerate(of_one.arg_constraints):
        raw = output[:, place]
        least = {("Weibull", "concentration"): 0.3, ("StudentT", "df"): 1.0}.get((name, parameter), 0.0)
        shift = math.log(math.e**2 - 1) if parameter == "df" else 0.0
        by_hand = raw if parameter == "loc" else least + nn.functional.softplus(raw + shift)
        torch.testing.assert_close(getattr(of_one, parameter), by_hand)
    z = q.sample()
    by_pyro = getattr(dist, name)(*(getattr(of_one, parameter) for parameter in of_one.arg_constraints)).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), by_pyro if name == "Dirichlet" else by_pyro.sum(-1), rtol=1e-4, atol=1e-4)


def test_student_starts_at_the_df_of_the_prior() -> None:
    outputs = torch.tensor([-50.0, -3.0, 0.0, 50.0]).reshape(-1, 1, 1, 1).expand(4, 5, 3, 2)
    q = posteriors.StudentT(nn.Identity(), event_dim=2)(outputs)
    torch.testing.assert_close(q.base_dist.df[2, 0], priors.StudentT(2)().base_dist.df)
    assert q.mean.isfinite().all()


def test_student_of_given_df() -> None:
    posterior = encoder(posteriors.StudentT, df=4.5)
    q, (loc, raw) = posterior(real(6)), posterior.network(real(6)).unbind(1)
    z = q.sample()
    by_scipy = scipy.stats.t(4.5, loc.detach(), nn.functional.softplus(raw).detach()).logpdf(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.as_tensor(by_scipy).float())
    with pytest.raises(ValueError, match=r"StudentT has 2 parameters"):
        posteriors.StudentT(MLP(6, (3, 3)), df=4.5)(real(6))
    for df in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="df has to be a finite number above 0; got"):
            posteriors.StudentT(nn.Identity(), df=df)


def test_uniform_is_a_part_of_the_prior() -> None:
    x = 50 * real(6, size=1000)
    posterior = encoder(posteriors.families.Uniform, low=-1.0, high=3.0)
    q = posterior(x)
    place, width = posterior.network(x).sigmoid().unbind(1)
    low, high = q.base_dist.low, q.base_dist.high
    assert (low >= -1).all()
    assert (high <= 3).all()
    torch.testing.assert_close((high - low) / 4, width.clamp(min=1e-4), rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(low, -1 + 4 * (1 - width) * place, rtol=1e-3, atol=1e-3)
    kl = kl_divergence(q, priors.Uniform(3, -1.0, 3.0)())
    torch.testing.assert_close(kl, -((high - low) / 4).log().sum(-1))


def test_bounds_that_cannot_be() -> None:
    for low, high in ((1.0, 0.0), (0.0, 0.0), (0.0, math.inf), (math.nan, 1.0)):
        for make in (lambda *b: posteriors.families.Uniform(nn.Identity(), None, *b), lambda *b: priors.Uniform(3, *b)):
            with pytest.raises(ValueError, match=r"the bounds of a Uniform .* low below high; got"):
                make(low, high)


class Fixed(nn.Module):
    """The same parameters for every datum: ``[..., P, 2]`` of the numbers whose softplus they are."""

    def __init__(self, *parameters: float) -> None:
        super().__init__()
        raw = torch.tensor(parameters).expm1().log()
        self.output = nn.Parameter(raw.unsqueeze(-1).expand(-1, 2).clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(*x.shape[:-1], *self.output.shape)


@pytest.mark.parametrize(
    ("posterior", "of_q", "prior"),
    [
        (posteriors.Gamma, (0.02, 1.0), lambda: priors.Gamma(2, 0.5)),
        (posteriors.Beta, (0.02, 0.03), lambda: priors.SparseBeta(2)),
        (posteriors.Dirichlet, (0.02,), lambda: priors.Dirichlet(2, 0.5)),
    ],
)
def test_a_sampled_bound_is_that_of_the_closed_form(posterior: Any, of_q: Any, prior: Any) -> None:
    """Where a fifth of the draws round to the edge of the support: the value, and each way to differentiate it."""
    network = Fixed(*of_q)
    decoder = nn.Linear(2, 3)
    nn.init.zeros_(decoder.weight)
    pair, x = VAE(prior(), posterior(network, event_dim=1), Bernoulli(decoder)), binary(3, size=500)

    def slope(estimator: Any) -> Tensor:
        torch.manual_seed(4)
        loss = estimator.differentiable_loss(pair.model, pair.guide, x)
        return torch.autograd.grad(loss, network.output)[0].sum(-1) / len(x)

    exact, exact_slope = SGVB_B().bound(pair, x).mean().item(), slope(SGVB_B())
    for options in ({}, {"sticking_the_landing": True}):
        estimator = SGVB_A(200, **options)
        torch.manual_seed(3)
        bound = estimator.bound(pair, x)
        assert bound.mean().item() == pytest.approx(exact, abs=4.5 * bound.std().item() / 500**0.5)
        torch.testing.assert_close(slope(estimator), exact_slope, rtol=0.02, atol=0.02)
