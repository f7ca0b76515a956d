"""Distributions, priors and posteriors on the sphere, against quadrature, closed forms and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pairs import real
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pyro_vae import MLP, distributions
from pyro_vae.distributions import PowerSpherical, SphereUniform, VonMisesFisher, unit_vector
from pyro_vae.posteriors import PowerSpherical as PowerSphericalPosterior
from pyro_vae.posteriors import VonMisesFisher as VonMisesFisherPosterior
from pyro_vae.priors.sphere import SphereUniform as SpherePrior

FAMILIES = [PowerSpherical, VonMisesFisher]
POSTERIORS = [PowerSphericalPosterior, VonMisesFisherPosterior]
DIMS = [2, 3, 10, 50]
CONCENTRATIONS = [1e-3, 0.7, 20.0, 1e4]


def direction(dim: int, dtype: torch.dtype = torch.double) -> Tensor:
    vector = torch.randn(dim, dtype=dtype, generator=torch.Generator().manual_seed(dim))
    return vector / vector.norm()


def log_area(dim: int) -> float:
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def on_meridian(q: Any) -> tuple[Tensor, Tensor, Tensor]:
    """t = loc'z, log q(z) and the quadrature weights of dz, at points along the meridian of ``q``, by its log_prob."""
    loc, dim = q.loc, q.event_shape[0]
    u = torch.linspace(-3, 3, 1001, dtype=torch.double)  # a double exponential rule for angles in [0, pi]
    angle = math.pi * (math.pi * u.sinh()).sigmoid()
    weights = angle * (-math.pi * u.sinh()).sigmoid() * math.pi * u.cosh() * 0.006
    aside = torch.eye(dim, dtype=torch.double)[loc.abs().argmin()]
    aside = aside - (aside @ loc) * loc
    z = angle.cos()[:, None] * loc + angle.sin()[:, None] * aside / aside.norm()
    surface = log_area(dim - 1) + (dim - 2) * angle.sin().log()
    return angle.cos(), q.log_prob(z), weights * surface.exp()


def expected(q: Any, function: Any) -> Tensor:
    """E[function(t, log q)] by quadrature."""
    t, log_q, weights = on_meridian(q)
    return (function(t, log_q) * log_q.exp() * weights).sum()


def within_standard_errors(draws: Tensor, value: Tensor | float, errors: float = 4.5) -> None:
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - value).abs() <= errors * error + 1e-12).all(), (draws.mean(0), value, error)


