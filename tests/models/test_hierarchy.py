"""Hierarchies: the two guides, held to a linear-Gaussian chain whose log p(x) is known in closed form."""

import functools
import math
import os
import signal
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import MADE, VARIANTS, assert_means_equal
from pairs import binary
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import (
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    BottomUpVAE,
    DReG,
    Enumeration,
    TopDownVAE,
    check,
    evidence,
    fit,
)
from pyro_vae.diagnostics import active_units, rate_distortion, reconstruct, sample
from pyro_vae.hierarchy import LatentLayer, concat
from pyro_vae.models import ConvLadderVAE, FullBayes, HierarchicalVAE, LadderVAE
from pyro_vae.models.ladder_vae import merged
from pyro_vae.pair import computing_once, once, programs, run
from pyro_vae.training.schedules import Linear as Warmup
from pyro_vae.training.step import TrainingStep

D3, D2, D1, DX = 2, 3, 4, 5


class Linear(nn.Module):
    """z -> N(W z + b, s^2): a conditional, a posterior or a likelihood of the chain."""

    def __init__(self, weight, bias, scale):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.scale = nn.Parameter(scale.log())

    def forward(self, z):
        return dist.Normal(z @ self.weight.mT + self.bias, self.scale.exp()).to_event(1)


class Standard(nn.Module):
    def __init__(self, size, dtype):
        super().__init__()
        self.register_buffer("zero", torch.zeros(size, dtype=dtype))

    def forward(self):
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Chain:
    """z3 ~ N(0, I), z2 = A3 z3 + noise, z1 = A2 z2 + noise, x = A1 z1 + noise: jointly Gaussian."""

    def __init__(self, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        draw = functools.partial(torch.randn, generator=generator, dtype=dtype)
        self.dtype = dtype
        self.sizes = (D1, D2, D3)
        self.weights = [draw(DX, D1) / 2, draw(D1, D2) / 2, draw(D2, D3) / 2]
        self.biases = [draw(DX), draw(D1), draw(D2)]
        self.scales = [torch.rand(size, generator=generator, dtype=dtype) + 0.5 for size in (DX, D1, D2)]
        self.x = draw(7, DX)

    def parts(self):
        return [Linear(*part) for part in zip(self.weights, self.biases, self.scales, strict=True)]

    def marginals(self):
        """(mean, covariance) of z3, z2, z1, x."""
        mean, covariance = torch.zeros(D3, dtype=self.dtype), torch.eye(D3, dtype=self.dtype)
        found = [(mean, covariance)]
        for weight, bias, scale in zip(
            reversed(self.weights), reversed(self.biases), reversed(self.scales), strict=True
        ):
            mean = weight @ mean + bias
            covariance = weight @ covariance @ weight.mT + torch.diag(scale**2)
            found.append((mean, covariance))
        return found

    def log_evidence(self):
        mean, covariance = self.marginals()[-1]
        return dist.MultivariateNormal(mean, covariance).log_prob(self.x)

    def upwards(self):
        """The exact p(z1 | x), p(z2 | z1), p(z3 | z2): a chain read backwards is one of the same kind."""
        below = self.marginals()[::-1]  # x, z1, z2, z3
        return [
            Backwards(weight, scale, *mean_and_covariance, bias)
            for weight, scale, bias, mean_and_covariance in zip(
                self.weights, self.scales, self.biases, below[1:], strict=True
            )
        ]

    def downwards(self):
        """The exact p(z3 | x), p(z2 | z3, x), p(z1 | z2, x), by the likelihood of each level, integrated from below."""
        weight, bias, variance = self.weights[0], self.biases[0], torch.diag(self.scales[0] ** 2)
        found = []
        for level in range(3):
            found.append((weight, bias, variance))  # x | z_level = N(weight z + bias, variance)
            if level < 2:
                above, shift, scale = self.weights[level + 1], self.biases[level + 1], self.scales[level + 1]
                variance = variance + weight @ torch.diag(scale**2) @ weight.mT
                weight, bias = weight @ above, weight @ shift + bias
        return found


class Backwards(nn.Module):
    """p(z | y) of z ~ N(mean, covariance), y ~ N(weight z + bias, scale^2)."""

    def __init__(self, weight, scale, mean, covariance, bias):
        super().__init__()
        precision = torch.linalg.inv(covariance) + weight.mT @ torch.diag(scale**-2) @ weight
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ weight.mT @ torch.diag(scale**-2)
        self.shift = self.covariance @ torch.linalg.inv(covariance) @ mean - self.gain @ bias
        self.weight = nn.Parameter(self.gain)

    def forward(self, y):
        return dist.MultivariateNormal(y @ self.weight.mT + self.shift, self.covariance)


class Rung(LatentLayer):
    """A level of the chain whose posterior is the exact p(z_l | z_(l+1), x), or a diagonal one of its own."""

    def __init__(self, conditional, seen, exact):
        super().__init__()
        self.conditional = conditional
        weight, self.bias, self.variance = seen
        self.weight, self.exact = nn.Parameter(weight.clone()), exact
        self.calls = []

    def prior(self, h):
        self.calls.append("prior")
        return self.conditional() if h is None else self.conditional(h)

    def posterior(self, p, h, evidence):
        p = p.base_dist
        seen = self.weight.mT @ torch.linalg.inv(self.variance)
        precision = torch.diag_embed(p.scale**-2) + seen @ self.weight
        covariance = torch.linalg.inv(precision)
        loc = (covariance @ (p.loc * p.scale**-2 + (evidence - self.bias) @ seen.mT).unsqueeze(-1)).squeeze(-1)
        if self.exact:
            return dist.MultivariateNormal(loc, covariance)
        return dist.Normal(loc, covariance.diagonal(dim1=-2, dim2=-1).sqrt() * 1.3).to_event(1)

    def forward(self, h, z):
        self.calls.append("forward")
        return z


class Same(nn.Module):
    def forward(self, x):
        return [x, x, x]


def bottom_up(chain):
    p_x, *conditionals = chain.parts()
    return BottomUpVAE(Standard(D3, chain.dtype), conditionals, chain.upwards(), p_x)


def top_down(chain, exact=False):
    p_x, *conditionals = chain.parts()
    conditionals.append(Standard(D3, chain.dtype))
    rungs = [Rung(*parts, exact) for parts in zip(conditionals, chain.downwards(), strict=True)]
    return TopDownVAE(Same(), rungs, p_x)


@pytest.fixture
def chain():
    return Chain()


def test_at_the_exact_posterior_every_draw_of_a_guide_upwards_gives_the_evidence(chain):
    pair = bottom_up(chain)
    for estimator in (SGVB_A(), IWAE(3)):
        torch.testing.assert_close(estimator.bound(pair, chain.x), chain.log_evidence(), atol=1e-9, rtol=0)


def test_at_the_exact_posterior_every_draw_of_a_guide_downwards_gives_the_evidence(chain):
    pair = top_down(chain, exact=True)
    for estimator in (SGVB_A(), IWAE(3)):
        torch.testing.assert_close(estimator.bound(pair, chain.x), chain.log_evidence(), atol=1e-9, rtol=0)


def exact_bound(chain):
    """The ELBO of the diagonal guide downwards: all means are linear in the draws above, so it is a Gaussian integral.

    By a grid-free way of its own: E log p(x, z) - E log q under the joint Gaussian of (z3, z2, z1) of the guide.
    """
    pair = top_down(chain)
    x = chain.x
    rungs = list(pair.levels)
    # q(z | x) is N(mean, covariance) over (z3, z2, z1): mean and covariance by propagation of an affine map.
    means, covariances = [], []
    for row in x:
        mean, covariance, entropy = None, None, 0.0
        for rung in reversed(rungs):

            def loc_of(h, rung=rung, row=row):
                return rung.posterior(rung.prior(h), h, row).base_dist

            if mean is None:
                q = loc_of(None)
                mean, covariance = q.loc, torch.diag(q.scale**2)
                blocks = [len(q.loc)]
            else:
                previous = mean[-blocks[-1] :]
                q = loc_of(previous)
                jacobian = torch.autograd.functional.jacobian(lambda h: loc_of(h).loc, previous)
                wide = torch.zeros(len(q.loc), len(mean), dtype=x.dtype)
                wide[:, -blocks[-1] :] = jacobian
                cross = wide @ covariance
                corner = wide @ covariance @ wide.mT + torch.diag(q.scale**2)
                covariance = torch.cat([torch.cat([covariance, cross.mT], 1), torch.cat([cross, corner], 1)])
                mean = torch.cat([mean, q.loc])
                blocks.append(len(q.loc))
            entropy = entropy + (q.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()
        means.append((mean, entropy))
        covariances.append(covariance)
    bounds = []
    for row, (mean, entropy), covariance in zip(x, means, covariances, strict=True):

        def log_joint(z, row=row):
            z3, z2, z1 = z.split([D3, D2, D1])
            p_x, p_1, p_2 = pair.likelihood, pair.levels[0].conditional, pair.levels[1].conditional
            standard = dist.Normal(torch.zeros_like(z3), 1.0).to_event(1).log_prob(z3)
            return standard + p_2(z3).log_prob(z2) + p_1(z2).log_prob(z1) + p_x(z1).log_prob(row)

        hessian = torch.autograd.functional.hessian(log_joint, mean)  # of a quadratic: the expectation is exact
        bounds.append(log_joint(mean) + (hessian * covariance).sum() / 2 + entropy)
    return torch.stack(bounds).detach()


def test_both_estimators_of_a_guide_downwards_have_the_exact_bound_for_expectation(chain):
    pair, exact = top_down(chain), exact_bound(chain)
    assert (exact < chain.log_evidence()).all()
    torch.manual_seed(1)
    for estimator in (SGVB_A, SGVB_B):
        draws = torch.cat([estimator(100).bound(pair, chain.x).unsqueeze(0) for _ in range(100)])
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - exact).abs() < 4 * error).all(), estimator
        assert (error < 0.05).all()


