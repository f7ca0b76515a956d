"""Bounds from several samples of each datum, in closed form; and where they are each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import (
    DOUBLE,
    EVERY,
    GUIDE,
    Chain,
    Coin,
    OneLatent,
    Pixels,
    again,
    assert_same,
    gradients,
    gradients_of,
    of_guide,
    of_model,
    renyi,
    seeded,
)
from pairs import PAIRS, linear_gaussian, made
from pyro.infer import RenyiELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    VIMCO,
    DReG,
    Pair,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    evidence,
)
from pyro_vae.estimators import (
    Estimator,
    ImportanceWeighted,
    LeaveOneOut,
    Mean,
    Phases,
    StickingTheLanding,
    log_mean_exp,
)
from pyro_vae.pair import programs

Factory = Callable[[], tuple[Any, tuple[Any, ...]]]
LOCAL = [p for p in PAIRS if p.id != "plain_object"]  # whose latents all stand in the data plate
HIERARCHY = next(p.values[0] for p in PAIRS if p.id == "hierarchy")
FAMILY = [
    SGVB_A(1),
    SGVB_A(4),
    IWAE(4),
    DReG(4),
    Renyi(0.5, 4),
    Renyi(-1.0, 4),
    Renyi(3.0, 4, gradient=DOUBLE),
    MIWAE(2, 2),
    MIWAE(2, 2, gradient=LeaveOneOut()),
    CIWAE(0.3, 4),
    PIWAE(2, 2),
]


# The values


@pytest.mark.parametrize(
    ("estimator", "reduce"),
    [
        (IWAE(6), log_mean_exp),
        (DReG(6), log_mean_exp),
        (VIMCO(6), log_mean_exp),
        (ReweightedWakeSleep(6), log_mean_exp),
        (WakeSleep(6), lambda w: w.mean(0)),
        (Renyi(-0.5, 6), lambda w: log_mean_exp(1.5 * w) / 1.5),
        (Renyi(3.0, 6), lambda w: log_mean_exp(-2.0 * w) / -2.0),
        (MIWAE(2, 3), lambda w: (log_mean_exp(w[:3]) + log_mean_exp(w[3:])) / 2),
        (CIWAE(0.3, 6), lambda w: 0.3 * w.mean(0) + 0.7 * log_mean_exp(w)),
        (PIWAE(2, 3), log_mean_exp),
    ],
    ids=lambda value: repr(value) if isinstance(value, Estimator) else "reduce",  # the same in all processes
)
def test_bound_is_of_each_datums_weights(estimator: Estimator, reduce: Callable[[Tensor], Tensor]) -> None:
    """With inner plates and beta, too; the weights are SGVB_A's at the same seed, which equal Pyro's."""
    for factory in (p.values[0] for p in LOCAL):
        pair, batch = made(factory)
        weights = seeded(1, SGVB_A(6).log_weights, pair, *batch).detach().double()
        bound = seeded(1, estimator.bound, pair, *batch)
        torch.testing.assert_close(bound.double(), reduce(weights), rtol=1e-4, atol=1e-4)
        same = seeded(1, estimator.log_weights, pair, *batch)
        torch.testing.assert_close(same.double(), weights, rtol=1e-4, atol=1e-4)
    pair, x = Pixels(), torch.randn(4, 5)
    nested = again(estimator, max_plate_nesting=2)
    weights = seeded(1, SGVB_A(6, max_plate_nesting=2).log_weights, pair, x).detach()
    torch.testing.assert_close(seeded(1, nested.bound, pair, x), reduce(weights), rtol=1e-4, atol=1e-4)
    pair, batch = made(HIERARCHY)
    if estimator.no_beta:
        return
    terms = seeded(1, SGVB_A(6).terms, pair, *batch)
    weights = terms.pop("x").log_p + 0.4 * sum(t.log_p - t.log_q for t in terms.values())
    weighed = again(estimator, beta=0.4)
    torch.testing.assert_close(seeded(1, weighed.bound, pair, *batch), reduce(weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_exact_at_the_exact_posterior(estimator: Estimator) -> None:
    pair, x, exact = linear_gaussian()
    for seed in range(3):
        torch.testing.assert_close(seeded(seed, estimator.bound, pair, x), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("estimator", "size", "reads"),
    [*((one, 2, False) for one in FAMILY), (FAMILY[2], 1, False), (FAMILY[2], 5, False), (FAMILY[2], 2, True)],
    ids=repr,
)
def test_does_not_depend_on_the_subsample_size(estimator: Estimator, size: int, reads: bool) -> None:
    """Pyro scales the weights of a subsampled plate by N/B before it sums them; here they stay a datum's own."""
    right, x, exact = linear_gaussian()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            if reads:  # which takes a run for each particle, all of the same data
                z.sum().item()
            pyro.sample("x", dist.Normal(z @ right.W.T + right.b, right.s).to_event(1), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as index:
            pyro.sample("z", right.posterior(x[index]))

    torch.manual_seed(0)
    pair = Pair(model, guide)
    bounds = torch.stack([estimator.bound(pair, x) for _ in range(25)])
    distances = (bounds[..., None] - exact).abs()
    assert distances.amin(-1).max() < 1e-8
    assert distances.flatten(0, 1).amin(0).max() < 1e-8  # every datum comes up
    loss = seeded(3, estimator.loss, model, guide, x)
    assert loss == pytest.approx(-5 * seeded(3, estimator.bound, pair, x).mean().item(), rel=1e-10)


@pytest.mark.parametrize("make", EVERY)
def test_subsampled_gradient_has_pyros_scale(make: Callable[..., Estimator]) -> None:
    """A batch of B in a plate of 3 B data: three times the gradient of the batch alone, also of a coin."""
    estimator, x = make(), torch.tensor([0.5, -1.0, 2.0, 0.1])
    for pair in (OneLatent(4), Coin(4)) if estimator.facts.sites.startswith(("any", "discrete")) else (OneLatent(4),):
        alone = gradients_of(estimator, pair, x)
        wide = Pair(*(_widened(program) for program in (pair.model, pair.guide)), pair)
        found = gradients(pair, lambda p=wide: estimator.loss_and_grads(p.model, p.guide, x))
        assert_same(found, {name: 3 * value for name, value in alone.items()})
        objective = gradients(pair, lambda p=wide: estimator.objective(p.model, p.guide, x).loss)
        assert_same(objective, {name: value / 4 for name, value in alone.items()})


def _widened(program: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """The program with its data plate three times as large as the batch."""

    class Wide(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            if msg["name"] != "data":
                msg["scale"] = 3 * msg["scale"]
                frame = msg["cond_indep_stack"][-1]._replace(full_size=12)
                msg["cond_indep_stack"] = (*msg["cond_indep_stack"][:-1], frame)

    return Wide()(program)


@pytest.mark.parametrize("factory", LOCAL)
@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_equals_pyros_renyi_on_a_full_plate(alpha: float, factory: Factory) -> None:
    pair, batch = made(factory)
    model, guide = programs(pair)
    ours = IWAE(3) if alpha == 0 else Renyi(alpha, 3)
    theirs = RenyiELBO(alpha=alpha, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert seeded(1, ours.loss, model, guide, *batch) == pytest.approx(
        seeded(1, theirs.loss, model, guide, *batch), rel=1e-5
    )
    assert_same(*(gradients(pair, lambda e=e: e.loss_and_grads(model, guide, *batch)) for e in (ours, theirs)))


def test_rises_with_k_to_the_evidence() -> None:
    pair, data = OneLatent(10_000, a=0.0, b=0.0, s=0.0), torch.full((10_000,), 2.0)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(2.0)).item()
    bounds = [seeded(k, IWAE(k).bound, pair, data) for k in (1, 5, 50)]
    means, errors = [b.mean().item() for b in bounds], [(b.std() / 100).item() for b in bounds]
    for (low, high), error in zip(zip(means, [*means[1:], exact], strict=True), errors, strict=True):
        assert low + 5 * error < high
    assert exact - means[-1] < 0.05


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_renyi_in_closed_form(alpha: float) -> None:
    x, m, s = 1.0, 0.8, math.sqrt(0.6)
    pair = OneLatent(100, torch.float64, a=0.0, b=m, s=math.log(s))
    exact, evidence = renyi(alpha, x, m, s), dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(x)).item()
    assert renyi(0.0, x, m, s) == pytest.approx(evidence, abs=1e-6)  # the closed form itself
    bounds = seeded(0, Renyi(alpha, 20_000).bound, pair, torch.full((100,), x, dtype=torch.float64))
    error = (bounds.std() / 10).item()
    assert bounds.mean().item() == pytest.approx(exact, abs=5 * error + 1e-4)  # the bias is of order 1 / K
    elbo = renyi(1 + 1e-7, x, m, s)
    if alpha < 0:
        assert bounds.mean().item() > evidence + 20 * error
    elif alpha > 1:
        assert bounds.mean().item() < elbo - 20 * error
    else:
        assert elbo + 20 * error < bounds.mean().item() < evidence - 20 * error


def test_renyi_orders() -> None:
    pair, batch = made(HIERARCHY)
    zero = seeded(1, IWAE(4).bound, pair, *batch)
    torch.testing.assert_close(seeded(1, Renyi(0.0, 4).bound, pair, *batch), zero)
    assert_same(gradients_of(Renyi(0.0, 4), pair, *batch), gradients_of(IWAE(4), pair, *batch))
    elbo = seeded(1, SGVB_A(4).bound, pair, *batch)
    near = seeded(1, Renyi(0.9999, 4).bound, pair, *batch)
    torch.testing.assert_close(near, elbo, rtol=1e-3, atol=1e-3)
    assert (zero - elbo).min() > 0.02  # which the tolerance tells apart
    near_one = gradients_of(Renyi(0.9999, 4), pair, *batch)
    assert_same(near_one, gradients_of(SGVB_A(4), pair, *batch), rtol=5e-3, atol=2e-3)
    for alpha in (1 - 1e-9, 1 + 1e-9):  # of which no digit is left in a power of the weights
        torch.testing.assert_close(seeded(1, Renyi(alpha, 4).bound, pair, *batch), elbo)
        assert_same(gradients_of(Renyi(alpha, 4), pair, *batch), gradients_of(SGVB_A(4), pair, *batch))
    bounds = [seeded(1, Renyi(alpha, 4).bound, pair, *batch) for alpha in (5.0, 2.0, 0.5, -0.5, -5.0)]
    for low, high in itertools.pairwise(bounds):
        assert (low < high).all()  # a power mean rises with its power


# The gradients


@pytest.mark.parametrize("factory", LOCAL)
def test_special_cases(factory: Factory) -> None:
    pair, batch = made(factory)
    sticking = SGVB_A(3, sticking_the_landing=True)
    for one, other in (
        (MIWAE(3, 1), SGVB_A(3)),
        (MIWAE(1, 3), IWAE(3)),
        (CIWAE(0.0, 3), IWAE(3)),
        (CIWAE(1.0, 3), SGVB_A(3)),
        (PIWAE(1, 3), IWAE(3)),
        (IWAE(1), SGVB_A(1)),
        (DReG(1), SGVB_A(1, sticking_the_landing=True)),
        (MIWAE(3, 1, gradient=DOUBLE), sticking),
        (CIWAE(1.0, 3, gradient=DOUBLE), sticking),
        (Estimator(Mean(), DOUBLE, 3), sticking),
        (Estimator(Mean(), StickingTheLanding(), 3), sticking),
        (Estimator(Mean(), DOUBLE, 3, beta=0.5), SGVB_A(3, sticking_the_landing=True, beta=0.5)),
        (IWAE(3, gradient=DOUBLE), DReG(3)),
        (MIWAE(1, 3, gradient=DOUBLE), DReG(3)),
        (CIWAE(0.0, 3, gradient=DOUBLE), DReG(3)),
        (Renyi(0.0, 3, gradient=DOUBLE), DReG(3)),
        (MIWAE(1, 3, gradient=LeaveOneOut()), VIMCO(3)),
        (Estimator(ImportanceWeighted(), Phases("both"), 3), ReweightedWakeSleep(3, guide="both")),
    ):
        torch.testing.assert_close(seeded(1, one.bound, pair, *batch), seeded(1, other.bound, pair, *batch))
        assert_same(gradients_of(one, pair, *batch), gradients_of(other, pair, *batch))


@pytest.mark.parametrize("pair", [OneLatent(5, torch.float64), Chain(5, torch.float64)], ids=["one", "chain"])
@pytest.mark.parametrize(("groups", "samples"), [(2, 3), (3, 1), (1, 4)])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_piwae(pair: nn.Module, groups: int, samples: int, beta: float) -> None:
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    ours = gradients_of(PIWAE(groups, samples, beta=beta), pair, x)
    iwae, miwae = IWAE(groups * samples, beta=beta), MIWAE(groups, samples, beta=beta)
    assert_same(of_model(ours), of_model(gradients_of(iwae, pair, x)), 1e-12, 1e-12)
    assert_same(of_guide(ours), of_guide(gradients_of(miwae, pair, x)), 1e-12, 1e-12)


@pytest.mark.filterwarnings("ignore:. was not registered in the param store")
def test_piwae_of_a_guide_that_is_not_trained() -> None:
    pair, x = OneLatent(5), torch.linspace(-1, 2, 5)
    model = of_model(gradients_of(IWAE(4), pair, x))
    for name in GUIDE & dict(pair.named_parameters()).keys():
        getattr(pair, name).requires_grad_(False).grad = None
    assert_same(gradients_of(PIWAE(2, 2), pair, x), model)
    with torch.no_grad():
        assert PIWAE(2, 2).objective(*programs(pair), x).loss.isfinite()


@pytest.mark.parametrize("hot", [False, True])
def test_straight_through_draws_are_scored_by_what_they_were_rounded_from(hot: bool) -> None:
    """A copy of a draw lacks it, so that PIWAE told of a bound far above log p(x)."""
    temperature = torch.tensor(0.7)

    def program(logits: float, observed: bool) -> Callable[[Tensor], None]:
        def run(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                where = torch.tensor([0.0, logits]).expand(len(x), 2)
                fn: Any = dist.RelaxedOneHotCategoricalStraightThrough(temperature, logits=where)
                if not hot:
                    fn = dist.RelaxedBernoulliStraightThrough(temperature, logits=where).to_event(1)
                z = pyro.sample("z", fn)
                if observed:
                    pyro.sample("x", dist.Normal(z[..., 0] + 2 * z[..., 1], 1.0), obs=x)

        return run

    pair, x = Pair(program(0.0, True), program(0.5, False)), torch.tensor([0.5, 2.0])
    values = torch.tensor([1.0, 2.0] if hot else [0.0, 1.0, 2.0, 3.0])
    log_p = dist.Normal(values, 1.0).log_prob(x[:, None]).logsumexp(-1) - math.log(len(values))
    torch.testing.assert_close(IWAE(4000).bound(pair, x), log_p, rtol=0, atol=0.1)
    sticking = SGVB_A(2, sticking_the_landing=True)
    for estimator in (PIWAE(2, 2), ScoreFunction(2, pathwise=False), ReweightedWakeSleep(2), DReG(2), sticking):
        with pytest.raises(ValueError, match=r"are scored by what they were rounded from.*SGVB_A or IWAE"):
            estimator.bound(pair, x)
    with pytest.raises(ValueError, match=r"'z' is a Relaxed\w*StraightThrough, which is discrete"):
        evidence.hmc(pair, x, 10, 2, 10)  # whose chains would move over what is not rounded, another model
