"""Families with a reparameterized sampler, and the posteriors made of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from laws import assert_mean
from pairs import binary, real
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyro_vae
from pyro_vae import MLP, SGVB_A, SGVB_B, VAE, Bernoulli, priors
from pyro_vae.distributions import families
from pyro_vae.posteriors import families as posteriors


class KumaraswamyByHand:
    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def logpdf(self, z: Any) -> Any:
        return np.log(self.a * self.b) + (self.a - 1) * np.log(z) + (self.b - 1) * np.log1p(-(z**self.a))

    def cdf(self, z: Any) -> Any:
        return 1 - (1 - z**self.a) ** self.b

    def ppf(self, u: Any) -> Any:
        return (1 - (1 - u) ** (1 / self.b)) ** (1 / self.a)


# Parameters, in the order of the class, and scipy's distribution of them.
SCALAR: dict[str, tuple[tuple[float, ...], Any]] = {
    "Exponential": ((1.7,), lambda rate: scipy.stats.expon(scale=1 / rate)),
    "Cauchy": ((0.4, 1.7), scipy.stats.cauchy),
    "Logistic": ((0.4, 1.7), scipy.stats.logistic),
    "Gumbel": ((0.4, 1.7), scipy.stats.gumbel_r),
    "Weibull": ((1.7, 0.8), lambda scale, k: scipy.stats.weibull_min(k, scale=scale)),
    "Kumaraswamy": ((0.8, 1.7), KumaraswamyByHand),
    "Laplace": ((0.4, 1.7), scipy.stats.laplace),
    "StudentT": ((2.6, 0.4, 1.7), scipy.stats.t),
    "Uniform": ((0.3, 0.8), lambda low, high: scipy.stats.uniform(low, high - low)),
    "LogNormal": ((0.4, 0.7), lambda loc, scale: scipy.stats.lognorm(scale, scale=np.exp(loc))),
    "Gamma": ((0.6, 1.7), lambda c, rate: scipy.stats.gamma(c, scale=1 / rate)),
    "Beta": ((0.6, 1.7), scipy.stats.beta),
}
NAMES = [*SCALAR, "Dirichlet"]
CLOSED_FORM = set(NAMES) - {"Logistic", "Kumaraswamy", "StudentT"}


class Constant(nn.Module):
    """A network that gives the same output for each datum ``[6]``."""

    in_shape = (6,)

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(*x.shape[:-1], *self.output.shape)


def posterior_of(name: str, latent: Any = (3,), **options: Any) -> Any:
    family = getattr(posteriors, name)
    return family(MLP(6, family(nn.Identity(), **options).network_shape(latent), (4,)), **options)


def vae_of(name: str, **options: Any) -> VAE:
    return VAE(getattr(priors, name)(3, **options), posterior_of(name), Bernoulli(MLP(3, 6, (4,))))


@pytest.mark.parametrize("name", SCALAR)
def test_density_and_draws(name: str) -> None:
    parameters, reference = SCALAR[name]
    p = getattr(families, name)(*torch.tensor(parameters, dtype=torch.float64))
    z = p.rsample((20_000,))
    by_scipy = torch.as_tensor(reference(*parameters).logpdf(z.numpy()))
    torch.testing.assert_close(p.log_prob(z), by_scipy, rtol=1e-8, atol=1e-8)
    assert scipy.stats.kstest(z.numpy(), reference(*parameters).cdf).pvalue > 1e-3
    in_float32 = getattr(families, name)(*torch.tensor(parameters)).sample((20_000,))
    assert scipy.stats.kstest(in_float32.double().numpy(), reference(*parameters).cdf).pvalue > 1e-3
    if name not in ("Cauchy", "StudentT"):  # no mean, no finite variance of the variance
        assert_mean(z, p.mean)


@pytest.mark.parametrize("concentration", [0.05, 0.3, 5.0])
def test_draws_of_other_concentrations(concentration: float) -> None:
    # At 0.05 a third of torch's own Gamma draws in float32 would be cut off or crowded near 0.
    c = torch.tensor(concentration)
    u = scipy.stats.gamma(concentration).cdf(families.Gamma(c, torch.ones(())).sample((20_000,)).double().numpy())
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    z = families.Beta(c.double(), torch.tensor(1.0).double()).sample((20_000,))
    assert scipy.stats.kstest(z.numpy(), scipy.stats.beta(concentration, 1.0).cdf).pvalue > 1e-3


def test_dirichlet() -> None:
    c = torch.tensor([0.6, 1.7, 2.5], dtype=torch.float64)
    z = families.Dirichlet(c).sample((20_000,))
    torch.testing.assert_close(z.sum(-1), torch.ones(20_000, dtype=torch.float64))
    for part in range(3):
        marginal = scipy.stats.beta(c[part], c.sum() - c[part])
        assert scipy.stats.kstest(z[:, part].numpy(), marginal.cdf).pvalue > 1e-3
    by_scipy = [scipy.stats.dirichlet(c.numpy()).logpdf(one) for one in (z / z.sum(-1, True)).numpy()[:50]]
    torch.testing.assert_close(families.Dirichlet(c).log_prob(z)[:50], torch.tensor(by_scipy, dtype=torch.float64))


def bounded(z: Any) -> Any:
    return z / (1 + abs(z))


@pytest.mark.parametrize("name", SCALAR)
def test_gradients_of_expectations(name: str) -> None:
    """d/d parameter of E f(z), by the sampler and by quadrature over the inverse CDF."""
    values, reference = SCALAR[name]
    size = 40_000
    parameters = [torch.full((size,), value, dtype=torch.float64, requires_grad=True) for value in values]
    z = getattr(families, name)(*parameters).rsample()
    draws = torch.autograd.grad(bounded(z).sum(), parameters)
    u = (np.arange(200_000) + 0.5) / 200_000
    for place, gradient in enumerate(draws):
        step = np.zeros(len(values))
        step[place] = 1e-4
        above, below = (bounded(reference(*(np.array(values) + s)).ppf(u)).mean() for s in (step, -step))
        assert_mean(gradient, float(above - below) / 2e-4)


def test_gradients_of_a_dirichlet() -> None:
    c = torch.tensor([0.6, 1.7, 2.5], dtype=torch.float64).expand(40_000, 3).clone().requires_grad_()
    (draws,) = torch.autograd.grad((families.Dirichlet(c).rsample()[:, 0] ** 2).sum(), c)
    one = c[0].detach().requires_grad_()
    total = one.sum()
    (expected,) = torch.autograd.grad(one[0] * (one[0] + 1) / (total * (total + 1)), one)
    for part in range(3):
        assert_mean(draws[:, part], expected[part])


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_a_gradient_or_none(name: str) -> None:
    q = posterior_of(name)(real(6))
    assert q.has_rsample
    torch.manual_seed(3)
    z = q.rsample()
    torch.manual_seed(3)
    drawn = q.sample()
    assert z.requires_grad
    assert not drawn.requires_grad
    torch.testing.assert_close(drawn, z.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("latent", [(3,), (2, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str, latent: Any, leading: Any) -> None:
    posterior = posterior_of(name, latent)
    q = posterior(real(6).expand(*leading, 6))
    assert q.batch_shape == leading
    assert q.event_shape == latent
    z = q.rsample((7,))
    assert z.shape == (7, *leading, *latent)
    assert q.log_prob(z).shape == (7, *leading)
    assert q.expand((4, *leading)).rsample().shape == (4, *leading, *latent)
    assert q.support.check(z).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"Uniform"}))
def test_parameters_by_hand(name: str) -> None:
    posterior = posterior_of(name)
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
    q = posteriors.StudentT(Constant(torch.zeros(3, 2)))(real(6))
    torch.testing.assert_close(q.base_dist.df, priors.StudentT(2)().base_dist.df.expand(5, 2))
    for output in (-50.0, -3.0, 50.0):
        mean = posteriors.StudentT(Constant(torch.full((3, 2), output)))(real(6)).mean
        assert mean.isfinite().all()


def test_student_of_given_df() -> None:
    posterior = posterior_of("StudentT", df=4.5)
    q, (loc, raw) = posterior(real(6)), posterior.network(real(6)).unbind(1)
    z = q.sample()
    by_scipy = scipy.stats.t(4.5, loc.detach(), nn.functional.softplus(raw).detach()).logpdf(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.as_tensor(by_scipy).float())
    with pytest.raises(ValueError, match=r"StudentT has 2 parameters"):
        posteriors.StudentT(MLP(6, (3, 3)), df=4.5)(real(6))


@pytest.mark.parametrize("df", [0.0, -1.0, float("nan"), float("inf")])
def test_df_that_cannot_be(df: float) -> None:
    with pytest.raises(ValueError, match="df has to be a finite number above 0; got"):
        posteriors.StudentT(nn.Identity(), df=df)


@pytest.mark.parametrize("df", [0.01, 0.5, 30.0, 59.0, 61.0, 1e3, 1e5, 1e8])
def test_student_of_any_df_in_float32(df: float) -> None:
    z = torch.tensor([-3.0, 0.0, 0.5, 6.0])
    one = torch.ones(())
    by_scipy = torch.as_tensor(scipy.stats.t(df).logpdf(z)).float()
    torch.testing.assert_close(families.StudentT(df * one, 0 * one, one).log_prob(z), by_scipy, rtol=1e-5, atol=1e-5)


def test_uniform_is_a_part_of_the_prior() -> None:
    x = 50 * real(6, size=1000)
    posterior = posterior_of("Uniform", low=-1.0, high=3.0)
    q = posterior(x)
    place, width = posterior.network(x).sigmoid().unbind(1)
    low, high = q.base_dist.low, q.base_dist.high
    assert (low >= -1).all()
    assert (high <= 3).all()
    torch.testing.assert_close((high - low) / 4, width.clamp(min=1e-4), rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(low, -1 + 4 * (1 - width) * place, rtol=1e-3, atol=1e-3)
    kl = kl_divergence(q, priors.Uniform(3, -1.0, 3.0)())
    torch.testing.assert_close(kl, -((high - low) / 4).log().sum(-1))


def test_uniform_draws_are_inside_a_narrow_interval() -> None:
    low = torch.tensor([1.0, -1.0, 0.0])
    p = families.Uniform(low, torch.tensor([1.0 + 4e-7, -1.0 + 4e-7, 1.0]))
    z = p.sample((100_000,))
    assert (z > p.low).all()
    assert (z < p.high).all()
    assert p.log_prob(z).isfinite().all()


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
@pytest.mark.parametrize(
    "make", [lambda *b: posteriors.Uniform(nn.Identity(), None, *b), lambda *b: priors.Uniform(3, *b)]
)
def test_bounds_that_cannot_be(make: Any, bounds: Any) -> None:
    with pytest.raises(ValueError, match=r"the bounds of a Uniform .* low below high; got"):
        make(*bounds)


def inside(name: str, z: Tensor) -> bool:
    if not z.isfinite().all():
        return False
    if name in ("Kumaraswamy", "Uniform", "Beta", "Dirichlet"):
        return bool(((z > 0) & (z < 1)).all())
    return name in ("Cauchy", "Logistic", "Gumbel", "Laplace", "StudentT") or bool((z > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_extremes_in_float32(name: str) -> None:
    """Whatever a network gives: draws inside the support, finite log-probabilities, finite gradients."""
    count = posterior_of(name).network_shape((3,))[0]
    x = real(6, size=2000)
    prior = getattr(priors, name)(3)()
    for corner in itertools.product([-1e4, -30.0, 0.0, 8.0], repeat=count):
        network = Constant(torch.tensor(corner).unsqueeze(-1).expand(count, 3).clone())
        q = getattr(posteriors, name)(network)(x)
        z = q.rsample()
        assert inside(name, z), corner
        log_q = q.log_prob(z)
        assert log_q.isfinite().all(), corner
        (gradient,) = torch.autograd.grad((log_q - z.log1p().sum(-1) if (z > 0).all() else log_q).sum(), network.output)
        assert gradient.isfinite().all(), (corner, gradient)
        if max(map(abs, corner)) < 1e4:
            assert prior.log_prob(z.detach()).isfinite().all(), corner


@pytest.mark.parametrize("outputs", [(-100.0, 100.0), (-100.0, 50.0), (100.0, 100.0), (0.0, 100.0)])
def test_wide_log_normals_have_a_gradient_under_the_prior(outputs: tuple[float, float]) -> None:
    network = Constant(torch.tensor(outputs).unsqueeze(-1).expand(2, 3).clone())
    q = posteriors.LogNormal(network)(real(6, size=2000))
    (gradient,) = torch.autograd.grad(priors.LogNormal(3)().log_prob(q.rsample()).sum(), network.output)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["Kumaraswamy", "Weibull"])
def test_torch_itself_leaves_the_support(name: str) -> None:
    """Why the families have samplers of their own."""
    small = torch.full((20_000,), 0.02)
    theirs = getattr(dist, name)(small, small).sample()
    assert not inside(name, theirs)
    ours = getattr(families, name)(small, small)
    z = ours.sample()
    assert inside(name, z)
    assert ours.log_prob(z).isfinite().all()


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:SGVB_B. no closed-form KL")
def test_training_steps_are_traced(name: str, estimator: Any) -> None:
    vae = vae_of(name)
    before = [parameter.clone() for parameter in vae.parameters()]
    run = pyro_vae.fit(
        vae, binary(6, size=8), epochs=1, batch_size=4, estimator=estimator(), progress=False, compile="traced"
    )
    assert run.mode == "traced"
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert any((old != new).any() for old, new in zip(before, vae.posterior.parameters(), strict=False))


@pytest.mark.parametrize("name", NAMES)
def test_closed_form_kl(name: str) -> None:
    torch.manual_seed(1)
    prior = getattr(priors, name)(3)
    q, p = posterior_of(name)(real(6)), prior()
    if name not in CLOSED_FORM:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        return
    kl = kl_divergence(q, p)
    assert kl.shape == (5,)
    with torch.no_grad():
        z = q.sample((20_000,))
        ratio = q.log_prob(z) - p.log_prob(z)
    if name == "Uniform":
        torch.testing.assert_close(kl, ratio[0], rtol=1e-4, atol=1e-4)
        return
    for datum in range(5):
        assert_mean(ratio[:, datum], kl[datum].detach())


def test_kl_of_weibulls() -> None:
    q = families.Weibull(*torch.tensor([1.3, 0.7], dtype=torch.float64))
    p = families.Weibull(*torch.tensor([0.4, 1.8], dtype=torch.float64))
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    z = torch.as_tensor(scipy.stats.weibull_min(0.7, scale=1.3).ppf(u))
    torch.testing.assert_close(kl_divergence(q, p), (q.log_prob(z) - p.log_prob(z)).mean(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros((), dtype=torch.float64))
    # At concentrations of 1 it is that of two exponentials.
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(
        kl_divergence(families.Weibull(2 * one, one), families.Weibull(5 * one, one)),
        kl_divergence(dist.Exponential(one / 2), dist.Exponential(one / 5)),
    )


def test_kl_of_gumbels() -> None:
    q, p = (families.Gumbel(*parameters) for parameters in torch.rand(2, 2, 50, dtype=torch.float64) + 0.5)
    by_torch = kl_divergence(*(torch.distributions.Gumbel(of.loc, of.scale) for of in (q, p)))
    torch.testing.assert_close(kl_divergence(q, p), by_torch)
    for outputs in itertools.product([-100.0, 100.0], repeat=2):
        network = Constant(torch.tensor(outputs).unsqueeze(-1).expand(2, 3).clone())
        kl = kl_divergence(posteriors.Gumbel(network)(real(6)), priors.Gumbel(3)())
        assert kl.isfinite().all(), outputs
        (gradient,) = torch.autograd.grad(kl.sum(), network.output)
        assert gradient.isfinite().all(), outputs


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_means(name: str) -> None:
    vae = vae_of(name)
    code = pyro_vae.diagnostics.encode(vae, binary(6))["z"]
    mean = vae.posterior(binary(6)).mean
    if name == "Cauchy":
        assert mean.isnan().all()
        assert code.isfinite().all()
    else:
        torch.testing.assert_close(code, mean)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_networks_give_float32_distributions(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior_of(name)(real(6))
        z = q.rsample()
    assert z.dtype == torch.float32
    assert q.log_prob(z).dtype == torch.float32
    assert posterior_of(name).double()(real(6).double()).sample().dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_network_without_the_parameters(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has \d parameters?.*\[5, 9, 3\]"):
        getattr(posteriors, name)(MLP(6, (9, 3), (4,)))(real(6))


def test_positive_parameters_come_back() -> None:
    positive = families.Gamma.arg_constraints["rate"]
    for value in [1e-5, 0.3, 1.0, 30.0, 1e4]:
        parameter = torch.tensor(value)
        raw = families.unconstrained(positive, parameter)
        torch.testing.assert_close(families.constrained(positive, raw), parameter, rtol=1e-4, atol=0)
    assert families.constrained(positive, torch.tensor(-math.inf)) > 0
    with pytest.raises(TypeError, match="real or positive"):
        families.constrained(torch.distributions.constraints.unit_interval, torch.zeros(()))


def test_other_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="seed that"):
        families.Gamma(torch.ones(()), torch.ones(())).rsample(generator=torch.Generator())
