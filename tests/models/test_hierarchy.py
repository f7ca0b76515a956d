"""Hierarchies: the two guides, held to a linear-Gaussian chain whose log p(x) is known in closed form."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from laws import MADE, VARIANTS, assert_means_equal, gradients, seeded
from pairs import binary
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from registry import SYSTEM_VARIANTS, SYSTEMS
from torch import Tensor, nn
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
from pyro_vae.models import ConvLadderVAE, HierarchicalVAE, LadderVAE
from pyro_vae.models.ladder_vae import merged
from pyro_vae.pair import programs, run

D3, D2, D1, DX = 2, 3, 4, 5


class Linear(nn.Module):
    """z -> N(W z + b, s^2): a conditional, a posterior or a likelihood of the chain."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.scale = nn.Parameter(scale.log())

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(z @ self.weight.mT + self.bias, self.scale.exp()).to_event(1)


class Standard(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(size, dtype=torch.float64))

    def forward(self) -> Any:
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Chain:
    """z3 ~ N(0, I), z2 = A3 z3 + noise, z1 = A2 z2 + noise, x = A1 z1 + noise: jointly Gaussian."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
        weights = [draw(DX, D1) / 2, draw(D1, D2) / 2, draw(D2, D3) / 2]
        biases = [draw(DX), draw(D1), draw(D2)]
        scales = [torch.rand(size, generator=generator, dtype=torch.float64) + 0.5 for size in (DX, D1, D2)]
        self.links = list(zip(weights, biases, scales, strict=True))  # of x given z1, z1 given z2, z2 given z3
        self.x = draw(7, DX)

    def parts(self) -> list[Linear]:
        return [Linear(*link) for link in self.links]

    def marginals(self) -> list[tuple[Tensor, Tensor]]:
        """(mean, covariance) of x, z1, z2, z3."""
        mean, covariance = torch.zeros(D3, dtype=torch.float64), torch.eye(D3, dtype=torch.float64)
        found = [(mean, covariance)]
        for weight, bias, scale in reversed(self.links):
            mean = weight @ mean + bias
            covariance = weight @ covariance @ weight.mT + torch.diag(scale**2)
            found.insert(0, (mean, covariance))
        return found

    def log_evidence(self) -> Tensor:
        return dist.MultivariateNormal(*self.marginals()[0]).log_prob(self.x)

    def upwards(self) -> list[Backwards]:
        """The exact p(z1 | x), p(z2 | z1), p(z3 | z2): a chain read backwards is one of the same kind."""
        return [Backwards(*link, *above) for link, above in zip(self.links, self.marginals()[1:], strict=True)]

    def downwards(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """x | z_l = N(weight z_l + bias, covariance) of each level: the likelihood, integrated from below."""
        (weight, bias, scale), *above = self.links
        found = [(weight, bias, torch.diag(scale**2))]
        for link, shift, noise in above:
            weight, bias, covariance = found[-1]
            covariance = covariance + weight @ torch.diag(noise**2) @ weight.mT
            found.append((weight @ link, weight @ shift + bias, covariance))
        return found


class Backwards(nn.Module):
    """p(z | y) of z ~ N(mean, covariance), y ~ N(weight z + bias, scale^2)."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: Tensor, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        precision = torch.linalg.inv(covariance) + weight.mT @ torch.diag(scale**-2) @ weight
        self.covariance = torch.linalg.inv(precision)
        gain = self.covariance @ weight.mT @ torch.diag(scale**-2)
        self.shift = self.covariance @ torch.linalg.inv(covariance) @ mean - gain @ bias
        self.weight = nn.Parameter(gain)

    def forward(self, y: Tensor) -> Any:
        return dist.MultivariateNormal(y @ self.weight.mT + self.shift, self.covariance)


