"""Gaussian, Laplace and Student's t: known, shared, optimal scales and a scale a pixel."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import scipy.stats
import torch
from pairs import real
from torch import Tensor, nn

from pyro_vae import IWAE, MLP, SGVB_A, SGVB_B, VAE, DiagonalNormal, Gaussian, StandardNormal, fit
from pyro_vae.diagnostics import reconstruct
from pyro_vae.distributions.pixels import OptimalNormal
from pyro_vae.evidence import importance
from pyro_vae.likelihoods import Laplace, StudentT

LATENT = 2
FAMILIES = [
    (Gaussian, lambda loc, scale: scipy.stats.norm(loc, scale)),
    (Laplace, lambda loc, scale: scipy.stats.laplace(loc, scale)),
    (StudentT, lambda loc, scale: scipy.stats.t(4.0, loc, scale)),
]


class Constant(nn.Module):
    """A network that gives the same output for each latent, a parameter."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, z: Tensor) -> Tensor:
        return self.output.expand(*z.shape[:-1], *self.output.shape)


def small(scale: Any, **options: Any) -> VAE:
    torch.manual_seed(0)
    likelihood = Gaussian(MLP(LATENT, 6, (8,)), scale, sigmoid_mean=False, **options)
    return VAE(StandardNormal(LATENT), DiagonalNormal(MLP(6, (2, LATENT), (8,))), likelihood)


