"""Hierarchies: the two guides, held to a linear-Gaussian chain whose log p(x) is known in closed form."""

import functools
import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import binary
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import IWAE, SGVB_A, SGVB_B, BottomUpVAE, TopDownVAE, check, evidence, fit
from pyro_vae.contract import computing_once, once, run
from pyro_vae.diagnostics import active_units, rate_distortion, reconstruct, sample
from pyro_vae.hierarchy import Level
from pyro_vae.models import ConvLadderVAE, FullBayes, HierarchicalVAE, LadderVAE
from pyro_vae.models.ladder_vae import merged
from pyro_vae.training.step import Step

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


class Rung(Level):
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
    sampled = torch.stack([SGVB_A().bound(pair, chain.x).sum() for _ in range(1000)])
    with pytest.warns(UserWarning, match="mean field"):
        closed = torch.tensor(
            [-TraceMeanField_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, chain.x) for _ in range(1000)]
        )
    error = (sampled.var() + closed.var()).sqrt() / math.sqrt(1000)
    assert (sampled.mean() - closed.mean()).abs() > 10 * error


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


def test_evidence_of_a_chain_by_importance_and_annealing(chain):
    exact = chain.log_evidence()
    pair = top_down(chain)
    found = evidence.importance(pair, chain.x, 2000, compile="traced").log_prob
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0)
    annealed = evidence.ais(pair, chain.x, num_chains=16, num_steps=100).log_prob
    torch.testing.assert_close(annealed, exact, atol=0.3, rtol=0)


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
        step = Step(pair, SGVB_A(), compile=mode)
        objective = step((x,), torch.ones(()))
        statistics = [buffer.clone() for buffer in pair.buffers()]
        found.append(([objective.loss], [p.grad for p in pair.parameters()], statistics))
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


@systems
def test_training_raises_the_bound_and_is_a_function_of_the_seed(system, tmp_path):
    torch.manual_seed(0)
    x = (torch.rand(1, 8, 8) < torch.linspace(0, 1, 8)).float().expand(40, 1, 8, 8).clone()
    x[::2] = 1 - x[::2]
    torch.manual_seed(0)
    pair = SYSTEMS[system](normalization="batch")
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    options = {"optimizer": optimizer, "batch_size": 10, "compile": "traced", "progress": False}
    before = SGVB_A(20).bound(pair.eval(), x).mean()
    whole = fit(pair.train(), x, epochs=15, out=tmp_path / "whole", **options)
    assert SGVB_A(20).bound(pair.eval(), x).mean() > before + 3
    torch.manual_seed(0)
    again = SYSTEMS[system](normalization="batch")
    second = fit(again, x, epochs=15, out=tmp_path / "again", **options)
    assert [e["train"] for e in whole.history] == [e["train"] for e in second.history]
    loaded = SYSTEMS[system](normalization="batch")
    loaded.load_state_dict(pair.state_dict())
    torch.manual_seed(4)
    expected = SGVB_A().bound(pair.eval(), x)
    torch.manual_seed(4)
    assert torch.equal(SGVB_A().bound(loaded.eval(), x), expected)


@systems
def test_a_system_trains_under_pyros_svi(system):
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair, x = SYSTEMS[system](), binary(1, 8, 8)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(max_plate_nesting=1))
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
    with pytest.raises(ValueError, match=r"3 latents.*strides="):
        ConvLadderVAE((1, 8, 8), (2, 2, 2), (4, 4, 4), (2, 2))
    with pytest.raises(ValueError, match="3 posteriors and 0 conditionals"):
        BottomUpVAE(Standard(2, None), [], [nn.Identity()] * 3, nn.Identity())
    with pytest.raises(ValueError, match="at least one level"):
        TopDownVAE(Same(), [], nn.Identity())
    for pair in (HierarchicalVAE((1, 8, 8), (2,), (4,)), LadderVAE((1, 8, 8), (2,), (4,))):
        with pytest.raises(ValueError, match="needs data"):
            pair.guide()