class Rung(LatentLayer):
    """A level of the chain whose posterior is the exact p(z_l | z_(l+1), x), or a diagonal one of its own."""

    def __init__(self, conditional: nn.Module, seen: tuple[Tensor, Tensor, Tensor], exact: bool) -> None:
        super().__init__()
        self.conditional = conditional
        weight, self.bias, self.variance = seen
        self.weight, self.exact = nn.Parameter(weight.clone()), exact
        self.calls: list[str] = []

    def prior(self, h: Any) -> Any:
        self.calls.append("prior")
        return self.conditional() if h is None else self.conditional(h)

    def posterior(self, p: Any, h: Any, evidence: Tensor) -> Any:
        p = p.base_dist
        seen = self.weight.mT @ torch.linalg.inv(self.variance)
        covariance = torch.linalg.inv(torch.diag_embed(p.scale**-2) + seen @ self.weight)
        loc = (covariance @ (p.loc * p.scale**-2 + (evidence - self.bias) @ seen.mT).unsqueeze(-1)).squeeze(-1)
        if self.exact:
            return dist.MultivariateNormal(loc, covariance)
        return dist.Normal(loc, covariance.diagonal(dim1=-2, dim2=-1).sqrt() * 1.3).to_event(1)

    def forward(self, h: Any, z: Tensor) -> Tensor:
        self.calls.append("forward")
        return z


class Same(nn.Module):
    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x] * self.num_levels


def bottom_up(chain: Chain) -> BottomUpVAE:
    p_x, *conditionals = chain.parts()
    return BottomUpVAE(Standard(D3), conditionals, chain.upwards(), p_x)


def top_down(chain: Chain, exact: bool = False) -> TopDownVAE:
    p_x, *conditionals = chain.parts()
    priors: list[nn.Module] = [*conditionals, Standard(D3)]
    return TopDownVAE(Same(3), [Rung(*parts, exact) for parts in zip(priors, chain.downwards(), strict=True)], p_x)


exact_guides = pytest.mark.parametrize(
    "make", [bottom_up, functools.partial(top_down, exact=True)], ids=["upwards", "downwards"]
)


@pytest.fixture
def chain() -> Chain:
    return Chain()


def exact_bound(chain: Chain) -> Tensor:
    """The ELBO of the diagonal guide downwards: its draws are affine in the noise, so the log-weight is quadratic."""
    pair = top_down(chain)

    def log_weight(noise: Tensor, x: Tensor) -> Tensor:
        h, total = None, torch.zeros((), dtype=torch.float64)
        for rung, e in zip(reversed(list(pair.levels)), noise.split([D3, D2, D1]), strict=True):
            p = rung.prior(h)  # type: ignore[operator]
            q = rung.posterior(p, h, x)  # type: ignore[operator]
            h = q.base_dist.loc + q.base_dist.scale * e
            total = total + p.log_prob(h) - q.log_prob(h)
        return total + pair.likelihood(h).log_prob(x)

    zero = torch.zeros(D3 + D2 + D1, dtype=torch.float64)
    curvature = [torch.autograd.functional.hessian(functools.partial(log_weight, x=x), zero) for x in chain.x]
    return torch.stack([log_weight(zero, x) + c.trace() / 2 for x, c in zip(chain.x, curvature, strict=True)]).detach()


def test_both_estimators_of_a_guide_downwards_have_the_exact_bound_for_expectation(chain: Chain) -> None:
    pair, exact = top_down(chain), exact_bound(chain)
    assert (exact < chain.log_evidence()).all()
    for estimator in (SGVB_A, SGVB_B):
        draws = torch.stack([estimator(200).bound(pair, chain.x) for _ in range(40)])
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - exact).abs() < 4.5 * error).all(), estimator
        assert (error < 0.05).all()


class Diagonal(nn.Module):
    """The posterior of another, without its correlations."""

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, y: Tensor) -> Any:
        q = self.posterior(y)
        return dist.Normal(q.mean, q.variance.sqrt()).to_event(1)


