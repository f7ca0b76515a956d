"""hamiltonian and joint: kernels against targets of known moments, densities against Pyro's and against integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, SAMPLED, gamma_vae, hierarchy, linear_gaussian, made, plain_object
from pyro import poutine
from pyro.infer import HMC, MCMC
from pyro.ops.stats import effective_sample_size
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae import Pair
from pyro_vae.compiled import Compiled
from pyro_vae.pair import run
from pyro_vae.sampling.hamiltonian import Density, Kernel, StepSize, sample, state, warm_up
from pyro_vae.sampling.joint import Ends, Joint, joint_of


def of_log_density(log_density: Callable[[Tensor], Tensor]) -> Density:
    """``u -> (log density, gradient)`` by autograd."""

    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = log_density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    return density


def gaussian(mean: Tensor, covariance: Tensor) -> Density:
    """A Gaussian for each of N data."""
    target = dist.MultivariateNormal(mean, covariance)
    return of_log_density(target.log_prob)


def mixture(u: Tensor) -> Tensor:
    """A skewed, non-Gaussian density of one dimension, normalized: 0.7 N(-1, 0.5) + 0.3 N(1, 1)."""
    parts = [
        math.log(weight) + dist.Normal(loc, scale).log_prob(u)
        for weight, loc, scale in ((0.7, -1.0, 0.5), (0.3, 1.0, 1.0))
    ]
    return torch.logaddexp(*parts).squeeze(-1)


def mixture_draws(*shape: int) -> Tensor:
    second = torch.rand(*shape, dtype=torch.float64) < 0.3
    noise = torch.randn(*shape, dtype=torch.float64)
    return torch.where(second, 1 + noise, -1 + 0.5 * noise)[..., None]


def scores(draws: Tensor, expected: Tensor) -> Tensor:
    """``[S, C, ...]`` of C independent chains: errors of the mean in units of its standard error."""
    means = draws.mean(0)
    return (means.mean(0) - expected) / (means.std(0) / math.sqrt(len(means)))


MEAN = torch.tensor([[0.0, 1.0], [5.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
COVARIANCE = torch.tensor(
    [[[1.0, 0.9], [0.9, 1.0]], [[0.01, 0.0], [0.0, 4.0]], [[2.0, -0.7], [-0.7, 0.5]]], dtype=torch.float64
)


@pytest.mark.parametrize("learn_scale", [True, False])
def test_gaussians_of_known_moments(learn_scale: bool) -> None:
    density = gaussian(MEAN, COVARIANCE)
    start = state(density, torch.zeros(40, 3, 2, dtype=torch.float64))
    now, kernel = warm_up(density, start, 120, learn_scale=learn_scale)
    draws = sample(density, now, kernel, 120)
    assert draws.u.shape == (120, 40, 3, 2)
    assert scores(draws.u, MEAN).abs().max() < 4.5
    centered = draws.u - MEAN
    products = centered[..., :, None] * centered[..., None, :]
    assert scores(products, COVARIANCE).abs().max() < 4.5
    assert (products.mean((0, 1)) / COVARIANCE - 1)[:, 0, 0].abs().max() < 0.2  # the test has power
    assert (draws.acceptance.mean(0) - 0.8).abs().max() < 0.08
    torch.testing.assert_close(draws.log_density[-1], density(draws.state.u)[0])


def test_scale_is_learned() -> None:
    density = gaussian(MEAN, COVARIANCE)
    _, kernel = warm_up(density, state(density, torch.zeros(40, 3, 2, dtype=torch.float64)), 120)
    assert kernel.scale is not None
    torch.testing.assert_close(kernel.scale, COVARIANCE.diagonal(dim1=1, dim2=2).sqrt(), rtol=0.25, atol=0)
    assert (kernel.step_size > 0.2).all()  # of its unit


@pytest.mark.parametrize(("step", "low", "high"), [(0.3, 0.9, 1.0), (1.1, 0.3, 0.9)])
def test_a_kernel_leaves_its_target_alone(step: float, low: float, high: float) -> None:
    """From exact draws, one step: the same distribution again, whatever the step size, and detailed balance."""
    before = mixture_draws(40_000, 1)
    kernel = Kernel(torch.tensor([step], dtype=torch.float64), num_leapfrog=3)
    after, acceptance = kernel(of_log_density(mixture), state(of_log_density(mixture), before))
    assert low < acceptance.mean() < high
    u, v = before.flatten(), after.u.flatten()
    assert (u != v).double().mean().item() == pytest.approx(acceptance.mean().item(), abs=0.02)
    for statistic in (lambda u: u, torch.square, torch.sin, lambda u: (u > 0).double()):
        change = statistic(v) - statistic(u)
        assert change.mean().abs() < 4.5 * change.std() / math.sqrt(len(u))
    asymmetry = u * v.square() - v * u.square()
    assert asymmetry.mean().abs() < 4.5 * asymmetry.std() / math.sqrt(len(u))


def test_the_energy_error_is_of_second_order() -> None:
    """Over a trajectory of fixed length: a wrong gradient, or a wrong half step, would be of order 0 or 1."""
    density, u = of_log_density(mixture), mixture_draws(2000, 1)
    rejected = []
    for steps in (8, 16, 32):
        torch.manual_seed(0)
        size = torch.tensor([2.0 / steps], dtype=torch.float64)
        _, acceptance = Kernel(size, num_leapfrog=steps, jitter=0.0)(density, state(density, u))
        rejected.append((1 - acceptance).mean().item())
    assert rejected[0] / rejected[1] == pytest.approx(4, rel=0.15)
    assert rejected[1] / rejected[2] == pytest.approx(4, rel=0.15)


def test_agrees_with_pyro() -> None:
    """Two latents, one of them positive, without a closed form: ours against ``pyro.infer.MCMC(HMC)``."""
    x = torch.tensor([1.2, -0.3], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.0)))
            loc = pyro.sample("loc", dist.StudentT(x.new_tensor(4.0)))
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    with pyro.validation_enabled(False):  # a chain that leaves for infinity is rejected
        joint = Joint(model, None, x)
        density: Density = lambda u: joint.value_and_grad(u, x)  # noqa: E731
        now, kernel = warm_up(density, state(density, joint.draw("prior", 60, x)), 100)
        ours = joint.latents(sample(density, now, kernel, 100).u.flatten(0, 1), x)

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
    """A half-normal: outside of its support NaN or minus infinity."""

    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.squeeze(-1)
        inside = u > 0
        outside = torch.where(u < -0.5, torch.nan, -torch.inf)
        return torch.where(inside, -u.square() / 2, outside), torch.where(inside, -u, torch.nan)[..., None]

    u = torch.randn(20_000, 1, 1, dtype=torch.float64).abs()
    kernel = Kernel(torch.tensor([0.8], dtype=torch.float64), num_leapfrog=2)
    draws = sample(density, state(density, u), kernel, 3)
    assert (draws.u > 0).all()
    assert draws.log_density.isfinite().all()
    assert 0.3 < draws.acceptance.mean() < 0.9
    expected = torch.tensor(math.sqrt(2 / math.pi), dtype=torch.float64)
    assert scores(draws.u[-1:].movedim(0, 0), expected).abs().max() < 4.5


def test_a_start_of_density_zero_is_left() -> None:
    def density(u: Tensor) -> tuple[Tensor, Tensor]:
        inside = u[..., 0] > 0
        return torch.where(inside, -u[..., 0], -torch.inf), torch.where(inside[..., None], -1.0, 0.0).expand_as(u)

    kernel = Kernel(torch.tensor([1.0]), num_leapfrog=1)
    draws = sample(density, state(density, torch.full((100, 1, 1), -0.1)), kernel, 20)
    assert (draws.u[-1] > 0).all()


def test_a_datum_does_not_depend_on_the_others() -> None:
    def draws(covariance: float) -> Tensor:
        torch.manual_seed(1)
        density = gaussian(torch.zeros(2, 2), torch.stack([torch.eye(2), covariance * torch.eye(2)]))
        now, kernel = warm_up(density, state(density, torch.zeros(5, 2, 2)), 60)
        return sample(density, now, kernel, 5).u

    easy, hard = draws(1.0), draws(1e-6)
    assert torch.equal(easy[:, :, 0], hard[:, :, 0])
    assert not torch.equal(easy[:, :, 1], hard[:, :, 1])


def test_what_goes_along_belongs_to_the_state() -> None:
    density = of_log_density(mixture)

    def carrying(u: Tensor) -> tuple[Tensor, ...]:
        return *density(u), u.sin(), u.square().sum(-1)

    kernel = Kernel(torch.tensor([1.1], dtype=torch.float64), 3)
    now, _ = kernel(carrying, state(carrying, mixture_draws(500, 1)))
    for kept, anew in zip((now.log_density, now.gradient, *now.carried), carrying(now.u), strict=True):
        torch.testing.assert_close(kept, anew, rtol=0, atol=0)


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_step_sizes_reach_the_target_acceptance(target: float) -> None:
    spread = torch.tensor([1e-5, 1.0, 1e4], dtype=torch.float64)
    density = of_log_density(lambda u: -(u / spread[:, None]).square().sum(-1) / 2)
    u = torch.randn(30, 3, 10, dtype=torch.float64) * spread[:, None]
    now, kernel = warm_up(density, state(density, u), 300, target_acceptance=target, learn_scale=False)
    assert (sample(density, now, kernel, 50).acceptance.mean(0) - target).abs().max() < 0.05
    torch.testing.assert_close(
        kernel.step_size / spread, (kernel.step_size / spread).mean().expand(3), rtol=0.2, atol=0
    )


def test_step_size_follows_a_target_that_changes() -> None:
    steps = StepSize(torch.ones(2), target=0.5, floor=0.25)
    for _ in range(100):
        steps.update((steps.current < torch.tensor([1e-3, 1e3])).float().expand(4, 2))
    assert (steps.current.log() - torch.tensor([1e-3, 1e3]).log()).abs().max() < 0.5
    for _ in range(100):
        steps.update((steps.current < 1.0).float().expand(4, 2))
    assert steps.current.log().abs().max() < 0.5


# --- joint


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_densities_are_those_of_pyro(factory: Any) -> None:
    """At the guide's draws, site by site. Latents are real, so that u is z, or positive, where u is log z."""
    pair, batch = made(factory)
    if factory is plain_object:
        with pytest.raises(ValueError, match="'bias' stands outside the data plate"):
            joint_of(pair, *batch)
        return
    joint = joint_of(pair, *batch)
    model_trace, guide_trace = run(pair, *batch, num_particles=3)
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    values = {name: guide_trace.nodes[name]["value"] for name in joint.shapes}
    u = joint.unconstrained(values, *batch)
    assert u.shape == (3, 5, joint.dim)
    prior, likelihood, log_q = joint.densities(u, *batch, guide=True)
    log_slope = values["z"].log().sum(-1) if factory is gamma_vae else 0.0
    torch.testing.assert_close(prior, sum(model_trace.nodes[name]["log_prob"] for name in values) + log_slope)
    torch.testing.assert_close(log_q, sum(guide_trace.nodes[name]["log_prob"] for name in values) + log_slope)
    torch.testing.assert_close(likelihood, model_trace.nodes["x"]["log_prob"])
    for name, value in joint.latents(u, *batch).items():
        torch.testing.assert_close(value, values[name])


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_ends_trace_and_have_the_right_gradients(factory: Any, start: Any, request: pytest.FixtureRequest) -> None:
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    pair, batch = made(factory)
    if factory is plain_object:
        return
    pair.eval()
    with pyro.validation_enabled(False):
        joint = joint_of(pair, *batch)
        u = joint.draw("prior", 2, *batch).detach()
        ends = Ends(pair, joint, start)
        results = Compiled(ends, compile="eager")(u, *batch)[0]
        traced = Compiled(ends, compile="traced")(u, *batch)[0]
        step = 1e-5 * torch.randn(u.shape, dtype=u.dtype)
        forward, backward = ends(u + step, *batch), ends(u - step, *batch)
    for eager, graph in zip(results, traced, strict=True):
        torch.testing.assert_close(eager, graph)
        assert not eager.requires_grad
    for value in (0, 1):
        slope = (results[value + 2] * step).sum(-1)
        torch.testing.assert_close((forward[value] - backward[value]) / 2, slope, rtol=1e-4, atol=1e-8)
    value, gradient = joint.value_and_grad(u, *batch)
    torch.testing.assert_close(value, results[0] + results[1])
    torch.testing.assert_close(gradient, results[2] + results[3])