@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3, "shared"])
@pytest.mark.parametrize(("family", "theirs"), FAMILIES)
def test_densities(family: Any, theirs: Any, scale: Any, sigmoid_mean: bool) -> None:
    network = MLP(LATENT, (2, 6) if scale is None else 6, (8,))
    likelihood = family(network, scale, sigmoid_mean).double()
    z, x = torch.randn(5, LATENT).double(), real(6).double()
    output = network(z).detach()
    if scale is None:
        loc, raw = output.unbind(1)
        scales = (raw / 2 if family is Gaussian else raw).exp()
    elif scale == "shared":
        with torch.no_grad():
            likelihood.log_scale.fill_(-1.3)
        loc, scales = output, torch.full_like(output, math.exp(-1.3))
    else:
        loc, scales = output, torch.full_like(output, scale)
    loc = loc.sigmoid() if sigmoid_mean else loc
    by_hand = torch.from_numpy(theirs(loc.numpy(), scales.numpy()).logpdf(x.numpy()).sum(-1))
    torch.testing.assert_close(likelihood(z).log_prob(x), by_hand, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(likelihood(z).mean, loc)
    assert likelihood.network_shape((6,)) == ((2, 6) if scale is None else (6,))


@pytest.mark.parametrize(("family", "theirs"), FAMILIES)
def test_one_shared_scale_is_trained(family: Any, theirs: Any) -> None:
    likelihood, x = family(Constant(torch.zeros(6)), "shared"), real(6)
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale", "network.output"]
    assert not list(family(Constant(torch.zeros(6)), 1.0).named_buffers())
    likelihood(torch.zeros(5, LATENT)).log_prob(x).sum().backward()
    step = 1e-4
    sums = []
    for sign in (-1, 1):
        moved = copy.deepcopy(likelihood).double()
        moved.log_scale.data += sign * step
        sums.append(moved(torch.zeros(5, LATENT).double()).log_prob(x.double()).sum().item())
    assert likelihood.log_scale.grad.item() == pytest.approx((sums[1] - sums[0]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("family", [Gaussian, Laplace, StudentT])
def test_constant_pixels_do_not_let_the_scale_collapse(family: Any) -> None:
    x = torch.full((16, 3), 0.5)
    for scale in (None, "shared"):
        shape = (2, 3) if scale is None else (3,)
        likelihood = family(Constant(torch.zeros(shape)), scale)  # the sigmoid of 0 is 1/2: no error at all
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.5)
        for _ in range(200):
            optimizer.zero_grad()
            loss = -likelihood(torch.zeros(16, LATENT)).log_prob(x).mean()
            loss.backward()
            optimizer.step()
        p = likelihood(torch.zeros(16, LATENT)).base_dist
        torch.testing.assert_close(p.scale, torch.full((16, 3), math.exp(-6)), rtol=0.01, atol=0)
        assert torch.isfinite(loss)


def test_the_floor_moves_no_scale_above_it() -> None:
    log_variance = torch.linspace(-10, 10, 6)
    p = Gaussian(Constant(torch.stack([torch.zeros(6), log_variance])), scale=None)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(p.scale, (log_variance / 2).exp(), rtol=1e-6, atol=0)
    lower = Gaussian(Constant(torch.full((2, 6), -20.0)), None, min_log_scale=-12.0)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(lower.scale, torch.full((6,), math.exp(-10)), rtol=1e-6, atol=0)
    # A known scale is what it is.
    known = Gaussian(Constant(torch.zeros(6)), 1e-4)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(known.scale, torch.full((6,), 1e-4))


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
def test_optimal_scale_in_training(leading: tuple[int, ...]) -> None:
    likelihood, z, x = small("optimal").likelihood.double(), torch.randn(*leading, LATENT).double(), real(6).double()
    p = likelihood(z)
    assert isinstance(p, OptimalNormal)
    log_prob = p.log_prob(x).sum()
    mean_square = (likelihood.network(z) - x).square().mean()
    closed = -0.5 * z[..., 0].numel() * 6 * (2 * math.pi * math.e * mean_square).log()
    torch.testing.assert_close(log_prob, closed)
    parameters = list(likelihood.network.parameters())
    torch.testing.assert_close(torch.autograd.grad(log_prob, parameters), torch.autograd.grad(closed, parameters))


def test_optimal_scale_in_evaluation_is_the_running_mean() -> None:
    likelihood = Gaussian(Constant(torch.zeros(6)), "optimal", sigmoid_mean=False)
    z, mean, batches = torch.zeros(5, LATENT), 0.0, torch.rand(30, 5, 6, generator=torch.Generator().manual_seed(1))
    for n, x in enumerate(batches, 1):
        likelihood(z).log_prob(x)
        mean += max(1 / n, 0.1) * (x.square().mean().item() - mean)
        assert likelihood.mean_square.item() == pytest.approx(mean, rel=1e-5)
    likelihood.eval()
    p = likelihood(z)
    x = real(6)
    torch.testing.assert_close(
        p.log_prob(x), torch.distributions.Normal(0.0, math.sqrt(mean)).log_prob(x).sum(-1), rtol=1e-5, atol=1e-5
    )
    assert likelihood.mean_square.item() == pytest.approx(mean, rel=1e-5)  # left alone
    assert likelihood.num_batches == 30
    torch.testing.assert_close(
        likelihood.train()(z).sample((4000,)).std(), torch.tensor(mean).sqrt(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(likelihood(z).variance, torch.full((5, 6), mean), rtol=1e-5, atol=0)
    restored = Gaussian(Constant(torch.zeros(6)), "optimal", sigmoid_mean=False)
    restored.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(restored.eval()(z).log_prob(x), p.log_prob(x))


@pytest.mark.parametrize(
    ("compile", "estimator"),
    [
        ("eager", SGVB_A()),
        ("traced", SGVB_A()),
        ("traced", SGVB_A(3, max_plate_nesting=2)),
        ("traced", SGVB_B()),
        ("traced", IWAE(3)),
    ],
)
def test_training_with_the_optimal_scale_writes_the_buffer(compile: Any, estimator: Any) -> None:
    pair, data = small("optimal"), 0.3 * real(6, size=32)
    estimator = copy.deepcopy(estimator)
    run = fit(pair, (data, data), estimator=estimator, epochs=20, batch_size=16, compile=compile, progress=False)
    assert run.mode == compile
    likelihood = pair.likelihood
    assert likelihood.num_batches == 20 * 2  # once a step: neither the check, nor tracing, nor validation counts
    error = (reconstruct(pair.eval(), data) - data).square().mean()
    assert 0.6 < likelihood.mean_square / error < 1.6
    # A density of each datum, which does not depend on the batch that it is in.
    assert torch.isfinite(importance(pair, data[:4], num_samples=50).log_prob).all()


def test_the_optimal_scale_is_the_best_shared_one() -> None:
    optimal, shared = small("optimal").likelihood, small("shared").likelihood
    shared.network = optimal.network
    z, x = torch.randn(5, LATENT), real(6)
    best = optimal(z).log_prob(x).sum()
    with torch.no_grad():
        shared.log_scale.copy_((optimal.network(z) - x).square().mean().log() / 2)
    reached = shared(z).log_prob(x).sum()
    torch.testing.assert_close(reached, best)
    assert torch.autograd.grad(reached, shared.log_scale)[0].abs() < 1e-4