def test_the_closed_form_is_refused_for_a_guide_upwards(chain: Chain) -> None:
    """Since it is biased: TraceMeanField_ELBO has another expectation than Trace_ELBO, which is unbiased."""
    pair = bottom_up(chain)
    with pytest.raises(ValueError, match="Use SGVB_A"):
        fit(pair, chain.x, estimator=SGVB_B(), epochs=1, batch_size=7, compile="eager", progress=False)
    pair.posteriors = nn.ModuleList([Diagonal(posterior) for posterior in pair.posteriors])
    x = chain.x.repeat(20, 1)
    sampled = torch.stack([SGVB_A().bound(pair, x).sum() for _ in range(50)])
    pyros = TraceMeanField_ELBO(max_plate_nesting=1)
    with pytest.warns(UserWarning, match="mean field"):
        closed = torch.tensor([-pyros.loss(pair.model, pair.guide, x) for _ in range(50)])
    error = (sampled.var() + closed.var()).sqrt() / math.sqrt(50)
    assert (sampled.mean() - closed.mean()).abs() > 10 * error


def test_the_closed_form_of_each_level_is_given_the_levels_above(chain: Chain) -> None:
    """KL(q(z_l | z_>l, x) || p(z_l | z_>l)) at the draws above; in expectation what sampling gives of each level."""
    pair = top_down(chain)
    terms = seeded(2, SGVB_B().terms, pair, chain.x)
    model, guide = seeded(2, run, pair, chain.x)
    many = [estimator(20_000).terms(pair, chain.x[:1]) for estimator in (SGVB_A, SGVB_B)]
    for name in ("z3", "z2", "z1"):
        torch.testing.assert_close(terms[name].kl, kl_divergence(guide.nodes[name]["fn"], model.nodes[name]["fn"]))
        sampled, closed = many[0][name].log_q - many[0][name].log_p, many[1][name].kl
        error = ((sampled.var() + closed.var()) / 20_000).sqrt()
        assert (sampled.mean() - closed.mean()).abs() < 4.5 * error < 0.1 * closed.mean()


#: But for those that need latents of independent units.
EVERY = {name: make for name, make in {**MADE, **VARIANTS}.items() if name not in ("FreeBits", "TCVAE")}


@pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
@pytest.mark.parametrize("name", EVERY)
@exact_guides
def test_every_estimator_gives_the_evidence_at_the_exact_posterior(chain: Chain, make: Any, name: str) -> None:
    """All weights are log p(x). What uses a KL in closed form refuses the guide upwards."""
    pair, estimator = make(chain), EVERY[name]()
    if "model's order" in estimator.facts.sites and make is bottom_up:
        with pytest.raises(ValueError, match="Use SGVB_A"):
            estimator.bound(pair, chain.x)
        return
    torch.testing.assert_close(estimator.bound(pair, chain.x), chain.log_evidence(), atol=1e-9, rtol=0)
    estimator.differentiable_loss(*programs(pair), chain.x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.likelihood.parameters())


@pytest.mark.parametrize("estimator", [SGVB_A(3, sticking_the_landing=True), DReG(3), DReG(1)], ids=repr)
@exact_guides
def test_at_the_exact_posterior_the_guides_gradient_is_zero_at_each_draw(
    chain: Chain, make: Any, estimator: Any
) -> None:
    """Without the score; with it (SGVB_A as it is) in expectation alone."""
    pair = make(chain)
    own = [part.weight for part in (pair.posteriors if make is bottom_up else pair.levels)]
    for which, zero in ((estimator, True), (SGVB_A(3), False)):
        pair.zero_grad()
        which.differentiable_loss(*programs(pair), chain.x).backward()
        largest = max(weight.grad.abs().max() for weight in own)
        assert (largest < 1e-9) if zero else (largest > 0.1)