@pytest.mark.parametrize("concentration", [0.0, *CONCENTRATIONS])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_density_mean_entropy_and_kl(family: Any, dim: int, concentration: float) -> None:
    q = family(direction(dim), torch.tensor(concentration, dtype=torch.double), validate_args=True)
    torch.testing.assert_close(expected(q, lambda t, _: torch.ones_like(t)).item(), 1.0, rtol=1e-8, atol=0)
    length = expected(q, lambda t, _: t)
    torch.testing.assert_close(q.mean, length * q.loc, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(q.mode, q.loc)
    entropy = expected(q, lambda _, log_q: -log_q)
    torch.testing.assert_close(q.entropy(), entropy, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(kl_divergence(q, SphereUniform(dim)), log_area(dim) - entropy, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "concentration"), [(2, 1e-3), (2, 1e4), (3, 5.0), (10, 1e-3), (10, 300.0), (50, 1e4)])
def test_von_mises_fisher_is_scipys(dim: int, concentration: float, dtype: torch.dtype) -> None:
    q = VonMisesFisher(direction(dim).to(dtype), torch.tensor(concentration, dtype=dtype))
    z = q.sample((50,))
    assert z.dtype == dtype
    oracle = stats.vonmises_fisher(direction(dim).numpy(), concentration)
    z_double = z.double() / z.double().norm(dim=-1, keepdim=True)
    by_scipy = torch.tensor(oracle.logpdf(z_double.numpy()), dtype=dtype)
    # To float32 the direction itself is known to 1e-7 only.
    tolerance = {"rtol": 1e-5, "atol": 2e-3} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(q.log_prob(z), by_scipy, **tolerance)
    if concentration < 1000:  # scipy's entropy overflows beyond
        torch.testing.assert_close(q.entropy().item(), float(oracle.entropy()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_the_density(family: Any, dim: int, concentration: float) -> None:
    q = family(direction(dim), torch.tensor(concentration, dtype=torch.double))
    z = q.sample((10000,))
    t = z @ q.loc
    at, log_q, weights = on_meridian(q)
    mass = log_q.exp() * weights
    order = at.argsort()
    cdf = mass[order].cumsum(0) - mass[order] / 2
    assert stats.kstest(t.numpy(), lambda value: np.interp(value, at[order].numpy(), cdf.numpy())).pvalue > 1e-4
    within_standard_errors(z, q.mean)
    # What is orthogonal to loc has no direction: along a unit vector a its square is 1 / (D - 1) of all.
    a = direction(dim).flip(0)
    a = (a - (a @ q.loc) * q.loc) / (1 - (a @ q.loc) ** 2).sqrt()
    within_standard_errors((z @ a).square() * (dim - 1) / (1 - t.square()), 1.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dim", "concentration"), [(2, 0.0), (2, 3.0), (3, 0.5), (3, 200.0), (20, 10.0)])
def test_gradient_of_an_expectation(family: Any, dim: int, concentration: float) -> None:
    # d/dkappa E[(1 - t)^2 + t^3]: the score form by quadrature, the path form by draws.
    kappa = torch.tensor(concentration, dtype=torch.double, requires_grad=True)
    loc = direction(dim)

    def function(t: Tensor) -> Tensor:
        return (1 + concentration) * (1 - t) + t**3

    (by_quadrature,) = torch.autograd.grad(expected(family(loc, kappa), lambda t, _: function(t)), kappa)
    each = torch.full((10000,), concentration, dtype=torch.double, requires_grad=True)
    (by_draws,) = torch.autograd.grad(function(family(loc, each).rsample() @ loc).sum(), each)
    within_standard_errors(by_draws, by_quadrature)


@pytest.mark.parametrize("concentration", [0.01, 2.0, 500.0])
def test_von_mises_fisher_draws_move_along_their_quantile(concentration: float) -> None:
    # On the sphere of R^3 the quantile function is known: t = log(u e^kappa + (1 - u) e^-kappa) / kappa.
    loc = direction(3)
    kappa = torch.full((200,), concentration, dtype=torch.double, requires_grad=True)
    t = VonMisesFisher(loc, kappa).rsample() @ loc
    (slope,) = torch.autograd.grad(t.sum(), kappa)
    below = (kappa * (t - 1)).exp() - (-2 * kappa).exp()
    u = (below / (1 - (-2 * kappa).exp())).detach()
    quantile = 1 + (u + (1 - u) * (-2 * kappa).exp()).log() / kappa
    (exact,) = torch.autograd.grad(quantile.sum(), kappa)
    torch.testing.assert_close(slope, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 50])
@pytest.mark.parametrize("concentration", [0.0, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("family", FAMILIES)
def test_extremes_in_float32(family: Any, concentration: float, dim: int) -> None:
    poles = torch.eye(dim)[:2]
    loc = torch.cat([poles, -poles, direction(dim, torch.float32)[None]]).requires_grad_()
    kappa = torch.full((5,), concentration, requires_grad=True)
    q = family(loc, kappa)
    z = q.rsample((200,))
    assert z.dtype == torch.float32
    assert unit_vector.check(z).all()
    kl = kl_divergence(q, SphereUniform(dim))
    assert (kl >= -1e-6).all()
    exact = kl_divergence(family(loc.double(), kappa.double()), SphereUniform(dim))
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=1e-6)
    exact = family(loc.double(), kappa.double()).log_prob(z.double())
    torch.testing.assert_close(q.log_prob(z).double(), exact, rtol=1e-4, atol=1e-2)
    assert q.log_prob(-loc).isfinite().all()  # as far as can be, where the power spherical density is zero
    gradients = torch.autograd.grad(q.log_prob(z).mean() + kl.sum() + z.sum(-1).mean(), (loc, kappa))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dim", [2, 3, 10, 50])
@pytest.mark.parametrize("concentration", [1e6, 1e8])
@pytest.mark.parametrize("family", FAMILIES)
def test_high_concentrations_in_float32(family: Any, concentration: float, dim: int) -> None:
    """Draws all but at loc keep the digits of their distance: their mean score is minus the entropy."""
    torch.manual_seed(0)
    loc, kappa = direction(dim), torch.tensor(concentration).double()
    q = family(loc.float(), kappa.float()).expand((20_000,))
    score = q.log_prob(q.rsample()).double()
    entropy = family(loc, kappa).entropy()
    assert abs(score.mean() + entropy) < 4.5 * score.std() / math.sqrt(20_000) + 1e-6 * abs(entropy)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_there_is_not(family: Any) -> None:
    q = family(direction(3), torch.ones((), dtype=torch.double))
    for p in (Independent(Normal(torch.zeros(3), 1.0), 1), SphereUniform(4)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
    with pytest.raises(ValueError, match="at least 2 dimensions; got 1"):
        family(torch.ones(1), torch.ones(()))


@pytest.mark.parametrize("dim", DIMS)
def test_uniform(dim: int) -> None:
    p = SphereUniform(dim).expand((4,))
    z = p.sample((5000,))
    assert z.shape == (5000, 4, dim)
    assert unit_vector.check(z).all()
    torch.testing.assert_close(p.log_prob(z), torch.full((5000, 4), -log_area(dim)))
    torch.testing.assert_close(p.entropy(), torch.full((4,), log_area(dim)))
    within_standard_errors(z.flatten(0, 1), p.mean[0])
    within_standard_errors(z.flatten(0, 1).square(), 1 / dim)


def test_prior_has_no_state() -> None:
    assert not SpherePrior(3).state_dict()
    with pytest.raises(ValueError, match="at least 2 dimensions; got 1"):
        SpherePrior(1)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1.0, 1e30])
def test_directions_of_any_length(posterior: Any, size: float) -> None:
    x = (size * torch.tensor([[3.0, -4.0, 0.0, -2.0]])).requires_grad_()
    q = posterior(torch.nn.Identity())(x)
    expected_loc = [[1.0, 0.0, 0.0]] if size == 0 else [[0.6, -0.8, 0.0]]
    torch.testing.assert_close(q.loc, torch.tensor(expected_loc))
    if size <= 1:
        torch.testing.assert_close(q.concentration, x[:, 3].exp().log1p())
    (gradient,) = torch.autograd.grad(q.rsample().sum() + q.entropy().sum(), x)
    assert gradient[..., 3].isfinite().all()
    if size != 1e-30:  # the slope of a direction is one over its length
        assert gradient.isfinite().all()
    with pyro.validation_enabled(False):
        assert posterior(torch.nn.Identity())(x.detach() * float("nan")).loc.isnan().all()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_posterior_errors(posterior: Any) -> None:
    with pytest.raises(ValueError, match=r"D \+ 1 numbers.*\[5, 2\]"):
        posterior(MLP(6, 2))(real(6))
    with pytest.raises(ValueError, match=r"event_dim=1 here"):
        posterior(MLP(6, (2, 4)))(real(6))
    with pytest.raises(ValueError, match=r"at least 2 numbers.*got \(1,\)"):
        posterior(MLP(6, 4)).network_shape((1,))


def test_the_constraint_does_not_hide_its_module() -> None:
    assert distributions.sphere.SphereUniform is SphereUniform
    assert all(hasattr(distributions, name) for name in distributions.__all__)
    of_modules = {
        name
        for module in (
            distributions.classes,
            distributions.experts,
            distributions.families,
            distributions.matrix,
            distributions.normal,
            distributions.pixels,
            distributions.sphere,
        )
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    exported = {name for name in distributions.__all__ if name[0].isupper()}
    assert of_modules == exported - {"MarkovNormal"}  # of the steps, whose other classes are its parts