def test_the_closed_form_is_refused_for_a_guide_upwards_by_name_of_the_other(chain):
    with pytest.raises(ValueError, match="Use SGVB_A"):
        SGVB_B().bound(bottom_up(chain), chain.x)
    with pytest.raises(ValueError, match="Use SGVB_A"):
        fit(bottom_up(chain), chain.x, estimator=SGVB_B(), epochs=1, batch_size=7, compile="eager", progress=False)


class Diagonal(nn.Module):
    """The posterior of another, without its correlations."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, y):
        q = self.posterior(y)
        return dist.Normal(q.mean, q.variance.sqrt()).to_event(1)


def test_pyros_closed_form_is_biased_for_a_guide_upwards(chain):
    """Why it is refused: TraceMeanField_ELBO has another expectation than Trace_ELBO, which is unbiased."""
    pair = bottom_up(chain)
    pair.posteriors = nn.ModuleList([Diagonal(posterior) for posterior in pair.posteriors])
    torch.manual_seed(0)
    x = chain.x.repeat(20, 1)
    sampled = torch.stack([SGVB_A().bound(pair, x).sum() for _ in range(50)])
    with pytest.warns(UserWarning, match="mean field"):
        closed = torch.tensor(
            [-TraceMeanField_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x) for _ in range(50)]
        )
    error = (sampled.var() + closed.var()).sqrt() / math.sqrt(50)
    assert (sampled.mean() - closed.mean()).abs() > 10 * error


def test_the_closed_form_of_each_level_is_given_the_levels_above(chain):
    """KL(q(z_l | z_>l, x) || p(z_l | z_>l)) at the draws above; in expectation what sampling gives of each level."""
    pair = top_down(chain)
    torch.manual_seed(2)
    terms = SGVB_B().terms(pair, chain.x)
    torch.manual_seed(2)
    model, guide = run(pair, chain.x)
    for name in ("z3", "z2", "z1"):
        expected = kl_divergence(guide.nodes[name]["fn"], model.nodes[name]["fn"])
        torch.testing.assert_close(terms[name].kl, expected)
    terms = [estimator(20_000).terms(pair, chain.x[:1]) for estimator in (SGVB_A, SGVB_B)]
    for name in ("z3", "z2", "z1"):
        sampled, closed = terms[0][name].log_q - terms[0][name].log_p, terms[1][name].kl
        error = ((sampled.var() + closed.var()) / 20_000).sqrt()
        assert (sampled.mean() - closed.mean()).abs() < 4.5 * error < 0.1 * closed.mean()


#: But for those that need latents of independent units.
EVERY = {name: make for name, make in {**MADE, **VARIANTS}.items() if name not in ("FreeBits", "TCVAE")}


@pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("make", [bottom_up, functools.partial(top_down, exact=True)], ids=["upwards", "downwards"])
def test_every_estimator_gives_the_evidence_at_the_exact_posterior(chain, make, name):
    """All weights are log p(x). What uses a KL in closed form refuses the guide upwards."""
    pair, estimator = make(chain), EVERY[name]()
    if isinstance(estimator, SGVB_B) and make is bottom_up:
        with pytest.raises(ValueError, match="Use SGVB_A"):
            estimator.bound(pair, chain.x)
        return
    torch.testing.assert_close(estimator.bound(pair, chain.x), chain.log_evidence(), atol=1e-9, rtol=0)
    pair.zero_grad()
    estimator.differentiable_loss(*programs(pair), chain.x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.likelihood.parameters())


@pytest.mark.parametrize("estimator", [SGVB_A(3, sticking_the_landing=True), DReG(3), DReG(1)], ids=repr)
@pytest.mark.parametrize("make", [bottom_up, functools.partial(top_down, exact=True)], ids=["upwards", "downwards"])
def test_at_the_exact_posterior_the_guides_gradient_is_zero_at_each_draw(chain, make, estimator):
    """Without the score; with it (SGVB_A as it is) in expectation alone."""
    pair = make(chain)
    own = [part.weight for part in (pair.posteriors if make is bottom_up else pair.levels)]
    for which, zero in ((estimator, True), (SGVB_A(3), False)):
        pair.zero_grad()
        which.differentiable_loss(*programs(pair), chain.x).backward()
        largest = max(weight.grad.abs().max() for weight in own)
        assert (largest < 1e-9) if zero else (largest > 0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SGVB_A(), SGVB_B()),
        (SGVB_A(), SGVB_A(sticking_the_landing=True)),
        (IWAE(3), DReG(3)),
        (IWAE(3), MIWAE(1, 3)),
        (IWAE(3), PIWAE(1, 3)),
    ],
    ids=repr,
)
def test_gradients_of_one_bound_are_equal_in_expectation(chain, one, other):
    """Also of the conditionals, which model and guide share, and which both see by ``once``."""
    pair = top_down(chain)
    x = chain.x[:1].expand(200, DX)
    found = []
    for seed, estimator in enumerate((one, other)):
        torch.manual_seed(seed)
        draws = []
        for _ in range(50):
            pair.zero_grad()
            estimator.differentiable_loss(*programs(pair), x).backward()
            draws.append(torch.cat([p.grad.flatten() for p in pair.parameters()]) / len(x))
        found.append(torch.stack(draws))
    (mean, variance), (mean_of_other, variance_of_other) = ((d.mean(0), d.var(0) / len(d)) for d in found)
    error = (variance + variance_of_other).sqrt().clamp_min(1e-12)
    assert ((mean - mean_of_other).abs() < 5 * error).all()
    assert (mean.abs() > 10 * error).float().mean() > 0.2


@pytest.mark.parametrize("make", [bottom_up, top_down])
def test_values_are_pyros_at_equal_seed(chain, make):
    pair = make(chain)
    rivals = [(SGVB_A(), Trace_ELBO(max_plate_nesting=1))]
    if make is top_down:
        rivals.append((SGVB_B(), TraceMeanField_ELBO(max_plate_nesting=1)))
    for ours, theirs in rivals:
        torch.manual_seed(5)
        expected = theirs.loss(pair.model, pair.guide, chain.x)
        torch.manual_seed(5)
        assert ours.loss(pair.model, pair.guide, chain.x) == pytest.approx(expected, rel=1e-10)


def test_evidence_of_a_chain_by_importance_and_annealing(chain, monkeypatch):
    monkeypatch.setattr(sys.modules[evidence.ais.__module__], "_PILOT_STEPS", 60)
    exact = chain.log_evidence()
    pair = top_down(chain)
    found = evidence.importance(pair, chain.x, 2000, compile="traced").log_prob
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0)
    annealed = evidence.ais(pair, chain.x, num_chains=16, num_steps=100).log_prob
    torch.testing.assert_close(annealed, exact, atol=0.3, rtol=0)


@pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
def test_rates_by_level_are_the_exact_information_at_the_exact_posterior(chain):
    """KL(q(z1 | z2, x) || p(z1 | z2)) and so on; their sum is log p(x) less E[log p(x | z1)]."""
    pair = top_down(chain, exact=True)
    torch.manual_seed(3)
    sides = rate_distortion(pair, [(chain.x,)] * 200)
    assert set(sides.rates) == {"z1", "z2", "z3"}
    assert -(sides.rate + sides.distortion) == pytest.approx(chain.log_evidence().mean().item(), abs=1e-6)


# The way down, once


def test_under_our_estimators_the_way_down_is_computed_once(chain):
    pair = top_down(chain)
    SGVB_B().differentiable_loss(pair.model, pair.guide, chain.x)
    assert [sorted(rung.calls) for rung in pair.levels] == [["forward", "prior"]] * 3
    for rung in pair.levels:
        rung.calls.clear()
    Trace_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, chain.x)
    assert [rung.calls.count("prior") for rung in pair.levels] == [2, 2, 2]


def test_once_keeps_gradients_and_forgets_afterwards():
    calls = []

    def square(z):
        calls.append(z)
        return z**2

    z = torch.tensor(3.0, requires_grad=True)
    with computing_once():
        first, second = once(square, z), once(square, z)
        assert first is second
        assert once(square, z.clone()) is not first  # another tensor, be it equal
        with torch.no_grad():
            assert not once(square, z).requires_grad
        with computing_once(False):
            assert once(square, z) is not first
        assert once(square, z) is first
    (first + second).backward()
    assert z.grad == 12
    count = len(calls)
    once(square, z), once(square, z)
    assert len(calls) == count + 2


class Random(PyroModule, LatentLayer):
    """A level whose weight is a random variable of model and guide."""

    def __init__(self):
        super().__init__()
        self.weight = PyroSample(dist.Normal(torch.ones(2), 0.1).to_event(1))

    def prior(self, h):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def posterior(self, p, h, evidence):
        return dist.Normal(evidence, 0.5).to_event(1)

    def forward(self, h, z):
        return self.weight * z


class Sum(Random):
    """A level like it without a weight."""

    def __init__(self):
        PyroModule.__init__(self)

    def forward(self, h, z):
        return h + z


def test_what_has_sample_statements_is_run_in_both_programs():
    class Likelihood(nn.Module):
        def forward(self, h):
            return dist.Normal(h, 1.0).to_event(1)

    class Both(nn.Module):
        def forward(self, x):
            return [x, x]

    pair, x = TopDownVAE(Both(), [Sum(), Random()], Likelihood()), torch.randn(4, 2)
    model, guide = run(pair, x)
    assert torch.equal(model.nodes["weight"]["value"], guide.nodes["weight"]["value"])
    with computing_once():
        drawn = [once(lambda: pyro.sample("a", dist.Normal(0.0, 1.0))) for _ in range(2)]
        assert drawn[0] != drawn[1]


def test_other_noise_is_the_same_in_both_programs():
    dropout, z = nn.Dropout(0.5), torch.ones(50)
    with computing_once():
        assert torch.equal(once(dropout, z), once(dropout, z))
    assert not torch.equal(once(dropout, z), once(dropout, z))


def test_runs_inside_one_another_and_of_two_pairs_know_nothing_of_each_other():
    first, second, z = nn.Linear(1, 1), nn.Linear(1, 1), torch.ones(1)
    with computing_once():
        outer = once(first, z)
        assert once(second, z) is not outer
        with torch.no_grad():
            first.weight.add_(1.0)
        with computing_once():
            assert once(first, z) != outer
        assert once(first, z) is outer
    with computing_once():
        assert once(first, z) == outer + 1  # the next run sees weights that have moved


def test_gradients_do_not_depend_on_computing_once(chain):
    pair = top_down(chain)
    gradients = []
    for active in (True, False):
        torch.manual_seed(0)
        pair.zero_grad()
        if active:
            SGVB_A().differentiable_loss(pair.model, pair.guide, chain.x).backward()
        else:
            Trace_ELBO(max_plate_nesting=1).differentiable_loss(pair.model, pair.guide, chain.x).backward()
        gradients.append([parameter.grad.clone() for parameter in pair.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# The systems

SYSTEMS = {
    "hierarchical": lambda **o: HierarchicalVAE((1, 8, 8), (4, 3, 2), (16, 8, 8), **o),
    "hierarchical_conv": lambda **o: HierarchicalVAE((1, 8, 8), (4, 3), (16, 8), channels=(4, 8), **o),
    "ladder": lambda **o: LadderVAE((1, 8, 8), (4, 3, 2), (16, 8, 8), **o),
    "ladder_conv": lambda **o: LadderVAE((1, 8, 8), (4, 3), (16, 8), channels=(4, 8), **o),
    "conv_ladder": lambda **o: ConvLadderVAE((1, 8, 8), (2, 3, 4), (4, 8, 8), (2, 1, 4), **o),
}
systems = pytest.mark.parametrize("system", SYSTEMS)


@systems
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_a_system_is_a_pair(system, normalization):
    torch.manual_seed(0)
    x = binary(1, 8, 8)
    pair = SYSTEMS[system](normalization=normalization, mean=x.mean(0))
    report = check(pair, x, estimator=SGVB_A(2))
    assert [site.name for site in report.sites][-2:] == ["z1", "x"]
    assert sum(p.numel() for p in pair.parameters()) == report.num_parameters
    assert reconstruct(pair, x).shape == x.shape
    assert sample(pair, 3, x).shape == (3, 1, 8, 8)
    assert active_units(pair, [(x,)], site="z1").variances.numel() == math.prod(report.sites[-2].event_shape)


@systems
def test_a_step_traced_is_the_step_eager(system):
    x = binary(1, 8, 8)
    found = []
    for mode in ("eager", "traced"):
        torch.manual_seed(0)
        pair = SYSTEMS[system](normalization="batch")
        torch.manual_seed(1)
        step = TrainingStep(pair, SGVB_A(), compile=mode)
        objective = step((x,))
        statistics = [buffer.clone() for buffer in pair.buffers()]
        found.append(([objective.loss], [p.grad for p in pair.parameters()], statistics))
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


@systems
def test_training_raises_the_bound_and_a_state_dict_holds_what_was_trained(system):
    torch.manual_seed(0)
    x = (torch.rand(1, 8, 8) < torch.linspace(0, 1, 8)).float().expand(40, 1, 8, 8).clone()
    x[::2] = 1 - x[::2]
    torch.manual_seed(0)
    pair = SYSTEMS[system](normalization="batch")
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    options = {"optimizer": optimizer, "batch_size": 10, "compile": "traced", "progress": False}
    before = SGVB_A(20).bound(pair.eval(), x).mean()
    fit(pair.train(), x, epochs=15, **options)
    assert SGVB_A(20).bound(pair.eval(), x).mean() > before + 3
    loaded = SYSTEMS[system](normalization="batch")
    loaded.load_state_dict(pair.state_dict())
    torch.manual_seed(4)
    expected = SGVB_A().bound(pair.eval(), x)
    torch.manual_seed(4)
    assert torch.equal(SGVB_A().bound(loaded.eval(), x), expected)


@pytest.mark.parametrize("system", ["ladder"])
def test_resumed_is_the_same_bits(system, tmp_path):
    """With batch norm, averaged weights and a warm-up, interrupted after an epoch and taken up in a fresh pair."""
    x = binary(1, 8, 8, size=40)
    options = {
        "batch_size": 10, "seed": 3, "average": 0.9, "beta": Warmup(0.01, 1.0, duration=0.6), "compile": "traced",
        "progress": False, "epochs": 3, "out": tmp_path / "parts",
    }  # fmt: skip

    def make(seed):
        torch.manual_seed(seed)
        return SYSTEMS[system](normalization="batch")

    whole = fit(make(0), x, **{**options, "out": tmp_path / "whole"})
    with pytest.raises(KeyboardInterrupt, match="resume"):
        fit(make(0), x, **options, callbacks=[lambda run: os.kill(os.getpid(), signal.SIGINT)])
    resumed = fit(make(7), x, resume=True, **options)
    for (name, ours), theirs in zip(whole.pair.state_dict().items(), resumed.pair.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert [e["terms"] for e in whole.history] == [e["terms"] for e in resumed.history]


@pytest.mark.parametrize("loss", [Trace_ELBO(max_plate_nesting=1), SGVB_A()], ids=["Pyro's", "ours"])
@systems
def test_a_system_trains_under_pyros_svi(system, loss):
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair, x = SYSTEMS[system](), binary(1, 8, 8)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    before = [p.clone() for p in pair.parameters()]
    assert all(math.isfinite(svi.step(x)) for _ in range(2))
    moved = [not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True)]
    assert all(moved)


@systems
def test_particles_are_independent_draws(system):
    torch.manual_seed(0)
    pair, x = SYSTEMS[system]().eval(), binary(1, 8, 8)
    model, guide = run(pair, x, num_particles=3)
    z = guide.nodes["z1"]["value"]
    assert z.shape[:2] == (3, 5)
    assert not torch.equal(z[0], z[1])
    model.compute_log_prob(), guide.compute_log_prob()
    for k in range(3):  # each particle scored alone
        values = {name: guide.nodes[name]["value"][k] for name in guide.nodes if name.startswith("z")}
        alone = poutine.trace(poutine.condition(pair.model, data=values)).get_trace(x)
        alone.compute_log_prob()
        for name in [*values, "x"]:
            torch.testing.assert_close(model.nodes[name]["log_prob"][k], alone.nodes[name]["log_prob"])


@systems
def test_evidence_of_a_system(system, monkeypatch):
    monkeypatch.setattr(sys.modules[evidence.ais.__module__], "_PILOT_STEPS", 5)
    torch.manual_seed(0)
    pair, x = SYSTEMS[system]().eval(), binary(1, 8, 8)
    found = evidence.importance(pair, x, 200, compile="eager").log_prob
    assert (found >= SGVB_A(200).bound(pair, x) - 1.0).all()
    assert evidence.ais(pair, x[:2], num_chains=2, num_steps=5).log_prob.isfinite().all()


def test_the_ladders_posterior_is_the_product_of_prior_and_evidence():
    torch.manual_seed(0)
    loc_p, scale_p, loc, log_variance = torch.randn(4, 3), torch.rand(4, 3) + 0.2, torch.randn(4, 3), torch.randn(4, 3)
    q = merged(dist.Normal(loc_p, scale_p).to_event(1), loc, log_variance)
    z = torch.randn(50, 4, 3)
    product = dist.Normal(loc_p, scale_p).log_prob(z) + dist.Normal(loc, (log_variance / 2).exp()).log_prob(z)
    constant = product.sum(-1) - q.log_prob(z)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant), rtol=1e-3, atol=1e-3)
    sure = merged(dist.Normal(loc_p, scale_p).to_event(1), loc, torch.full_like(loc, -200.0)).base_dist
    torch.testing.assert_close(sure.loc, loc)
    unsure = merged(dist.Normal(loc_p, scale_p).to_event(1), loc, torch.full_like(loc, 200.0)).base_dist
    torch.testing.assert_close((unsure.loc, unsure.scale), (loc_p, scale_p))


def test_a_ladder_of_one_level_is_the_vae_of_one_latent():
    torch.manual_seed(0)
    ladder, plain = LadderVAE((1, 8, 8), (3,), (16,)), HierarchicalVAE((1, 8, 8), (3,), (16,))
    x = binary(1, 8, 8)
    assert [s.name for s in check(ladder, x).sites] == [s.name for s in check(plain, x).sites] == ["z1", "x"]
    assert SGVB_B().bound(plain, x).shape == (5,)  # one level is in any order


def test_weights_of_a_ladder_may_be_random_variables():
    torch.manual_seed(0)
    pair = FullBayes(LadderVAE((1, 8, 8), (4, 2), (16, 8)), networks=("levels.0.conditional.network",))
    x = binary(1, 8, 8)
    check(pair, x)
    assert math.isfinite(SGVB_A(2).loss(pair.model, pair.guide, x))


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"2 latents.*3 widths"):
        LadderVAE((1, 8, 8), (4, 2), (16, 8, 8))
    with pytest.raises(ValueError, match=r"2 latents.*1 widths"):
        HierarchicalVAE((1, 8, 8), (4, 2), (16,))
    with pytest.raises(ValueError, match="latent_dims has to hold sizes of at least 1"):
        HierarchicalVAE((1, 8, 8), (4, 0), (16, 8))
    with pytest.raises(ValueError, match="latent_dims has to hold sizes of at least 1"):
        LadderVAE((1, 8, 8), (), ())
    with pytest.raises(ValueError, match="stride 3 of level 2 does not divide its sides 4 x 4"):
        ConvLadderVAE((1, 8, 8), (2, 2), (4, 4), (2, 3))
    with pytest.raises(ValueError, match="stride 2 of level 4 does not divide its sides 1 x 1"):  # no units are left
        ConvLadderVAE((1, 8, 8), (2,) * 4, (4,) * 4, (2,) * 4)
    with pytest.raises(ValueError, match="latent_dims has to hold sizes of at least 1"):
        ConvLadderVAE((1, 8, 8), (2, 0), (4, 4), (2, 2))
    with pytest.raises(ValueError, match="latent_dims has to hold sizes of at least 1"):
        ConvLadderVAE((1, 8, 8), (), (), ())
    with pytest.raises(ValueError, match=r"a convolutional ladder is of images.*got \(64,\)"):
        ConvLadderVAE((64,), (2,), (4,), (2,))
    with pytest.raises(ValueError, match="blocks has to be a whole number of at least 0; got -1"):
        ConvLadderVAE((1, 8, 8), (2,), (4,), (2,), blocks=-1)
    for system in (HierarchicalVAE, LadderVAE):
        with pytest.raises(ValueError, match="depth has to hold sizes of at least 1"):
            system((1, 8, 8), (2,), (4,), depth=0)
        with pytest.raises(ValueError, match="mean"):
            system((1, 8, 8), (2,), (4,), mean=torch.zeros(64))
        with pytest.raises(ValueError, match="channels, height, width"):
            system((64,), (2,), (4,), channels=(4,))
    with pytest.raises(ValueError, match=r"3 latents.*strides="):
        ConvLadderVAE((1, 8, 8), (2, 2, 2), (4, 4, 4), (2, 2))
    with pytest.raises(ValueError, match="3 posteriors and 0 conditionals"):
        BottomUpVAE(Standard(2, None), [], [nn.Identity()] * 3, nn.Identity())
    with pytest.raises(ValueError, match="at least one level"):
        TopDownVAE(Same(), [], nn.Identity())
    with pytest.raises(ValueError, match="0 posteriors and 0 conditionals"):
        BottomUpVAE(Standard(2, None), [], [], nn.Identity())
    for pair in (HierarchicalVAE((1, 8, 8), (2,), (4,)), LadderVAE((1, 8, 8), (2,), (4,))):
        with pytest.raises(ValueError, match="needs data"):
            pair.guide()


@pytest.mark.parametrize(("bottom_up", "got"), [(lambda x: x, "one tensor"), (lambda x: [x, x], "2")])
def test_each_level_has_its_evidence(chain, bottom_up, got):
    pair = top_down(chain)
    pair.bottom_up.forward = bottom_up
    with pytest.raises(ValueError, match=rf"bottom_up has to give a list of 3.*got {got}"):
        check(pair, chain.x)


def test_evidence_and_state_side_by_side():
    evidence, h = torch.randn(5, 3, 2, 2), torch.randn(4, 1, 6, 2, 2)
    both = concat(evidence, h, -3)
    assert both.shape == (4, 5, 9, 2, 2)
    torch.testing.assert_close(both[1, 2], torch.cat([evidence[2], h[1, 0]]))
    assert concat(torch.zeros(5, 3), torch.zeros(2)).shape == (5, 5)  # a state that is the same for all data
    assert concat(evidence, None, -3) is evidence


class Kind(LatentLayer):
    """A category at the top."""

    def __init__(self):
        super().__init__()
        self.logits, self.head, self.down = nn.Parameter(torch.randn(3)), nn.Linear(5, 3), nn.Linear(3, 2)

    def prior(self, h):
        return dist.OneHotCategorical(logits=self.logits)

    def posterior(self, p, h, evidence):
        return dist.OneHotCategorical(logits=self.head(evidence))

    def forward(self, h, z):
        return self.down(z)


class Below(LatentLayer):
    """A Gaussian given the category, recognized from both."""

    def __init__(self):
        super().__init__()
        self.recognition = nn.Linear(5 + 2, 2)

    def prior(self, h):
        return dist.Normal(h, 1.0).to_event(1)

    def posterior(self, p, h, evidence):
        return dist.Normal(self.recognition(concat(evidence, h)), 0.7).to_event(1)

    def forward(self, h, z):
        return concat(z, h)


def test_a_category_above_a_gaussian_is_summed_over():
    """Also where guide and model share the way down: a sum over the categories is the mean of draws."""
    torch.manual_seed(0)

    class Same(nn.Module):
        def forward(self, x):
            return [x, x]

    likelihood = Linear(torch.randn(5, 4), torch.zeros(5), torch.ones(5))
    pair, x = TopDownVAE(Same(), [Below(), Kind()], likelihood), torch.randn(1, 5)
    check(pair, x, estimator=Enumeration())
    draws = [estimator.bound(pair, x.expand(4000, 5)) for estimator in (SGVB_A(), Enumeration())]
    assert_means_equal(*draws)
    assert draws[1].var() < draws[0].var()
    assert math.isfinite(fit(pair, torch.randn(20, 5), estimator=Enumeration(), epochs=1, batch_size=10,
                             compile="traced", progress=False).history[0]["train"])  # fmt: skip
