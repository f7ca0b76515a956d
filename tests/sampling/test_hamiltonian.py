"""The sampler against targets of known moments, and against Pyro's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import program
from pyro.infer import HMC, MCMC
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from pyro_vae.sampling.hamiltonian import Density, Hamiltonian, State, StepSize, run_chains, warm_up
from pyro_vae.sampling.joint import Joint


def of_log_density(log_density: Callable[[Tensor], Tensor]) -> Density:
    """``u -> (log density, gradient)`` by autograd."""

    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = log_density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    return density


def adapted(density: Density, u: Tensor, num_steps: int, target: float = 0.8) -> tuple[State, Hamiltonian]:
    sampler = Hamiltonian(density)
    return warm_up(sampler, sampler.init(u), num_steps, target)


def sized(density: Density, step_size: float, num_leapfrog: int, **options: Any) -> Hamiltonian:
    return Hamiltonian(density, torch.tensor([step_size], dtype=torch.float64), num_leapfrog, **options)


@of_log_density
def mixture(u: Tensor) -> Tensor:
    """A skewed, non-Gaussian density of one dimension, normalized: 0.7 N(-1, 0.5) + 0.3 N(1, 1)."""
    left, right = (dist.Normal(loc, scale).log_prob(u) for loc, scale in ((-1.0, 0.5), (1.0, 1.0)))
    return torch.logaddexp(math.log(0.7) + left, math.log(0.3) + right).squeeze(-1)


def mixture_draws(count: int) -> Tensor:
    second = torch.rand(count, 1, dtype=torch.float64) < 0.3
    noise = torch.randn(count, 1, dtype=torch.float64)
    return torch.where(second, 1 + noise, -1 + 0.5 * noise)[..., None]


def scores(draws: Tensor, expected: Tensor) -> Tensor:
    """``[S, C, ...]`` of C independent chains: errors of the mean in units of its standard error."""
    means = draws.mean(0)
    return (means.mean(0) - expected) / (means.std(0) / math.sqrt(len(means)))


MEAN = torch.tensor([[0.0, 1.0], [5.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
COVARIANCE = torch.tensor(
    [[[1.0, 0.9], [0.9, 1.0]], [[0.01, 0.0], [0.0, 4.0]], [[2.0, -0.7], [-0.7, 0.5]]], dtype=torch.float64
)


def test_gaussians_of_known_moments() -> None:
    density = of_log_density(dist.MultivariateNormal(MEAN, COVARIANCE).log_prob)
    now, sampler = adapted(density, torch.zeros(40, 3, 2, dtype=torch.float64), 120)
    assert sampler.scale is not None
    torch.testing.assert_close(sampler.scale, COVARIANCE.diagonal(dim1=1, dim2=2).sqrt(), rtol=0.25, atol=0)
    assert (torch.as_tensor(sampler.step_size) > 0.2).all()  # of its unit
    draws = run_chains(sampler, now, 120)
    assert draws.u.shape == (120, 40, 3, 2)
    assert scores(draws.u, MEAN).abs().max() < 4.5
    centered = draws.u - MEAN
    products = centered[..., :, None] * centered[..., None, :]
    assert scores(products, COVARIANCE).abs().max() < 4.5
    assert (products.mean((0, 1)) / COVARIANCE - 1)[:, 0, 0].abs().max() < 0.2  # the test has power
    assert (draws.acceptance.mean(0) - 0.8).abs().max() < 0.08
    torch.testing.assert_close(draws.log_density[-1], density(draws.state.u)[0])


@pytest.mark.parametrize(("step", "low", "high"), [(0.3, 0.9, 1.0), (1.1, 0.3, 0.9)])
def test_a_step_leaves_its_target_alone(step: float, low: float, high: float) -> None:
    """From exact draws, one step: the same distribution again, whatever the step size, and detailed balance."""
    sampler = sized(mixture, step, 3)
    before = sampler.init(mixture_draws(40_000))
    after, acceptance = sampler.step(before)
    assert low < acceptance.mean() < high
    u, v = before.u.flatten(), after.u.flatten()
    assert (u != v).double().mean().item() == pytest.approx(acceptance.mean().item(), abs=0.02)
    for statistic in (lambda u: u, torch.square, torch.sin, lambda u: (u > 0).double()):
        change = statistic(v) - statistic(u)
        assert change.mean().abs() < 4.5 * change.std() / math.sqrt(len(u))
    asymmetry = u * v.square() - v * u.square()
    assert asymmetry.mean().abs() < 4.5 * asymmetry.std() / math.sqrt(len(u))


def test_the_energy_error_is_of_second_order() -> None:
    """Over a trajectory of fixed length: a wrong gradient, or a wrong half step, would be of order 0 or 1."""
    u, rejected = mixture_draws(2000), []
    for steps in (8, 16, 32):
        torch.manual_seed(0)
        sampler = sized(mixture, 2.0 / steps, steps, jitter=0.0)
        rejected.append((1 - sampler.step(sampler.init(u))[1]).mean().item())
    assert rejected[0] / rejected[1] == pytest.approx(4, rel=0.15)
    assert rejected[1] / rejected[2] == pytest.approx(4, rel=0.15)


@pytest.mark.slow
def test_agrees_with_pyro() -> None:
    """Two latents, one of them positive, without a closed form: ours against ``pyro.infer.MCMC(HMC)``."""
    x = torch.tensor([1.2, -0.3], dtype=torch.float64)
    model = program(
        scale=lambda x: dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.0)),
        loc=lambda x, scale: dist.StudentT(x.new_tensor(4.0)),
        x=lambda x, scale, loc: dist.Normal(loc, scale),
    )
    with pyro.validation_enabled(False):  # a chain that leaves for infinity is rejected
        joint = Joint(model, None, x)
        now, sampler = adapted(lambda u: joint.value_and_grad(u, x), joint.draw("prior", 60, x), 100)
        ours = joint.latents(run_chains(sampler, now, 100).u.flatten(0, 1), x)
    theirs = MCMC(HMC(model, step_size=0.3, num_steps=4), num_samples=300, warmup_steps=40, disable_progbar=True)
    theirs.run(x)
    for name, draws in theirs.get_samples().items():
        error = draws.std(0) / effective_sample_size(draws[None], chain_dim=0, sample_dim=1).sqrt()
        chains = ours[name].unflatten(0, (100, 60))
        own = chains.mean(0).std(0) / math.sqrt(60)
        difference = chains.mean((0, 1)) - draws.mean(0)
        assert (difference.abs() < 4 * torch.hypot(error, own)).all(), name
        assert (error < 0.25 * draws.std(0)).all()
        torch.testing.assert_close(chains.flatten(0, 1).std(0), draws.std(0), rtol=0.3, atol=0)


def test_what_is_not_finite_is_rejected() -> None:
    """A half-normal: outside of its support NaN or minus infinity. A start outside is left."""

    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.squeeze(-1)
        inside = u > 0
        outside = torch.where(u < -0.5, torch.nan, -torch.inf)
        return torch.where(inside, -u.square() / 2, outside), torch.where(inside, -u, torch.nan)[..., None]

    sampler = sized(density, 0.8, 2)
    draws = run_chains(sampler, sampler.init(torch.randn(20_000, 1, 1, dtype=torch.float64).abs()), 3)
    assert (draws.u > 0).all()
    assert draws.log_density.isfinite().all()
    assert 0.3 < draws.acceptance.mean() < 0.9
    expected = torch.tensor(math.sqrt(2 / math.pi), dtype=torch.float64)
    assert scores(draws.u[-1:], expected).abs().max() < 4.5

    def exponential(u: Tensor) -> tuple[Tensor, Tensor]:
        inside = u[..., 0] > 0
        return torch.where(inside, -u[..., 0], -torch.inf), torch.where(inside[..., None], -1.0, 0.0).expand_as(u)

    sampler = sized(exponential, 1.0, 1)
    draws = run_chains(sampler, sampler.init(torch.full((100, 1, 1), -0.1)), 20)
    assert (draws.u[-1] > 0).all()


def test_a_datum_does_not_depend_on_the_others() -> None:
    def draws(variance: float) -> Tensor:
        torch.manual_seed(1)
        covariance = torch.stack([torch.eye(2), variance * torch.eye(2)])
        density = of_log_density(dist.MultivariateNormal(torch.zeros(2, 2), covariance).log_prob)
        now, sampler = adapted(density, torch.zeros(5, 2, 2), 60)
        return run_chains(sampler, now, 5).u

    easy, hard = draws(1.0), draws(1e-6)
    assert torch.equal(easy[:, :, 0], hard[:, :, 0])
    assert not torch.equal(easy[:, :, 1], hard[:, :, 1])


def test_what_goes_along_belongs_to_the_state() -> None:
    def carrying(u: Tensor) -> tuple[Tensor, ...]:
        return *mixture(u), u.sin(), u.square().sum(-1)

    sampler = sized(carrying, 1.1, 3)
    now, _ = sampler.step(sampler.init(mixture_draws(500)))
    for kept, anew in zip((now.log_density, now.gradient, *now.carried), carrying(now.u), strict=True):
        torch.testing.assert_close(kept, anew, rtol=0, atol=0)


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_step_sizes_reach_the_target_acceptance(target: float) -> None:
    spread = torch.tensor([1e-5, 1.0, 1e4], dtype=torch.float64)
    density = of_log_density(lambda u: -(u / spread[:, None]).square().sum(-1) / 2)
    u = torch.randn(30, 3, 10, dtype=torch.float64) * spread[:, None]
    now, sampler = adapted(density, u, 300, target)
    assert (run_chains(sampler, now, 50).acceptance.mean(0) - target).abs().max() < 0.05
    found = sampler.step_size * sampler.scale.mean(-1) / spread
    torch.testing.assert_close(found, found.mean().expand(3), rtol=0.2, atol=0)


def test_step_size_follows_a_target_that_changes() -> None:
    steps = StepSize(torch.ones(2), target=0.5, floor=0.25)
    for limit in (torch.tensor([1e-3, 1e3]), torch.ones(2)):
        for _ in range(100):
            steps.update((steps.current < limit).float().expand(4, 2))
        assert (steps.current.log() - limit.log()).abs().max() < 0.5
