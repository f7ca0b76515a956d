"""No number that is wrong: what a bound, an evidence and a diagnostic are of, for programs of users, or a refusal.

The model is z ~ N(0, 1), x | z ~ N(z, 1), so that log p(x) is that of N(0, 2), unless it is said.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gated import EXACT, X, assert_evidence, mean_of, near, pair_of, whole
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal, AutoStructured
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae import (
    IWAE,
    SGVB_A,
    SGVB_B,
    TCVAE,
    VIMCO,
    Balanced,
    Capacity,
    DReG,
    Enumeration,
    FreeBits,
    MonteCarloEM,
    Pair,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    check,
    fit,
)
from pyro_vae.diagnostics import encode, kl_decomposition, levels, rate_distortion, reconstruct, sample
from pyro_vae.estimators import ESTIMATORS, Estimator
from pyro_vae.evidence import ais, bdmc, hmc, importance, posterior_draws
from pyro_vae.pair import programs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


# Supports, points, plates


def test_a_support_that_moves() -> None:
    """z ~ U(0, 1), x | z ~ N(z, 1); q(z) = U(0, h)."""
    high = nn.Parameter(torch.tensor(0.7))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, stretched: bool = False) -> None:
        with pyro.plate("data", len(x)):
            unit = dist.Uniform(torch.zeros(len(x)), 1.0)
            stretch = dist.transforms.AffineTransform(0.0, high)
            q = dist.TransformedDistribution(unit, [stretch]) if stretched else dist.Uniform(torch.zeros(len(x)), high)
            pyro.sample("z", q)

    for made in (guide, lambda x: guide(x, True)):
        pair = Pair(model, made)
        for estimator in (
            SGVB_A(sticking_the_landing=True),
            DReG(3),
            ScoreFunction(2, pathwise=False),
            WakeSleep(),
            ReweightedWakeSleep(3),
        ):
            with pytest.raises(ValueError, match=r"needs q\(z\) on all of the support of p\(z\)"):
                estimator.loss(*programs(pair), X)
        for call in (lambda: importance(pair, X, 30), lambda: ais(pair, X, 4, 10, start="guide", compile="eager")):  # noqa: B023
            with pytest.raises(ValueError, match=r"on all of the support of p\(z\)|lives on the real line"):
                call()
        z = torch.linspace(0, 1, 10_001)
        exact = torch.trapezoid(dist.Normal(z[:, None], 1.0).log_prob(X).exp(), z, dim=0).log()
        mean, error = mean_of(lambda: SGVB_A().bound(pair, X))  # noqa: B023
        assert (mean <= exact + 4 * error).all()
    x = X[:1].repeat(4000)
    slope = torch.autograd.grad(SGVB_A().differentiable_loss(*programs(Pair(model, guide)), x), high)[0] / 4000
    at = torch.tensor(0.7, requires_grad=True)
    elbo = dist.Normal(at * torch.linspace(0, 1, 1001), 1.0).log_prob(X[0]).mean() + at.log()
    assert slope.item() == pytest.approx(-torch.autograd.grad(elbo, at)[0].item(), abs=0.03)


@pytest.mark.parametrize("local", [True, False])
def test_a_point_has_no_bound(local: bool) -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0)) if not local else 0.0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0)) if local else w
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = Pair(model, AutoDelta(model))
    for call in (lambda: SGVB_A().bound(pair, X), lambda: SGVB_A().mean_bound(pair, [(X,)])):
        with pytest.raises(ValueError, match=r"gives '[zw]' a point, as AutoDelta does"):
            call()
    with pytest.raises(ValueError, match=r"a point, as AutoDelta does|stands outside the data plate"):
        importance(pair, X, 10)
    assert math.isfinite(SGVB_A().loss(*programs(pair), X))  # it is trained as by SVI
    if not local:
        assert fit(pair, X, epochs=2, batch_size=3, progress=False, compile="eager").history


def test_plates_that_subsample_inside_of_the_program() -> None:
    x = torch.randn(12)

    def data(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=min(4, len(x))) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=min(4, len(x))) as rows:
            pyro.sample("z", dist.Normal(0.4 * x[rows], 0.8))

    for call in (importance, ais, bdmc, hmc, posterior_draws):
        with pytest.raises(ValueError, match="4 of 12"):
            call(Pair(data, guide), x, compile="eager")
    for call in (encode, lambda pair, x: sample(pair, 12, x)):
        with pytest.raises(ValueError, match="subsamples 4 of 12"):
            call(Pair(data, guide), x)

    def pixels(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with pyro.plate("pixels", 6, subsample_size=2, dim=-2) as columns:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T[columns])

    def rows(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(1), 0.5))

    pair, x = Pair(pixels, rows), torch.randn(5, 6)
    for call in (
        lambda: importance(pair, x, 10),
        lambda: ais(pair, x, 4, 10, compile="eager"),
        lambda: IWAE(3, max_plate_nesting=2).bound(pair, x),
    ):
        with pytest.raises(ValueError, match="'pixels' around 'x' subsamples 2 of 6"):
            call()
    assert SGVB_A(max_plate_nesting=2).bound(pair, x).isfinite().all()


def test_plates_deeper_than_was_said() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with pyro.plate("pixels", 3, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(1) / 4, 0.55))

    x = torch.randn(3, 3)
    exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x)
    pair = Pair(model, guide)
    found = importance(pair, x, 8_000)
    assert ((found.log_prob - exact).abs() < 4 * found.standard_error).all()
    for start in ("prior", "guide"):
        assert ((ais(pair, x, 32, 60, start=start, num_leapfrog=3, compile="eager").log_prob - exact).abs() < 0.2).all()
    assert ((hmc(pair, x, 60, 16, 60, num_leapfrog=4, compile="eager").log_prob - exact).abs() < 0.1).all()
    for made in (IWAE(3000), VIMCO(3000), DReG(3000)):
        assert torch.allclose(made.bound(pair, x), exact, atol=0.1)
    for made in (SGVB_A(3), Enumeration(), MonteCarloEM(num_transitions=1)):
        assert (made.bound(pair, x) < exact + 1).all()
    assert encode(pair, x)["z"].shape == (3,)
    assert sample(pair, 7, x).shape == (7, 3)


def test_masked_data() -> None:
    """Padding: what is masked counts nothing in a bound, and in evidence with all of its prior."""
    kept = torch.tensor([True, False, True])
    assert_evidence(pair_of(poutine.mask(mask=kept)), exact=torch.where(kept, EXACT, 0.0), copies=1)


def test_a_masked_latent_on_which_data_depend() -> None:
    kept = torch.tensor([True, False, True])
    pair = Pair(whole(latent=poutine.mask(mask=kept)), near(latent=poutine.mask(mask=kept)))
    for estimator in (SGVB_A(), IWAE(3)):
        with pytest.raises(ValueError, match="z has masked draws on which 'x' depends"):
            estimator.bound(pair, X)
    found = importance(pair, X, 20_000)
    assert ((found.log_prob - EXACT).abs() < 4 * found.standard_error).all()
    assert ((hmc(pair, X, 60, 16, 60, num_leapfrog=4, compile="eager").log_prob - EXACT).abs() < 0.1).all()
    one = Pair(whole(latent=poutine.mask(mask=kept)), near())
    with pytest.raises(ValueError, match="masked otherwise in the model than in the guide"):
        SGVB_A().bound(one, X)


# Enumeration, zero probabilities, weights


def test_enumeration_of_draws() -> None:
    def few(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel", "num_samples": 2})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="num_samples=2"):
        Enumeration().bound(Pair(few, lambda x: None), X)


def half_impossible() -> tuple[Pair, nn.Parameter]:
    """z ~ Bernoulli(1/2); x is impossible where z is 0. And the logit of the guide."""
    logit = nn.Parameter(torch.tensor(0.4))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.factor("possible", torch.where(z == 1, 0.0, -math.inf))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return Pair(model, guide), logit


@pytest.mark.parametrize("make", [VIMCO, ReweightedWakeSleep])
def test_draws_without_probability(make: Any) -> None:
    pair, logit = half_impossible()
    for seed in range(100):
        torch.manual_seed(seed)
        loss = make(3).differentiable_loss(*programs(pair), X[:1])
        (gradient,) = torch.autograd.grad(loss, logit)
        assert not loss.isnan()
        assert gradient.isfinite()


def test_random_weights_count_once_whatever_the_batches() -> None:
    x = torch.randn(40)

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.3, 0.1))
        with pyro.plate("data", len(x)):
            pass

    kl = torch.distributions.kl_divergence(torch.distributions.Normal(0.3, 0.1), torch.distributions.Normal(0.0, 1.0))
    pair = Pair(model, guide)
    for size in (5, 10, 40):
        batches = [(part,) for part in x.split(size)]
        found = rate_distortion(pair, batches, SGVB_B())
        assert found.rate == pytest.approx(kl.item() / 40, rel=1e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = sum(SGVB_B(50).mean_bound(pair, batches) for _ in range(20)) / 20
        exact = dist.Normal(0.3, 1.0).log_prob(x).mean().item() - 0.1**2 / 2 - kl.item() / 40
        assert bound == pytest.approx(exact, abs=0.02)


def test_every_estimator_asks_the_gate() -> None:
    pair = Pair(whole(), near(more=lambda x: pyro.factor("f", torch.full((len(x),), -2.0))))
    for kind in ESTIMATORS:
        with pytest.raises(ValueError, match="factor or observation 'f'"):
            kind.example().bound(pair, X)
        with pytest.raises(ValueError, match="factor or observation 'f'"):
            kind.example().loss(*programs(pair), X)


def test_bounds_look_at_plates_where_validation_is_off() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", 2, dim=-2):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    pair, x = Pair(model, guide), torch.randn(5, 2)
    calls: list[Any] = [functools.partial(kind.example().bound, pair, x) for kind in ESTIMATORS]
    calls += [lambda: SGVB_A().terms(pair, x), lambda: SGVB_A().log_weights(pair, x), lambda: importance(pair, x)]
    calls += [lambda: SGVB_A().mean_bound(pair, [(x,)]), lambda: rate_distortion(pair, [(x,)])]
    for call in calls:
        with pyro.validation_enabled(False), pytest.raises(ValueError, match="plate"):
            call()


def test_a_guide_that_is_made_for_all_data_is_not_cut() -> None:
    """AutoNormal's latents of each datum; importance sampling and chains take the data in parts elsewhere."""
    x = torch.randn(40)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoNormal(model, init_scale=1.0)
    guide(x)
    found = importance(Pair(model, guide), x, 4000, chunk=500, compile="eager")
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert ((found.log_prob - exact).abs() < 5 * found.standard_error).all()
    assert hmc(Pair(model, guide), x, 20, 4, 20, chunk=20, compile="eager").log_prob.shape == (40,)


