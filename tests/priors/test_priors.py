"""Priors against their formulae; the laws of all are in test_prior_laws.py."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pairs import binary
from pyro.distributions.transforms import AffineAutoregressive, AffineCoupling, ComposeTransformModule, Planar, permute
from pyro.nn import AutoRegressiveNN, DenseNN
from registry import FAMILIES, encoder
from torch import nn
from torch.distributions import SigmoidTransform, kl_divergence

from pyro_vae import MLP, SGVB_A, VAE, Bernoulli, DiagonalNormal, StandardNormal, posteriors, priors, transforms
from pyro_vae.posteriors import Flow as FlowPosterior
from pyro_vae.posteriors import SemiImplicitNormal
from pyro_vae.priors import Flow, LearnedNormal, MaskedAutoregressiveFlow, MixtureOfNormals, SparseBeta, VampPrior
from pyro_vae.testing import assert_traced_step
from pyro_vae.training.step import TrainingStep


@pytest.mark.parametrize("shape", [1, 3, (2, 4), (2, 3, 4)])
def test_standard_normal(shape: Any) -> None:
    prior = StandardNormal(shape)
    p, event = prior(), (shape,) if isinstance(shape, int) else shape
    assert p.event_shape == event
    assert not prior.state_dict()
    z = torch.randn(7, *event)
    by_hand = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(-1)
    torch.testing.assert_close(p.log_prob(z), by_hand)


@pytest.mark.parametrize("name", FAMILIES)
def test_learned_parameters_start_where_fixed_ones_are(name: str) -> None:
    prior = getattr(priors, name)
    torch.manual_seed(1)
    values = {parameter: torch.rand(3) + 0.3 for parameter in prior.distribution.arg_constraints}
    fixed, learned = prior(3, **values), prior(3, **values, learned=True)
    of_one = fixed() if name == "Dirichlet" else fixed().base_dist
    for parameter, value in values.items():
        torch.testing.assert_close(getattr(of_one, parameter), value)
    z = fixed().sample((5,))
    torch.testing.assert_close(learned().log_prob(z), fixed().log_prob(z), rtol=1e-4, atol=1e-4)
    by_pyro = getattr(dist, name)(**{key: value.double() for key, value in values.items()}).log_prob(z.double())
    score = fixed().log_prob(z.clone()).double()  # of the rounded draw
    torch.testing.assert_close(score, by_pyro if name == "Dirichlet" else by_pyro.sum(-1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_that_cannot_be(name: str) -> None:
    prior = getattr(priors, name)
    for parameter in set(prior.distribution.arg_constraints) - {"loc"}:
        for value in (0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 1.0, -1.0])):
            with pytest.raises(ValueError, match=rf"{parameter} of a {name} prior has to be positive and finite; got"):
                prior(3, **{parameter: value})


def test_parameters_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"rate of a Exponential.*shape of z, \[3\]; got shape \[2\]"):
        priors.Exponential(3, rate=torch.ones(2))
    with pytest.raises(ValueError, match="loc of a Laplace prior has to be finite; got nan"):
        priors.Laplace(3, loc=float("nan"))
    with pytest.raises(ValueError, match="scale of a LearnedNormal prior has to be positive"):
        LearnedNormal(3, scale=0.0)
    with pytest.raises(ValueError, match="at least two parts"):
        priors.Dirichlet(1)


def test_learned_normal() -> None:
    loc, scale = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 1.0, 3.0])
    p, q = LearnedNormal(3, loc, scale)(), encoder()(binary(6))
    z = torch.randn(5, 3)
    torch.testing.assert_close(p.log_prob(z), torch.distributions.Normal(loc, scale).log_prob(z).sum(-1))
    by_torch = kl_divergence(q.base_dist, torch.distributions.Normal(loc, scale)).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), by_torch)


def test_sparse_beta_is_nearly_binary() -> None:
    z = SparseBeta(1000, 0.1)().sample()
    near = ((z < 0.01) | (z > 0.99)).float().mean()
    expected = 2 * torch.distributions.Beta(0.1, 0.1).sample((20_000,)).lt(0.01).float().mean()
    assert abs(near - expected) < 0.08
    assert near > 0.5
    values: list[Any] = [1.0, 2.0, torch.tensor([0.5, 0.5, 1.5])]
    for concentration in values:
        for learned in (False, True):
            with pytest.raises(ValueError, match="has to be below 1"):
                SparseBeta(3, concentration, learned)


def test_learned_sparse_beta_stays_sparse() -> None:
    prior = SparseBeta(3, torch.tensor([0.1, 0.3, 0.9]), learned=True)
    q = prior().base_dist
    for concentration in (q.concentration1, q.concentration0):
        torch.testing.assert_close(concentration, torch.tensor([0.1, 0.3, 0.9]))
    z = torch.full((1, 3), 0.5)  # where a Beta of larger concentrations has more mass
    optimizer = torch.optim.SGD(prior.parameters(), 5.0)
    for _ in range(100):
        optimizer.zero_grad()
        (-prior().log_prob(z)).sum().backward()
        optimizer.step()
    assert (prior().base_dist.concentration1 > 0.99).all()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.tensor([-1e4, 50.0, 1e4]))
    assert (prior().base_dist.concentration1 < 1).all()
    assert (prior().base_dist.concentration1 > 0).all()
    assert prior().log_prob(prior().sample()).isfinite()


def test_mixture_of_normals() -> None:
    prior = MixtureOfNormals(2, 3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -0.5]))
        prior.log_scale.normal_()
    z = torch.randn(5, 2)
    weights = prior.logits.exp() / prior.logits.exp().sum()
    by_hand = sum(
        weight * torch.distributions.Normal(loc, log_scale.exp()).log_prob(z).sum(-1).exp()
        for weight, loc, log_scale in zip(weights, prior.loc, prior.log_scale, strict=True)
    )
    torch.testing.assert_close(prior().log_prob(z).exp(), by_hand)
    by_pyro = dist.MixtureSameFamily(dist.Categorical(logits=prior.logits), prior().components)
    torch.testing.assert_close(prior().log_prob(z), by_pyro.log_prob(z))
    torch.testing.assert_close(prior().mean, by_pyro.mean)
    assert prior().expand((5,)).mean.shape == (5, 2)
    # The moments of draws, about which nothing above asks.
    n = 40_000
    draws = prior().sample((n,))
    for ours, theirs in [(draws, by_pyro.mean), (draws**2, by_pyro.variance + by_pyro.mean**2)]:
        assert ((ours.mean(0) - theirs).abs() < 4.5 * ours.std(0) / math.sqrt(n)).all()


def test_mixture_starts_with_components_apart() -> None:
    prior = MixtureOfNormals(10, 5)
    assert torch.pdist(prior.loc.detach()).min() > 2
    with pytest.raises(ValueError, match="num_components has to hold sizes of at least 1"):
        MixtureOfNormals(2, 0)
    for spread in [0.0, -1.0, float("nan")]:
        with pytest.raises(ValueError, match="spread has to be a finite number above 0; got"):
            MixtureOfNormals(2, 3, spread)


@pytest.mark.parametrize("family", ["DiagonalNormal", "Laplace", "Gamma"])
@pytest.mark.parametrize("latent", [(3,), (2, 4)])
def test_vamp_prior(family: str, latent: Any) -> None:
    posterior = encoder(getattr(posteriors, family), latent)
    prior = VampPrior(posterior, 6, 4, noise=2.0)
    z = posterior(binary(6)).sample()
    u = prior.pseudo_inputs.detach()
    assert ((u < 0) | (u > 1)).any()
    by_hand = torch.stack([posterior(one.clamp(0, 1).expand(5, 6)).log_prob(z).exp() for one in u]).mean(0)
    torch.testing.assert_close(prior().log_prob(z).exp(), by_hand)
    torch.testing.assert_close(prior().mean, posterior(u.clamp(0, 1)).mean.mean(0))
    free = VampPrior(posterior, 6, 4, unit_interval=False)
    by_hand = torch.stack([posterior(one.expand(5, 6)).log_prob(z).exp() for one in free.pseudo_inputs]).mean(0)
    torch.testing.assert_close(free().log_prob(z).exp(), by_hand)


STEPS: dict[str, list[Any]] = {
    "IAF": [transforms.InverseAutoregressive(3, 6, hidden=(8,)), transforms.Permutation(3, 6)],
    "MAF": [transforms.MaskedAutoregressive(3, 6, hidden=(8,))],
    "spline": [transforms.SplineCoupling(3, 6, hidden=(8,))],
    "Planar": [transforms.Planar(3, 6), transforms.Radial(3, 6)],
    "Householder": [transforms.Householder(3, 6), transforms.Sylvester(3, 6)],
    "positive": [transforms.Planar(3, 6), torch.distributions.ExpTransform()],
}


@pytest.mark.parametrize("name", STEPS)
def test_vamp_prior_over_a_flow(name: str) -> None:
    posterior = FlowPosterior(encoder(), copy.deepcopy(STEPS[name])).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    prior = VampPrior(posterior, 6, 4, noise=2.0).double()
    z = posterior(binary(6).double()).sample()
    u = prior.pseudo_inputs.detach().clamp(0, 1)
    by_hand = torch.stack([posterior(one.expand(5, 6)).log_prob(z).exp() for one in u]).mean(0)
    torch.testing.assert_close(prior().log_prob(z).exp(), by_hand)
    torch.testing.assert_close(prior().expand((5,)).log_prob(z.expand(2, 5, 3)).exp(), by_hand.expand(2, 5))


@pytest.mark.parametrize("name", ["MAF", *(pytest.param(name, marks=pytest.mark.slow) for name in STEPS)])
def test_vamp_prior_over_a_flow_trains(name: str) -> None:
    def make() -> VAE:
        posterior = FlowPosterior(encoder(), copy.deepcopy(STEPS[name]))
        return VAE(VampPrior(posterior, 6, 4), posterior, Bernoulli(MLP(3, 6, (4,))))

    assert_traced_step(make, binary(6))


def test_vamp_prior_needs_a_posterior_that_scores_any_value() -> None:
    head = MLP(4 + 2, (2, 3))
    for posterior in (
        SemiImplicitNormal(MLP(6, 4), head, noise_dim=2),
        FlowPosterior(encoder(), [Planar(3)]),  # Pyro's, without an inverse
    ):
        with pytest.raises(ValueError, match=r"cannot score a given value. Give VampPrior a posterior that can"):
            VampPrior(posterior, 6, 4)().log_prob(torch.randn(5, 3))
    uniform = posteriors.Uniform(MLP(6, (2, 3)))
    with pytest.raises(ValueError, match=r"a VampPrior needs .* that of a Uniform moves"):
        VampPrior(uniform, 6, 4)()


def test_vamp_prior_leaves_running_statistics_alone() -> None:
    torch.manual_seed(1)
    network = MLP(6, (2, 3), (4,), normalization="batch")
    posterior = DiagonalNormal(network)
    prior = VampPrior(posterior, 6, 4, noise=1.0)
    before = {name: value.clone() for name, value in posterior.named_buffers()}
    assert before
    u = prior.pseudo_inputs.detach().clamp(0, 1)
    trained = prior().components.mean
    for name, value in posterior.named_buffers():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(trained, copy.deepcopy(posterior)(u).mean)  # its own batch statistics
    posterior(binary(6))
    assert any((value != before[name]).any() for name, value in posterior.named_buffers())
    posterior.eval()
    torch.testing.assert_close(prior().components.mean, posterior(u).mean)  # the running ones
    alone, posterior = DiagonalNormal(copy.deepcopy(network)).train(), posterior.train()
    for name, value in before.items():
        for pair in (alone, posterior):
            dict(pair.named_buffers())[name].copy_(value)
    data = binary(6, size=8)
    TrainingStep(VAE(prior, posterior, Bernoulli(MLP(3, 6, (4,)))), SGVB_A(), compile="traced")((data,))
    alone(data)
    for value, expected in zip(posterior.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(value, expected)


def test_vamp_prior_starts_at_the_mean() -> None:
    mean = torch.rand(1, 2, 3)
    prior = VampPrior(nn.Identity(), (1, 2, 3), 2000, mean)
    assert prior.pseudo_inputs.shape == (2000, 1, 2, 3)
    torch.testing.assert_close(prior.pseudo_inputs.mean(0), mean, rtol=0, atol=2e-3)
    assert 0.009 < (prior.pseudo_inputs - mean).std() < 0.011
    assert VampPrior(nn.Identity(), 6).pseudo_inputs.shape == (500, 6)
    with pytest.raises(ValueError, match=r"of the shape \[6\]; got \[5\]"):
        VampPrior(nn.Identity(), 6, mean=torch.zeros(5))
    with pytest.raises(ValueError, match="event_shape has to hold sizes"):
        VampPrior(nn.Identity(), 0)
    with pytest.raises(ValueError, match=r"noise has to be a finite number above 0; got 0\.0"):
        VampPrior(nn.Identity(), 6, noise=0.0)


def test_vamp_prior_and_posterior_are_one() -> None:
    posterior = encoder()
    vae = VAE(VampPrior(posterior, 6, 4), posterior, Bernoulli(MLP(3, 6, (4,))))
    assert [name for name in vae.state_dict() if name.startswith("prior")] == ["prior.pseudo_inputs"]
    parts = [*posterior.parameters(), *vae.likelihood.parameters()]
    assert len(list(vae.parameters())) == 1 + len(parts)
    copied = copy.deepcopy(vae)
    assert copied.prior.posterior is copied.posterior
    assert copied.posterior is not posterior
    z = torch.randn(5, 3)
    before = vae.prior().log_prob(z)
    with torch.no_grad():
        for parameter in copied.posterior.parameters():
            parameter += 0.5
    torch.testing.assert_close(vae.prior().log_prob(z), before, rtol=0, atol=0)
    assert (copied.prior().log_prob(z) != before).all()
    vae.load_state_dict(copied.state_dict())
    torch.testing.assert_close(vae.prior().log_prob(z), copied.prior().log_prob(z))
    # The bound has a gradient for the posterior by way of the prior.
    (gradient,) = torch.autograd.grad(vae.prior().log_prob(z).sum(), [next(posterior.parameters())])
    assert gradient.abs().max() > 0
    assert vae.double().prior().log_prob(z.double()).dtype == torch.float64


def autoregressive() -> AffineAutoregressive:
    return AffineAutoregressive(AutoRegressiveNN(2, [8], permutation=torch.tensor([0, 1])))


FLOWS: dict[str, Any] = {
    "autoregressive, inverted": lambda: Flow(StandardNormal(2), [autoregressive(), autoregressive()], invert=True),
    "coupling": lambda: Flow(StandardNormal(2), [AffineCoupling(1, DenseNN(1, [4], [1, 1]))]),
    "composed": lambda: Flow(LearnedNormal(2), [ComposeTransformModule([Planar(2), autoregressive()])], invert=True),
    "inverted": lambda: Flow(LearnedNormal(2), [transforms.InverseAutoregressive(2)], invert=True),
    "permuted": lambda: Flow(LearnedNormal(2), [permute(2), transforms.MaskedAutoregressive(2)]),
    "on a mixture": lambda: Flow(MixtureOfNormals(2, 3), [transforms.Radial(2), transforms.Planar(2)], invert=True),
}


def stirred(make: Any) -> Flow:
    """A flow away from the identity."""
    torch.manual_seed(3)
    flow = make()
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            parameter += 0.3 * torch.randn_like(parameter) / math.sqrt(parameter.shape[-1])
    return flow


@pytest.mark.parametrize("name", FLOWS)
def test_flow_integrates_to_one(name: str) -> None:
    flow = stirred(FLOWS[name]).double()
    axis = torch.linspace(-15, 15, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(flow().log_prob(grid) - flow.base().log_prob(grid)).max() > 0.3
    assert abs(mass - 1) < 1e-2, mass


def test_a_flow_ends_on_the_unit_interval() -> None:
    prior = Flow(StandardNormal(2), [transforms.SplineCoupling(2), SigmoidTransform()])
    z = prior().sample((100,))
    assert ((z > 0) & (z < 1)).all()
    by_hand = Flow(StandardNormal(2), list(prior.transforms)[:1])().log_prob(z.logit()) - (z * (1 - z)).log().sum(-1)
    torch.testing.assert_close(prior().log_prob(z.clone()), by_hand, rtol=1e-4, atol=1e-4)

    def make() -> VAE:
        prior = Flow(LearnedNormal(2), [SigmoidTransform()])
        posterior = FlowPosterior(encoder(shape=(2,)), [SigmoidTransform()])
        return VAE(prior, posterior, Bernoulli(MLP(2, 6, (4,))))

    assert_traced_step(make, binary(6))


def test_direction_of_a_flow() -> None:
    first, second = autoregressive(), autoregressive()
    z = torch.randn(5, 2)
    log_base = StandardNormal(2)().log_prob
    flow = Flow(StandardNormal(2), [first, second], invert=True)
    middle = first(z)
    epsilon = second(middle)
    by_hand = log_base(epsilon) + first.log_abs_det_jacobian(z, middle) + second.log_abs_det_jacobian(middle, epsilon)
    torch.testing.assert_close(flow().log_prob(z), by_hand)
    flow = Flow(StandardNormal(2), [first, second])
    by_hand = log_base(z) - first.log_abs_det_jacobian(z, middle) - second.log_abs_det_jacobian(middle, epsilon)
    torch.testing.assert_close(flow().log_prob(epsilon), by_hand, rtol=1e-4, atol=1e-4)


QUICK = ("composed", "permuted", "on a mixture")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FLOWS]
)
def test_flows_train_and_leave_nothing_behind(name: str) -> None:
    def make() -> VAE:
        return VAE(FLOWS[name](), encoder(shape=(2,)), Bernoulli(MLP(2, 6, (4,))))

    vae: Any = assert_traced_step(make, binary(6))
    z = torch.randn(5, 2, requires_grad=True)
    log_prob = vae.prior().expand((5,)).log_prob(z)
    torch.testing.assert_close(copy.deepcopy(vae).prior().log_prob(z), log_prob)  # no graph is left on a module
    log_prob.sum().backward()
    assert z.grad is not None


def test_what_is_no_flow() -> None:  # Steps has a test of what is no step
    with pytest.raises(ValueError, match="at least one step"):
        Flow(StandardNormal(2), [])
    with pytest.raises(ValueError, match="needs a context"):
        Flow(StandardNormal(2), [transforms.Planar(2, context_dim=4)])


def test_masked_autoregressive_flow() -> None:
    torch.manual_seed(0)
    prior = MaskedAutoregressiveFlow(3, num_transforms=2, hidden=(8,))
    assert [type(step) for step in prior.transforms] == [transforms.InverseAutoregressive] * 2
    z = prior().sample((2000,))
    jacobian = prior().log_prob(z) - StandardNormal(3)().log_prob(z)
    by_hand = torch.zeros(2000)
    eps = z
    for step in prior.transforms:
        transform = step()
        following = transform(eps)
        by_hand = by_hand + transform.log_abs_det_jacobian(eps, following)
        eps = following
    by_hand = by_hand + StandardNormal(3)().log_prob(eps) - StandardNormal(3)().log_prob(z)
    torch.testing.assert_close(jacobian, by_hand, atol=1e-4, rtol=1e-4)
    assert (eps.mean(0).abs() < 0.1).all()  # draws are carried back to the base
    assert ((eps.std(0) - 1).abs() < 0.1).all()