class OneSite(nn.Module):
    """z of any family, x ~ N(0, 1) without regard to z; the guide is of the same family."""

    def __init__(self, prior: dist.Distribution) -> None:
        super().__init__()
        self.prior = prior

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior)


ONE, HALF = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(ONE, HALF),
        dist.Exponential(2 * ONE),
        dist.Gamma(1.5 * ONE, ONE),
        dist.Beta(2 * ONE, 3 * ONE),
        dist.LogNormal(HALF, HALF),
        dist.Uniform(-3 * ONE, 2 * ONE),
        dist.Exponential(2 * ONE.expand(1)).to_event(1),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_densities_of_constrained_latents_are_normalized(prior: Any) -> None:
    """With respect to u: a forgotten Jacobian would not integrate to 1."""
    pair, x = OneSite(prior), torch.zeros(2, dtype=torch.float64)
    joint = joint_of(pair, x)
    u = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    densities = joint.densities(u[:, None, None].expand(-1, 2, 1), x, guide=True)
    for log_density in (densities.prior, densities.guide):
        assert log_density is not None
        total = torch.trapezoid(log_density.exp(), u, dim=0)
        torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)


def test_density_of_a_simplex_is_normalized() -> None:
    prior = dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64))
    pair, x = OneSite(prior), torch.zeros(1, dtype=torch.float64)
    joint = joint_of(pair, x)
    assert joint.shapes == {"z": torch.Size([2])}
    line = torch.linspace(-15, 15, 301, dtype=torch.float64)
    u = torch.cartesian_prod(line, line)[:, None]
    total = joint.densities(u, x).prior.exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)
    draws = joint.draw("prior", 50, x)
    torch.testing.assert_close(joint.unconstrained(joint.latents(draws, x), x), draws)