def test_which_plate_is_that_of_the_data() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("batch", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("batch", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.5))

    for x in (torch.randn(4, 4), torch.randn(3, 4)):
        found = importance(Pair(model, guide), x, 8_000)
        exact = dist.MultivariateNormal(torch.zeros(4), torch.eye(4) + 1).log_prob(x)
        assert ((found.log_prob - exact).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize("prior", [dist.Gamma(2.0, 1.0), dist.Uniform(-3.0, 3.0), dist.Beta(2.0, 3.0)], ids=str)
@pytest.mark.parametrize("make", ["AutoNormal", "biject_to"])
def test_a_guide_on_the_support_of_its_prior_is_not_refused(make: str, prior: Any) -> None:
    x = torch.tensor([0.4, 0.7])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.expand([len(x)]))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def transformed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x)), 1.5)
            pyro.sample("z", dist.TransformedDistribution(base, [biject_to(prior.support)]))

    guide = AutoNormal(model, init_scale=1.0) if make == "AutoNormal" else transformed
    pair = Pair(model, guide)
    check(pair, x)
    z = torch.linspace(-3, 12, 150_001)[:, None]
    inside = prior.support.check(z)
    density = torch.where(inside, prior.log_prob(torch.where(inside, z, torch.tensor(0.5))), -math.inf)
    exact = torch.trapezoid((density + dist.Normal(z, 0.5).log_prob(x)).exp(), z[:, 0], dim=0).log()
    found = importance(pair, x, 20_000, compile="eager")
    assert ((found.log_prob - exact).abs() < 4 * found.standard_error + 2e-3).all()
    for estimator in (SGVB_A(sticking_the_landing=True), ReweightedWakeSleep(3)):
        assert math.isfinite(estimator.loss(*programs(pair), x))