PAIRED = [
    (SGVB_A(), SGVB_B()),
    (SGVB_A(), SGVB_A(sticking_the_landing=True)),
    (IWAE(3), DReG(3)),
    (IWAE(3), MIWAE(1, 3)),
    (IWAE(3), PIWAE(1, 3)),
]


@pytest.mark.parametrize(("one", "other"), PAIRED, ids=repr)
def test_gradients_of_one_bound_are_equal_in_expectation(chain: Chain, one: Any, other: Any) -> None:
    """Also of the conditionals, which model and guide share, and which both see by ``once``."""
    pair, x, found = top_down(chain), chain.x[:1].expand(400, DX), []
    for seed, estimator in enumerate((one, other)):
        torch.manual_seed(seed)
        draws = []
        for _ in range(25):
            grads = torch.autograd.grad(estimator.differentiable_loss(*programs(pair), x), list(pair.parameters()))
            draws.append(torch.cat([grad.flatten() for grad in grads]) / len(x))
        found.append(torch.stack(draws))
    (mean, variance), (mean_of_other, variance_of_other) = ((d.mean(0), d.var(0) / len(d)) for d in found)
    error = (variance + variance_of_other).sqrt().clamp_min(1e-12)
    assert ((mean - mean_of_other).abs() < 5 * error).all()
    assert (mean.abs() > 10 * error).float().mean() > 0.2


@pytest.mark.parametrize("make", [bottom_up, top_down])
def test_values_are_pyros_at_equal_seed(chain: Chain, make: Any) -> None:
    """To the last digits in float64; the gradients too, whether or not the way down is computed once."""
    pair = make(chain)
    rivals: list[Any] = [(SGVB_A(), Trace_ELBO)]
    if make is top_down:
        rivals.append((SGVB_B(), TraceMeanField_ELBO))
    for ours, theirs in rivals:
        found = []
        for elbo in (ours, theirs(max_plate_nesting=1)):
            call = functools.partial(elbo.loss_and_grads, pair.model, pair.guide, chain.x)
            found.append((seeded(5, elbo.loss, pair.model, pair.guide, chain.x), gradients(pair, call)))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.slow
def test_evidence_of_a_chain_by_importance_and_annealing(chain: Chain) -> None:
    pair, exact = top_down(chain), chain.log_evidence()
    found = evidence.importance(pair, chain.x, 2000, compile="eager").log_prob
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0)
    annealed = evidence.ais(pair, chain.x, num_chains=16, num_steps=100, compile="eager").log_prob
    torch.testing.assert_close(annealed, exact, atol=0.3, rtol=0)


@pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
def test_rates_by_level_are_the_exact_information_at_the_exact_posterior(chain: Chain) -> None:
    """KL(q(z1 | z2, x) || p(z1 | z2)) and so on; their sum is log p(x) less E[log p(x | z1)]."""
    pair = top_down(chain, exact=True)
    torch.manual_seed(3)
    sides = rate_distortion(pair, [(chain.x,)] * 200)
    assert set(sides.rates) == {"z1", "z2", "z3"}
    assert -(sides.rate + sides.distortion) == pytest.approx(chain.log_evidence().mean().item(), abs=1e-6)


# The way down, once


def test_under_our_estimators_the_way_down_is_computed_once(chain: Chain) -> None:
    pair: Any = top_down(chain)
    SGVB_B().differentiable_loss(pair.model, pair.guide, chain.x)
    assert [sorted(rung.calls) for rung in pair.levels] == [["forward", "prior"]] * 3
    for rung in pair.levels:
        rung.calls.clear()
    Trace_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, chain.x)
    assert [rung.calls.count("prior") for rung in pair.levels] == [2, 2, 2]


# The systems: what the laws of pairs (tests/testing) do not say

ROWS = {name: row for name, row in {**SYSTEMS, **SYSTEM_VARIANTS}.items() if "Hierarchical" in name or "Ladder" in name}
systems = pytest.mark.parametrize("system", ROWS)


