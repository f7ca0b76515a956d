"""Every posterior: shapes, divergence from its prior, whatever its network gives, and training."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pairs import binary, real
from registry import FAMILIES, POSTERIORS
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import MLP, SGVB_A, SGVB_B, check, diagnostics, posteriors, priors
from pyro_vae.testing import assert_traced_step
from pyro_vae.testing.comparing import seeded

every = pytest.mark.parametrize("name", POSTERIORS)
STACKED = ["DiagonalNormal", "Uniform", *FAMILIES]  # whose parameters are numbers of their own for each dimension


class Constant(nn.Module):
    """A network that gives the same output for each datum ``[6]``."""

    in_shape = (6,)

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(*x.shape[:-1], *self.output.shape)


def same_for_all(name: str, outputs: Any, **options: Any) -> tuple[Any, Any]:
    """A posterior whose parameters are ``outputs`` before they are constrained, in 3 dimensions, and its network."""
    network = Constant(torch.tensor(outputs).unsqueeze(-1).expand(len(outputs), 3).clone())
    kind = posteriors.DiagonalNormal if name == "DiagonalNormal" else getattr(posteriors.families, name)
    return kind(network, **options), network


@every
@pytest.mark.parametrize("leading", [(5,), (2, 5)])
def test_shapes(name: str, leading: tuple[int, ...]) -> None:
    """Leading dimensions of x are batch dimensions of q; a plate's particles are drawn apart."""
    for shape in POSTERIORS[name].shapes:
        q = POSTERIORS[name].posterior(shape)(real(6).expand(*leading, 6))
        assert (q.batch_shape, q.event_shape, q.has_rsample) == (leading, shape, True)
        z = q.rsample((7,))
        assert z.shape == (7, *leading, *shape)
        assert z.requires_grad
        assert q.support.check(z).all()
        assert q.log_prob(z).shape == (7, *leading)
        wide = q.expand((4, *leading))
        z = wide.rsample()
        assert z.shape == (4, *leading, *shape)
        assert (z[0] != z[1]).all()
        assert wide.log_prob(z).shape == (4, *leading)
        drawn = seeded(3, q.sample)
        assert not drawn.requires_grad
        assert torch.equal(drawn, seeded(3, q.rsample))


@every
def test_networks_in_half_precision(name: str) -> None:
    """They give float32 distributions, whose score and KL are never computed in less; float64 stays."""
    prior, posterior = POSTERIORS[name].make((3,))
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(real(6))
        z = q.rsample()
        found = [z, q.log_prob(z)] + ([kl_divergence(q, prior())] if POSTERIORS[name].closed_form else [])
    assert {value.dtype for value in found} == {torch.float32}
    if name not in ("Flow", "SemiImplicitNormal"):  # where q itself runs a network
        torch.testing.assert_close(found[1], q.log_prob(z))
    if POSTERIORS[name].closed_form:
        torch.testing.assert_close(found[2], kl_divergence(q, prior()))
    assert posterior.double()(real(6).double()).sample().dtype == torch.float64


@every
def test_divergence_from_the_prior(name: str) -> None:
    """In closed form it is the mean of log q - log p over draws, and otherwise none is registered."""
    prior, posterior = seeded(1, POSTERIORS[name].make, (3,))
    q, p = posterior(real(6)), prior()
    if not POSTERIORS[name].closed_form:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        return
    kl = kl_divergence(q, p)
    assert kl.shape == (5,)
    with torch.no_grad():
        z = q.sample((10_000,))
        ratio = q.log_prob(z) - p.log_prob(z)
    assert ((ratio.mean(0) - kl).abs() < 4.5 * ratio.std(0) / 100 + 1e-4 * kl).all()
    assert (kl > 9 * ratio.std(0) / 100).any()


