"""The variational Gaussian process against dense formulae, a known evidence, and the Gaussian that it contains."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from laws import gradients_of
from pairs import binary, real
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import Tensor, nn

from pyro_vae import (
    IWAE,
    SGVB_A,
    SGVB_B,
    DReG,
    Gaussian,
    check,
    evidence,
    fit,
)
from pyro_vae.models.variational_gp import JITTER, VariationalGP, conditional
from pyro_vae.pair import run

SHAPE = (1, 3, 2)


def small(**options: Any) -> VariationalGP:
    torch.manual_seed(0)
    return VariationalGP(SHAPE, 2, hidden=(8,), num_inducing=4, input_dim=3, **options)


amortized = pytest.mark.parametrize("amortized", [False, True])


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@amortized
def test_the_process_is_the_textbooks(amortized: bool, leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    xi, s, t = torch.randn(*leading, 3), torch.randn(*((5,) if amortized else ()), 4, 3), torch.randn(5, 4, 2)
    lengthscale, variance = torch.tensor([0.7, 1.3, 2.0]), torch.tensor(1.7)
    loc, scale = conditional(*(value.double() for value in (xi, s, t, lengthscale, variance)))
    assert loc.shape == (*leading, 2)
    assert scale.shape == leading
    kernel = ConstantKernel(1.7, "fixed") * RBF(lengthscale.numpy(), "fixed")
    for b in range(5):
        regression = GaussianProcessRegressor(kernel, alpha=1.7 * JITTER, optimizer=None)
        regression.fit((s[b] if amortized else s).numpy(), t[b].numpy())
        points = xi[..., b, :].reshape(-1, 3).numpy()
        mean, deviation = regression.predict(points, return_std=True)
        np.testing.assert_allclose(loc[..., b, :].reshape(-1, 2), mean, rtol=1e-5, atol=1e-6)
        expected = deviation[:, 0] ** 2 + 1.7 * JITTER  # the white noise of the point itself, which sklearn leaves out
        np.testing.assert_allclose(scale[..., b].reshape(-1) ** 2, expected, rtol=1e-5, atol=1e-7)


def test_coinciding_inputs_stay_finite_in_float32() -> None:
    s = torch.zeros(200, 2, requires_grad=True)
    t, lengthscale = torch.randn(1, 1, 1).expand(3, 200, 1), torch.ones(2)
    loc, scale = conditional(torch.zeros(3, 2), s, t, lengthscale, torch.tensor(1.0))
    torch.testing.assert_close(loc, t[:, 0], atol=1e-3, rtol=1e-3)
    (loc.sum() + scale.sum()).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert (scale >= math.sqrt(JITTER)).all()


def test_bfloat16_autocast_leaves_the_process_in_float32() -> None:
    torch.manual_seed(0)
    given = torch.randn(5, 3), torch.randn(4, 3), torch.randn(5, 4, 2), torch.ones(3), torch.tensor(1.0)
    expected = conditional(*given)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conditional(*given), expected, rtol=0, atol=0)
        pair, x = small(), binary(*SHAPE)
        model_trace, guide_trace = run(pair, x, num_particles=3)
        for trace in (model_trace, guide_trace):
            trace.compute_log_prob()
            for name in ("xi", "f", "z"):
                assert trace.nodes[name]["log_prob"].dtype == torch.float32


def test_one_datum_and_no_variance_is_the_diagonal_gaussian() -> None:
    pair, x = VariationalGP(SHAPE, 2, hidden=(8,), num_inducing=1), binary(*SHAPE)
    with torch.no_grad():
        pair.log_variance.fill_(-40.0)
        pair.log_lengthscale.fill_(10.0)
    _, t, scale = pair.variational_data(x)
    torch.manual_seed(0)
    z = run(pair, x, num_particles=20_000)[1].nodes["z"]["value"]
    standard = ((z - t[:, 0]) / scale).detach()
    assert standard.mean((0,)).abs().max() < 5 / math.sqrt(20_000)
    assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 20_000)
    assert (standard.mean(-1).pow(2).mean() - 0.5).abs() < 0.02  # the units are independent


def linear(**options: Any) -> tuple[VariationalGP, Tensor, Tensor]:
    """z ~ N(0, I), x | z ~ N(W z + b, 0.7^2 I), whose evidence N(b, W W' + 0.7^2 I) is known.

    The guide is wide and r narrow, so that the weights have a small variance.
    """
    torch.manual_seed(0)
    likelihood = functools.partial(Gaussian, scale=0.7, sigmoid_mean=False)
    options = {"likelihood": likelihood, "num_inducing": 2, "input_dim": 1, **options}
    pair = VariationalGP((3,), 2, hidden=(8,), decoder_hidden=(), **options).double()
    with torch.no_grad():
        pair.inputs.copy_(torch.tensor([[-3.0], [3.0]]))
        pair.log_lengthscale.zero_()
        pair.log_variance.zero_()
        pair.encoder.layers[-1].bias[-2:] = 0.5
        pair.auxiliary.layers[-1].bias[3] = -1.0
    layer: Any = pair.likelihood.network.layers[-1]
    covariance = layer.weight @ layer.weight.T + 0.49 * torch.eye(3, dtype=torch.float64)
    x = real(3).double()
    return pair, x, dist.MultivariateNormal(layer.bias, covariance).log_prob(x).detach()


@amortized
def test_the_mean_weight_is_the_evidence(amortized: bool) -> None:
    pair, x, exact = linear(amortized_inputs=amortized)
    torch.manual_seed(1)
    with torch.no_grad():
        weights = (SGVB_A(100_000).log_weights(pair, x) - exact).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert error.max() < 0.05
    assert ((weights.mean(0) - 1).abs() < 4 * error).all()


def test_annealed_importance_sampling_gives_the_evidence() -> None:
    pair, x, exact = linear()
    result = evidence.ais(pair, x, num_chains=32, num_steps=20, num_leapfrog=3, schedule="sigmoid", compile="eager")
    torch.testing.assert_close(result.log_prob.double(), exact, atol=0.2, rtol=0)


@amortized
def test_it_is_a_pair(amortized: bool) -> None:
    pair, x = small(amortized_inputs=amortized), binary(*SHAPE)
    report = check(pair, x, estimator=SGVB_A(2))
    assert [site.name for site in report.sites] == ["z", "xi", "f", "x"]
    assert pair.model().shape == (1, *SHAPE)
    assert pair.model(x) is x
    with pytest.raises(ValueError, match="needs data"):
        pair.guide()
    with pytest.raises(ValueError, match="the model draws z, xi, f, the guide xi, f, z"):
        SGVB_B().bound(pair, x)
    for estimator in (IWAE(4), DReG(3)):
        assert all(value.isfinite().all() and value.any() for value in gradients_of(estimator, pair, x).values())
    assert evidence.importance(pair, x, 40, compile="eager").log_prob.isfinite().all()


def test_the_mean_of_the_data_is_where_the_networks_start() -> None:
    mean, x = torch.rand(SHAPE), torch.rand(5, *SHAPE)
    plain, pair = small(), small(mean=mean)
    for one, other in zip(plain.variational_data(x), pair.variational_data(x + mean), strict=True):
        torch.testing.assert_close(one, other)
    z = torch.randn(5, 2)
    for one, other in zip(plain.reverse(x, z), pair.reverse(x + mean, z), strict=True):
        torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(
        pair.likelihood.network.layers[-1].bias.sigmoid().reshape(SHAPE), mean.clamp(0.005, 0.995)
    )


@pytest.mark.parametrize("sizes", [{"num_inducing": 0}, {"input_dim": 0}, {"latent_dim": 0}])
def test_sizes_are_positive(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="sizes of at least 1"):
        VariationalGP(SHAPE, hidden=(4,), **{"latent_dim": 2, **sizes})


class Ring(nn.Module):
    """x | z ~ N(|z|^2, 0.3^2): the posterior of z given x = 1 is a ring, which no diagonal Gaussian is near."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Normal(z.square().sum(-1, keepdim=True), 0.3).to_event(1)


@pytest.mark.slow
def test_a_ring_that_a_gaussian_is_far_from() -> None:
    """The best diagonal Gaussian, optimized by itself from three starts, has the bound -2.65; log p(x) is -1.18."""
    torch.manual_seed(1)
    x = torch.ones(8, 1)
    pair = VariationalGP((1,), 2, hidden=(16,), num_inducing=10, input_dim=1, likelihood=Ring)
    optimizer = functools.partial(torch.optim.Adam, lr=2e-2)
    fit(pair, x, estimator=SGVB_A(16), epochs=600, optimizer=optimizer, batch_size=8, compile="traced", progress=False)
    bound = SGVB_A(1000).bound(pair, x).mean().item()
    assert -2.55 < bound < -1.18