@systems
def test_diagnostics_and_evidence_take_a_system(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[evidence.ais.__module__], "_PILOT_STEPS", 5)
    pair, (x,) = ROWS[system]().eval(), ROWS[system].batch()
    sites = check(pair, x).sites
    assert [site.name for site in sites] == ["z2", "z1", "x"]
    assert reconstruct(pair, x).shape == x.shape
    assert sample(pair, 3, x).shape == (3, *x.shape[1:])
    assert active_units(pair, [(x,)], site="z1").variances.numel() == math.prod(sites[1].event_shape)
    found = evidence.importance(pair, x, 200, compile="eager").log_prob
    assert (found >= SGVB_A(200).bound(pair, x) - 1.0).all()
    assert evidence.ais(pair, x[:2], 2, 5, num_leapfrog=2, compile="eager").log_prob.isfinite().all()


@pytest.mark.slow
@systems
def test_training_raises_the_bound(system: str) -> None:
    torch.manual_seed(0)
    row = ROWS[system]
    shape = row.batch()[0].shape[1:]
    one = (torch.rand(shape) < torch.linspace(0, 1, shape[-1])).float()
    x = torch.stack([one, 1 - one] * 20)
    pair = row(normalization="batch")
    before = SGVB_A(20).bound(pair.eval(), x).mean()
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    fit(pair.train(), x, epochs=15, batch_size=10, compile="traced", progress=False, optimizer=optimizer)
    assert SGVB_A(20).bound(pair.eval(), x).mean() > before + 0.05 * math.prod(shape)


def test_the_ladders_posterior_is_the_product_of_prior_and_evidence() -> None:
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


def test_a_ladder_of_one_level_is_the_vae_of_one_latent() -> None:
    ladder, plain = LadderVAE((1, 8, 8), (3,), (16,)), HierarchicalVAE((1, 8, 8), (3,), (16,))
    x = binary(1, 8, 8)
    assert [s.name for s in check(ladder, x).sites] == [s.name for s in check(plain, x).sites] == ["z1", "x"]
    assert SGVB_B().bound(plain, x).shape == (5,)  # one level is in any order


SIZES = "latent_dims has to hold sizes of at least 1"
REFUSED = [
    (lambda: LadderVAE((1, 8, 8), (4, 2), (16, 8, 8)), r"2 latents.*3 widths"),
    (lambda: HierarchicalVAE((1, 8, 8), (4, 2), (16,)), r"2 latents.*1 widths"),
    (lambda: HierarchicalVAE((1, 8, 8), (4, 0), (16, 8)), SIZES),
    (lambda: LadderVAE((1, 8, 8), (), ()), SIZES),
    (lambda: ConvLadderVAE((1, 8, 8), (2, 2), (4, 4), (2, 3)), "stride 3 of level 2 does not divide its sides 4 x 4"),
    (  # no units are left
        lambda: ConvLadderVAE((1, 8, 8), (2,) * 4, (4,) * 4, (2,) * 4),
        "stride 2 of level 4 does not divide its sides 1 x 1",
    ),
    (lambda: ConvLadderVAE((1, 8, 8), (2, 0), (4, 4), (2, 2)), SIZES),
    (lambda: ConvLadderVAE((1, 8, 8), (), (), ()), SIZES),
    (lambda: ConvLadderVAE((64,), (2,), (4,), (2,)), r"a convolutional ladder is of images.*got \(64,\)"),
    (lambda: ConvLadderVAE((1, 8, 8), (2,), (4,), (2,), blocks=-1), "blocks has to be a whole number from 0 to 10,000"),
    (lambda: ConvLadderVAE((1, 8, 8), (2, 2, 2), (4, 4, 4), (2, 2)), r"3 latents.*strides="),
    (lambda: BottomUpVAE(Standard(2), [], [nn.Identity()] * 3, nn.Identity()), "3 posteriors and 0 conditionals"),
    (lambda: BottomUpVAE(Standard(2), [], [], nn.Identity()), "0 posteriors and 0 conditionals"),
    (lambda: TopDownVAE(Same(0), [], nn.Identity()), "at least one level"),
]