def test_doubly_reparameterized_hierarchies_of_unequal_weights_are_refused() -> None:
    def program(x: Tensor, observe: bool) -> None:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.3):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    pair = Pair(lambda x: program(x, True), lambda x: program(x, False))
    assert math.isfinite(IWAE(3).loss(*programs(pair), X))
    with pytest.raises(ValueError, match=r"weighs 'w' otherwise than 'z'"):
        DReG(3).differentiable_loss(*programs(pair), X)
    assert DReG(3).bound(pair, X).isfinite().all()


def test_codes_of_plates_of_any_name() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("docs", len(x), dim=-1), pyro.plate("times", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("docs", len(x), dim=-1), pyro.plate("times", 3, dim=-2):
            pyro.sample("z", dist.Normal(x.T / 2, 0.7))

    x = torch.randn(4, 3)
    torch.testing.assert_close(encode(Pair(model, guide), x)["z"], x / 2)
    torch.testing.assert_close(reconstruct(Pair(model, guide), x), x / 2)
    assert levels(Pair(model, guide), [(x,)])["z"].num_units == 3


def test_a_prior_that_depends_on_another_latent_is_not_taken_apart() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            m = pyro.sample("m", dist.Normal(torch.zeros(len(x)), 1.0))
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("m", dist.Normal(0.5 * torch.ones(len(x)), 0.5))
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    with pytest.raises(ValueError, match=r"p\(z\) depends on another latent"):
        kl_decomposition(Pair(model, guide), X)


@pytest.mark.parametrize("estimator", [TCVAE(6.0), FreeBits(0.3), Capacity(10.0, 5.0), Balanced(beta=0.5)], ids=repr)
def test_a_weight_of_all_data_weighs_a_penalized_loss(estimator: Estimator) -> None:
    torch.manual_seed(1)
    plain = estimator.loss(*programs(pair_of()), X)
    torch.manual_seed(1)
    assert estimator.loss(*programs(pair_of(poutine.scale(scale=3.0))), X) == pytest.approx(3 * plain, rel=1e-4)


def test_a_list_of_autoguides_with_points_trains_and_has_no_bound() -> None:
    def model(x: Tensor) -> None:
        v, w = pyro.sample("v", dist.Normal(0.0, 1.0)), pyro.sample("w", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(v, w), obs=x)

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["w"])))
    guide.append(AutoDelta(poutine.block(model, expose=["v"])))
    pair = Pair(model, guide)
    SGVB_A().loss(*programs(pair), X)
    torch.manual_seed(0)
    ours = SGVB_A().loss(*programs(pair), X)
    torch.manual_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(*programs(pair), X), rel=1e-5)
    with pytest.raises(ValueError, match="gives 'v' a point"):
        SGVB_A().bound(pair, X)