# Those of a prior's own row train in test_prior_laws.py.
@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("DiagonalNormal", SGVB_A(2)),
        ("Flow", SGVB_A(2)),
        ("SemiImplicitNormal", SGVB_A(2)),
        *((name, SGVB_B()) for name in ("FullNormal", "LowRankNormal", "VonMisesFisher")),
        *(
            pytest.param(name, SGVB_A(2), marks=pytest.mark.slow)
            for name in ("Uniform", "FullNormal", "LowRankNormal", "PowerSpherical", "VonMisesFisher")
        ),
    ],
)
def test_trains(name: str, estimator: Any) -> None:
    """With its prior, by the closed form where there is one, in a graph as eagerly."""
    row, x = POSTERIORS[name], binary(6)
    assert check(row.pair(), x, estimator=estimator).sites[0].analytic_kl == row.closed_form
    assert_traced_step(row.pair, x, estimator=estimator)


@every
def test_codes_are_means(name: str) -> None:
    """Or, on a sphere, mean directions; where there is no mean they are draws."""
    pair = POSTERIORS[name].pair()
    code, q = diagnostics.encode(pair, binary(6))["z"], pair.posterior(binary(6))
    assert code.isfinite().all()
    if name not in ("Cauchy", "Flow", "SemiImplicitNormal"):
        torch.testing.assert_close(code, q.loc if name in ("PowerSpherical", "VonMisesFisher") else q.mean)


@pytest.mark.parametrize("name", STACKED)
def test_another_number_of_parameters(name: str) -> None:
    kind = type(POSTERIORS[name].posterior())
    with pytest.raises(ValueError, match=rf"{name} has \d parameters?.*\[5, 9, 3\]"):
        kind(MLP(6, (9, 3), (4,)))(real(6))


def inside(name: str, z: Tensor) -> bool:
    """Inside the open support."""
    if name in ("Kumaraswamy", "Uniform", "Beta", "Dirichlet"):
        return bool(((z > 0) & (z < 1)).all())
    real_valued = name in ("Cauchy", "Logistic", "Gumbel", "Laplace", "StudentT", "DiagonalNormal")
    return bool(z.isfinite().all()) and (real_valued or bool((z > 0).all()))


@pytest.mark.parametrize("name", STACKED[1:])
def test_whatever_a_network_gives(name: str) -> None:
    """In float32: draws inside the support, finite log-probabilities, finite gradients."""
    count = POSTERIORS[name].posterior().network_shape((3,))[0]
    x = real(6, size=2000)
    prior = POSTERIORS[name].prior()()
    for corner in itertools.product([-1e4, -30.0, 0.0, 8.0], repeat=count):
        posterior, network = same_for_all(name, corner)
        q = posterior(x)
        z = q.rsample()
        assert inside(name, z), corner
        log_q = q.log_prob(z)
        assert log_q.isfinite().all(), corner
        (gradient,) = torch.autograd.grad((log_q - z.log1p().sum(-1) if (z > 0).all() else log_q).sum(), network.output)
        assert gradient.isfinite().all(), (corner, gradient)
        if max(map(abs, corner)) < 1e4:
            assert prior.log_prob(z.detach()).isfinite().all(), corner


@pytest.mark.parametrize("outputs", [(-100.0, 100.0), (-100.0, 50.0), (100.0, 100.0), (0.0, 100.0), (-100.0, -100.0)])
def test_wide_posteriors_have_a_gradient_under_the_prior(outputs: tuple[float, float]) -> None:
    posterior, network = same_for_all("LogNormal", outputs)
    q = posterior(real(6, size=2000))
    (gradient,) = torch.autograd.grad(priors.LogNormal(3)().log_prob(q.rsample()).sum(), network.output)
    assert gradient.isfinite().all()
    posterior, network = same_for_all("Gumbel", outputs)
    kl = kl_divergence(posterior(real(6)), priors.Gumbel(3)())
    assert kl.isfinite().all()
    (gradient,) = torch.autograd.grad(kl.sum(), network.output)
    assert gradient.isfinite().all()