def test_what_cannot_be_built_is_refused() -> None:
    for build, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            build()
    for system in (HierarchicalVAE, LadderVAE):
        with pytest.raises(ValueError, match="depth has to hold sizes of at least 1"):
            system((1, 8, 8), (2,), (4,), depth=0)
        with pytest.raises(ValueError, match="mean"):
            system((1, 8, 8), (2,), (4,), mean=torch.zeros(64))
        with pytest.raises(ValueError, match="channels, height, width"):
            system((64,), (2,), (4,), channels=(4,))
        with pytest.raises(ValueError, match="needs data"):
            system((1, 8, 8), (2,), (4,)).guide()


@pytest.mark.parametrize(("bottom_up", "got"), [(lambda x: x, "one tensor"), (lambda x: [x, x], "2")])
def test_each_level_has_its_evidence(chain: Chain, bottom_up: Any, got: str) -> None:
    pair = top_down(chain)
    pair.bottom_up.forward = bottom_up
    with pytest.raises(ValueError, match=rf"bottom_up has to give a list of 3.*got {got}"):
        check(pair, chain.x)


def test_evidence_and_state_side_by_side() -> None:
    evidence, h = torch.randn(5, 3, 2, 2), torch.randn(4, 1, 6, 2, 2)
    both = concat(evidence, h, -3)
    assert both.shape == (4, 5, 9, 2, 2)
    torch.testing.assert_close(both[1, 2], torch.cat([evidence[2], h[1, 0]]))
    assert concat(torch.zeros(5, 3), torch.zeros(2)).shape == (5, 5)  # a state that is the same for all data
    assert concat(evidence, None, -3) is evidence


class Kind(LatentLayer):
    """A category at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.head, self.down = nn.Parameter(torch.randn(3)), nn.Linear(5, 3), nn.Linear(3, 2)

    def prior(self, h: Any) -> Any:
        return dist.OneHotCategorical(logits=self.logits)

    def posterior(self, p: Any, h: Any, evidence: Tensor) -> Any:
        return dist.OneHotCategorical(logits=self.head(evidence))

    def forward(self, h: Any, z: Tensor) -> Tensor:
        return self.down(z)


class Below(LatentLayer):
    """A Gaussian given the category, recognized from both."""

    def __init__(self) -> None:
        super().__init__()
        self.recognition = nn.Linear(5 + 2, 2)

    def prior(self, h: Any) -> Any:
        return dist.Normal(h, 1.0).to_event(1)

    def posterior(self, p: Any, h: Any, evidence: Tensor) -> Any:
        return dist.Normal(self.recognition(concat(evidence, h)), 0.7).to_event(1)

    def forward(self, h: Any, z: Tensor) -> Tensor:
        return concat(z, h)


def test_a_category_above_a_gaussian_is_summed_over() -> None:
    """Also where guide and model share the way down: a sum over the categories is the mean of draws."""
    torch.manual_seed(0)
    likelihood = Linear(torch.randn(5, 4), torch.zeros(5), torch.ones(5))
    pair, x = TopDownVAE(Same(2), [Below(), Kind()], likelihood), torch.randn(1, 5)
    check(pair, x, estimator=Enumeration())
    draws = [estimator.bound(pair, x.expand(4000, 5)) for estimator in (SGVB_A(), Enumeration())]
    assert_means_equal(*draws)
    assert draws[1].var() < draws[0].var()
    options: dict[str, Any] = {"estimator": Enumeration(), "epochs": 1, "batch_size": 10, "progress": False}
    run = fit(pair, torch.randn(20, 5), compile="traced", **options)
    assert math.isfinite(run.history[0]["train"])