@pytest.mark.parametrize("prior", [dist.HalfNormal(1.0), dist.Gumbel(0.0, 1.0)], ids=str)
def test_families_know_their_own_support(prior: Any) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.expand([len(x)]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        q = dist.Gamma(2.0, 2.0) if isinstance(prior, dist.HalfNormal) else dist.Normal(0.5, 1.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", q.expand([len(x)]))

    check(Pair(model, guide), X)
    assert importance(Pair(model, guide), X, 200, compile="eager").log_prob.isfinite().all()


@pytest.mark.parametrize("make", [AutoStructured, lambda model: AutoNormal(model, init_scale=8.0)])
def test_autoguides_are_taken_at_their_word(make: Any) -> None:
    def model(x: Tensor) -> None:
        w, v = pyro.sample("w", dist.Uniform(-3.0, 3.0)), pyro.sample("v", dist.HalfCauchy(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0 + v), obs=x)

    guide = make(model)
    pair = Pair(model, guide)
    guide(X)
    for particles in (1, 5):
        torch.manual_seed(0)
        ours = SGVB_A(particles).loss(*programs(pair), X)
        torch.manual_seed(0)
        pyros = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1).loss(*programs(pair), X)
        assert ours == pytest.approx(pyros, rel=1e-5)
    check(pair, X)


def test_points_of_many_data_are_looked_at_too() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(x)), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(0.2 * a))

    with pytest.raises(ValueError, match="'a' is in the guide but not in the model"):
        SGVB_A().bound(Pair(whole(), guide), torch.randn(300))


def test_codes_of_a_guide_of_global_latents_alone() -> None:
    def model(x: Tensor) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(g, 1.0), obs=x)

    pair = Pair(model, lambda x: pyro.sample("g", dist.Normal(0.3, 0.5)))
    assert encode(pair, X) == {}
    assert len(levels(pair, [(X,)])) == 0


def test_one_draw_for_all_data_in_a_plate_without_a_size() -> None:
    def program(x: Tensor, observe: bool) -> None:
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0))
            if observe:
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    pair = Pair(lambda x: program(x, True), lambda x: program(x, False))
    for estimator in (SGVB_A(), IWAE(3), VIMCO(3)):
        with pytest.raises(ValueError, match="'z' is one draw for all 3 data"):
            estimator.bound(pair, X)


def test_an_impossible_draw_makes_the_loss_of_an_elbo_infinite_and_not_nan() -> None:
    pair, _ = half_impossible()
    for seed in range(20):
        torch.manual_seed(seed)
        loss = SGVB_A(2).differentiable_loss(*programs(pair), X)
        assert not loss.isnan()