def test_support_that_depends_on_another_latent() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Exponential(x.new_ones(())))
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(top), top))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.zeros(3, dtype=torch.float64)
    joint = Joint(model, None, x)
    u = torch.randn(4, 3, 2, dtype=torch.float64)
    latents = joint.latents(u, x)
    assert ((latents["z"] > 0) & (latents["z"] < latents["top"])).all()
    torch.testing.assert_close(joint.unconstrained(latents, x), u)
    expected = (
        -latents["top"]
        + u[..., 0]  # log |d top / du|
        + biject_to(dist.constraints.unit_interval).log_abs_det_jacobian(u[..., 1], latents["z"] / latents["top"])
    )
    torch.testing.assert_close(joint.densities(u, x).prior, expected)


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_plates_inside_the_data_plate(data_dim: int) -> None:
    inner = -3 - data_dim

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[data_dim], dim=data_dim):
            scale = pyro.sample("scale", dist.Exponential(x.new_ones(())))
            with pyro.plate("pixels", 4, dim=inner):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x)

    x = torch.randn((4, 3) if data_dim == -1 else (3, 4), dtype=torch.float64)
    joint = Joint(model, None, x, max_plate_nesting=2)
    assert joint.dim == 1 + 4 * 2
    u = torch.randn(5, 3, 9, dtype=torch.float64)
    latents = joint.latents(u, x)
    torch.testing.assert_close(joint.unconstrained(latents, x), u)
    first = poutine.trace(poutine.condition(model, {name: value[1] for name, value in latents.items()})).get_trace(x)
    first.compute_log_prob()
    nodes: Any = first.nodes
    rows = 0 if data_dim == -1 else 1
    prior, likelihood, _ = joint.densities(u, x)
    torch.testing.assert_close(likelihood[1], nodes["x"]["log_prob"].sum(rows))
    expected = nodes["z"]["log_prob"].sum(rows) + nodes["scale"]["log_prob"].flatten() + u[1, :, 0]
    torch.testing.assert_close(prior[1], expected)
    trace = poutine.trace(model).get_trace(x)
    torch.testing.assert_close(joint.latents(joint.of(trace), x)["z"][0], trace.nodes["z"]["value"])


