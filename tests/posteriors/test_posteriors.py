"""Posteriors against their formulae."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro
import pytest
import torch
from pairs import real
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import MLP, SGVB_A, SGVB_B, VAE, ConvEncoder, DiagonalNormal, Gaussian, StandardNormal, check, fit
from pyro_vae.posteriors import Flow, FullNormal, LowRankNormal, PowerSpherical, VonMisesFisher
from pyro_vae.priors.sphere import SphereUniform
from pyro_vae.transforms.planar import Planar


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


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize("make", CORRELATED)
def test_correlated_normals(make: Any, dim: int, leading: tuple[int, ...]) -> None:
    q, loc, covariance = make(leading, dim)
    assert q.batch_shape == leading
    assert q.event_shape == (dim,)
    z = torch.randn(*leading, dim)
    torch.testing.assert_close(
        q.log_prob(z), torch.distributions.MultivariateNormal(loc, covariance).log_prob(z), rtol=1e-4, atol=1e-4
    )
    draws = q.expand((4000, *leading)).rsample()
    error = 5 * covariance.diagonal(dim1=-2, dim2=-1).sqrt() / math.sqrt(4000)
    assert ((draws.mean(0) - loc).abs() < error).all()
    centered = draws - loc
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    error = 8 * scale[..., :, None] * scale[..., None, :] / math.sqrt(4000)
    assert ((torch.einsum("k...i,k...j->...ij", centered, centered) / 4000 - covariance).abs() < error).all()


@pytest.mark.parametrize("make", CORRELATED)
def test_kl_of_correlated_normals(make: Any) -> None:
    q, loc, covariance = make()
    prior_loc, prior_scale = torch.randn(3), torch.rand(3) + 0.5
    p = pyro.distributions.Normal(prior_loc, prior_scale).to_event(1).expand((5,))
    kl = kl_divergence(q, p)
    normal = torch.distributions.MultivariateNormal
    by_torch = kl_divergence(normal(loc, covariance), normal(prior_loc, scale_tril=prior_scale.diag()))
    torch.testing.assert_close(kl, by_torch, rtol=1e-4, atol=1e-4)
    z = q.rsample((20000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert ((ratio.mean(0) - kl).abs() < 5 * ratio.std(0) / math.sqrt(20000)).all()
    expanded = q.expand((2, 5))
    assert type(expanded) is type(q)
    torch.testing.assert_close(kl_divergence(expanded, p), kl.expand(2, 5))
    # The module's prior, and torch's own Normal.
    torch.testing.assert_close(kl_divergence(q, StandardNormal(3)()), kl_divergence(q, torch_normal(torch.zeros(3))))


def torch_normal(loc: Tensor) -> Any:
    return torch.distributions.Independent(torch.distributions.Normal(loc, 1.0), 1)


@pytest.mark.parametrize("make", CORRELATED)
def test_moments_of_correlated_normals(make: Any) -> None:
    q, loc, covariance = make()
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.variance, covariance.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(q.entropy(), torch.distributions.MultivariateNormal(loc, covariance).entropy())


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
        kl_divergence(pyro.distributions.MultivariateNormal(loc, covariance), torch_normal(torch.zeros(3)))


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


def near_normal() -> dict[str, Any]:
    """Name -> prior and posterior of a latent of size 3, for data of size 6."""
    return {
        "FullNormal": (StandardNormal(3), FullNormal(MLP(6, 9, (8,)))),
        "LowRankNormal": (StandardNormal(3), LowRankNormal(MLP(6, (3, 3), (8,)))),
        "PowerSpherical": (SphereUniform(3), PowerSpherical(MLP(6, 4, (8,)))),
        "VonMisesFisher": (SphereUniform(3), VonMisesFisher(MLP(6, 4, (8,)))),
        "Flow": (StandardNormal(3), Flow(DiagonalNormal(MLP(6, (2, 3), (8,))), [Planar(3), Planar(3, 6)])),
    }


@pytest.mark.parametrize("name", near_normal())
def test_contract(name: str) -> None:
    x = real(6, size=16)
    closed_form = name != "Flow"
    for estimator in (SGVB_A(2), SGVB_B()) if closed_form else (SGVB_A(2),):
        torch.manual_seed(0)
        prior, posterior = near_normal()[name]
        vae = VAE(prior, posterior, Gaussian(MLP(3, 6, (8,)), sigmoid_mean=False))
        report = check(vae, x, estimator=estimator)
        assert report.sites[0].analytic_kl == closed_form
        before = [parameter.detach().clone() for parameter in posterior.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit(vae, x, estimator=estimator, epochs=1, batch_size=8, compile="traced", progress=False)
        assert all((new != old).any() for new, old in zip(posterior.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["FullNormal", "LowRankNormal", "PowerSpherical", "VonMisesFisher"])
def test_bfloat16_networks_give_full_precision(name: str) -> None:
    prior, posterior = near_normal()[name]
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(real(6))
        z = q.rsample()
        log_q, kl = q.log_prob(z), kl_divergence(q, prior())
    assert z.dtype == log_q.dtype == kl.dtype == torch.float32
    torch.testing.assert_close(log_q, q.log_prob(z))
    torch.testing.assert_close(kl, kl_divergence(q, prior()))