def test_a_subsampling_plate_does_not_scale_a_datum() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(3)
    joint = Joint(model, None, x[:2])
    u = torch.randn(2, 3, 1)
    prior, likelihood, _ = joint.densities(u, x)
    torch.testing.assert_close(prior, dist.Normal(0.0, 1.0).log_prob(u[..., 0]))
    torch.testing.assert_close(likelihood, dist.Normal(u[..., 0], 1.0).log_prob(x))


def test_a_hierarchy_is_laid_out_in_the_models_order() -> None:
    pair, (x,) = made(hierarchy)
    joint = joint_of(pair, x)
    assert joint.shapes == {"z2": torch.Size([2]), "z1": torch.Size([3])}
    u = torch.randn(2, 5, 5)
    latents = joint.latents(u, x)
    torch.testing.assert_close(latents["z2"], u[..., :2])
    torch.testing.assert_close(latents["z1"], u[..., 2:])


def test_weights_at_the_exact_posterior_are_the_evidence() -> None:
    pair, x, exact = linear_gaussian()
    joint = joint_of(pair, x)
    prior, likelihood, log_q = joint.densities(torch.randn(4, 5, 2, dtype=torch.float64), x, guide=True)
    torch.testing.assert_close(prior + likelihood - log_q, exact.expand(4, 5))


def test_refuses() -> None:
    x = torch.zeros(3)

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def without_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    def without_latents(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def other(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(0.0, 1.0))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'z' is a Bernoulli, which is discrete\. For log p\(x\) use evidence"):
        Joint(discrete, None, x)
    with pytest.raises(ValueError, match="no plate over the data"):
        Joint(without_plate, None, x)
    with pytest.raises(ValueError, match="no latent variable"):
        Joint(without_latents, None, x)
    with pytest.raises(ValueError, match=r"the guide draws y and the model z.*start='prior'"):
        Joint(model, other, x).draw("guide", 2, x)
    with pytest.raises(ValueError, match=r"the guide draws .*y.* and the model z"):
        Joint(model, other, x).densities(torch.zeros(1, 3, 1), x, guide=True)
    outside = Joint(model, lambda x: pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1)), x)
    with pytest.raises(ValueError, match="'z' stands outside the data plate"):
        outside.draw("guide", 2, x)
    with pytest.raises(ValueError, match=r"there is none.*start='prior'"):
        Joint(model, None, x).draw("guide", 2, x)
    Joint(*(Pair(model, other).model, None), x).draw("prior", 2, x)
