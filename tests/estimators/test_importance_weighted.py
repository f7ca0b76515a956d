"""Bounds from several samples of each datum: each in closed form, and each gradient against one written by hand."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import Chain, OneLatent, Pixels, assert_mean, assert_same, gradients, gradients_of, seeded
from pairs import PAIRS, linear_gaussian, made
from pyro.infer import RenyiELBO
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    VIMCO,
    DReG,
    MonteCarloEM,
    Pair,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    check,
    fit,
)
from pyro_vae.estimators import (
    Bound,
    DoublyReparameterized,
    Estimator,
    ImportanceWeighted,
    LeaveOneOut,
    Mean,
    Mixture,
    Phases,
    RenyiBound,
    Score,
    Split,
    StickingTheLanding,
    log_mean_exp,
)
from pyro_vae.pair import programs

Factory = Callable[[], tuple[Any, tuple[Any, ...]]]
LOCAL = [p for p in PAIRS if p.id != "plain_object"]  # whose latents all stand in the data plate
HIERARCHY = next(p.values[0] for p in PAIRS if p.id == "hierarchy")
GUIDE = {"a", "b", "c", "s", "t"}  # the guide's parameters in the small pairs
DOUBLE = DoublyReparameterized()
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


class CUBO(Bound):
    """log E[w^2]^(1/2), with the tangent of the log at a guess, as the documentation writes it."""

    side = "above"

    def __init__(self, guess: float) -> None:
        self.guess = guess

    def reduce(self, log_weights: Tensor) -> Tensor:
        return self.guess + ((2 * (log_weights - self.guess)).exp().mean(0) - 1) / 2


def parted(found: dict[str, Tensor], names: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of the guide's parameters, and of the others."""
    return {n: g for n, g in found.items() if n in names}, {n: g for n, g in found.items() if n not in names}


# The values


@pytest.mark.parametrize(
    ("estimator", "reduce"),
    [
        (IWAE(6), log_mean_exp),
        (DReG(6), log_mean_exp),
        (VIMCO(6), log_mean_exp),
        (ReweightedWakeSleep(6), log_mean_exp),
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
    nested = _again(estimator, max_plate_nesting=2)
    weights = seeded(1, SGVB_A(6, max_plate_nesting=2).log_weights, pair, x).detach()
    torch.testing.assert_close(seeded(1, nested.bound, pair, x), reduce(weights), rtol=1e-4, atol=1e-4)
    pair, batch = made(HIERARCHY)
    if estimator.no_beta:
        return
    terms = seeded(1, SGVB_A(6).terms, pair, *batch)
    weights = terms.pop("x").log_p + 0.4 * sum(t.log_p - t.log_q for t in terms.values())
    weighed = _again(estimator, beta=0.4)
    torch.testing.assert_close(seeded(1, weighed.bound, pair, *batch), reduce(weights), rtol=1e-4, atol=1e-4)


def _again(estimator: Estimator, **options: Any) -> Estimator:
    """The estimator that its repr says it is, with other options; without beta where it has none."""
    arguments = eval(repr(estimator), {**globals(), type(estimator).__name__: lambda **arguments: arguments})
    return type(estimator)(**{**arguments, **options})


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_exact_at_the_exact_posterior(estimator: Estimator) -> None:
    pair, x, exact = linear_gaussian()
    for seed in range(3):
        torch.testing.assert_close(seeded(seed, estimator.bound, pair, x), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_does_not_depend_on_the_subsample_size(estimator: Estimator, size: int) -> None:
    """Pyro scales the weights of a subsampled plate by N/B before it sums them; here they stay a datum's own."""
    right, x, exact = linear_gaussian()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ right.W.T + right.b, right.s).to_event(1), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=size) as index:
            pyro.sample("z", right.posterior(x[index]))

    torch.manual_seed(0)
    bounds = torch.stack([estimator.bound(Pair(model, guide), x) for _ in range(25)])
    distances = (bounds[..., None] - exact).abs()
    assert distances.amin(-1).max() < 1e-8
    assert distances.flatten(0, 1).amin(0).max() < 1e-8  # every datum comes up
    loss = seeded(3, estimator.loss, model, guide, x)
    assert loss == pytest.approx(-5 * seeded(3, estimator.bound, Pair(model, guide), x).mean().item(), rel=1e-10)


@pytest.mark.parametrize("estimator", FAMILY, ids=repr)
def test_subsampled_gradient_has_pyros_scale(estimator: Estimator) -> None:
    """A batch of B in a plate of 3 B data: three times the gradient of the batch by itself."""
    pair = OneLatent(4)
    x = torch.tensor([0.5, -1.0, 2.0, 0.1])

    def scaled(program: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor) -> None:
            with pyro.plate("data", 12, subsample=x):
                program(x)

        return run

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(pair.w * z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pair.a * x + pair.b, pair.s.exp()))

    alone = gradients_of(estimator, pair, x)
    found = gradients(pair, lambda: estimator.loss_and_grads(scaled(model), scaled(guide), x))
    assert_same(found, {name: 3 * value for name, value in alone.items()})
    objective = gradients(pair, lambda: estimator.objective(scaled(model), scaled(guide), x).loss)
    assert_same(objective, {name: value / 4 for name, value in alone.items()})


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


def renyi(alpha: float, x: float, m: float, s: float) -> float:
    """1/(1 - alpha) log E_q w^(1 - alpha) for z ~ N(0, 1), x | z ~ N(z, 1), q = N(m, s): log w = A z^2 + B z + C."""
    t = 1 - alpha
    A, B = -1 + 1 / (2 * s**2), x - m / s**2
    C = -(x**2) / 2 - 0.5 * math.log(2 * math.pi) + math.log(s) + m**2 / (2 * s**2)
    v = 1 / (1 / s**2 - 2 * t * A)
    return (0.5 * math.log(v) - math.log(s) + (t * B + m / s**2) ** 2 * v / 2 - m**2 / (2 * s**2) + t * C) / t


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
    guide, model = parted(gradients_of(PIWAE(groups, samples, beta=beta), pair, x), GUIDE)
    assert_same(model, parted(gradients_of(IWAE(groups * samples, beta=beta), pair, x), GUIDE)[1], 1e-12, 1e-12)
    assert_same(guide, parted(gradients_of(MIWAE(groups, samples, beta=beta), pair, x), GUIDE)[0], 1e-12, 1e-12)


@pytest.mark.filterwarnings("ignore:. was not registered in the param store")
def test_piwae_of_a_guide_that_is_not_trained() -> None:
    pair, x = OneLatent(5), torch.linspace(-1, 2, 5)
    model = parted(gradients_of(IWAE(4), pair, x), GUIDE)[1]
    for name in GUIDE & dict(pair.named_parameters()).keys():
        getattr(pair, name).requires_grad_(False).grad = None
    assert_same(gradients_of(PIWAE(2, 2), pair, x), model)
    with torch.no_grad():
        assert PIWAE(2, 2).objective(*programs(pair), x).loss.isfinite()


def in_groups(log_weights: Tensor, num_groups: int) -> Tensor:
    return log_weights.unflatten(0, (num_groups, -1)).softmax(1).flatten(0, 1)


def renyi_factor(alpha: float) -> Callable[[Tensor], Tensor]:
    def factor(log_weights: Tensor) -> Tensor:
        w = ((1 - alpha) * log_weights).softmax(0)
        return w * (1 - (1 - alpha) * (1 - w))

    return factor


# Of each bound L the pathwise estimator, and dL / dlog w - d^2 L / d(log w)^2 by hand.
DOUBLED: list[Any] = [
    pytest.param(IWAE(1), lambda w: w.softmax(0) ** 2, id="IWAE 1"),
    pytest.param(IWAE(4), lambda w: w.softmax(0) ** 2, id="IWAE 4"),
    pytest.param(MIWAE(2, 3), lambda w: in_groups(w, 2) ** 2 / 2, id="MIWAE"),
    pytest.param(CIWAE(0.3, 4), lambda w: 0.3 / 4 + 0.7 * w.softmax(0) ** 2, id="CIWAE"),
    pytest.param(Renyi(0.5, 4), renyi_factor(0.5), id="Renyi 0.5"),
    pytest.param(Renyi(-1.0, 4), renyi_factor(-1.0), id="Renyi -1"),
    pytest.param(Renyi(3.0, 4), renyi_factor(3.0), id="Renyi 3"),
    pytest.param(Estimator(CUBO(-2.0), None, 4), lambda w: -(2 * (w + 2)).exp() / 4, id="CUBO"),
]


def doubled(estimator: Estimator, **options: Any) -> Estimator:
    return _again(estimator, gradient=DOUBLE, **options)


def by_hand(pair: OneLatent | Chain, x: Tensor, K: int, bound: Bound, factor: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the estimator of Tucker et al. (2019), eq. 8, of any bound: distributions of detached parameters."""
    fixed = {name: parameter.detach() for name, parameter in pair.named_parameters()}
    shape = (K, len(x))
    if isinstance(pair, OneLatent):
        z = dist.Normal(pair.a * x + pair.b, pair.s.exp()).expand(shape).rsample()
        draws = {"z": z}
        log_q = dist.Normal(fixed["a"] * x + fixed["b"], fixed["s"].exp()).log_prob(z)
    else:
        z2 = dist.Normal(pair.a * x, pair.s.exp()).expand(shape).rsample()
        z1 = dist.Normal(pair.b * x + pair.c * z2, pair.t.exp()).rsample()
        draws = {"z2": z2, "z1": z1}
        log_q = dist.Normal(fixed["a"] * x, fixed["s"].exp()).log_prob(z2)
        log_q = log_q + dist.Normal(fixed["b"] * x + fixed["c"] * z2, fixed["t"].exp()).log_prob(z1)

    def log_p(w: Tensor, z: Tensor | None = None, z2: Tensor | None = None, z1: Tensor | None = None) -> Tensor:
        if z is not None:
            return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(w * z, 1.0).log_prob(x)
        top = dist.Normal(0.0, 1.0).log_prob(z2) + dist.Normal(w * z2, 1.0).log_prob(z1)
        return top + dist.Normal(z1, 1.0).log_prob(x)

    log_weights = log_p(fixed["w"], **draws) - log_q
    guide = (factor(log_weights.detach()) * log_weights).sum()
    model = bound.reduce(log_p(pair.w, **{name: value.detach() for name, value in draws.items()}) - log_q.detach())
    return -(guide + model.sum()) * (-1 if bound.side == "above" else 1)


@pytest.mark.parametrize("kind", [OneLatent, Chain])
@pytest.mark.parametrize(("estimator", "factor"), DOUBLED)
def test_doubly_reparameterized_is_the_formula(estimator: Estimator, factor: Any, kind: Any) -> None:
    pair, x = kind(5, torch.float64), torch.linspace(-1, 2, 5, dtype=torch.float64)
    ours = gradients_of(doubled(estimator), pair, x)
    K, bound = estimator.num_particles, estimator._bound
    assert_same(ours, gradients(pair, lambda: by_hand(pair, x, K, bound, factor)), 1e-12, 1e-12)
    pathwise = gradients_of(estimator, pair, x)
    assert_same(parted(ours, GUIDE)[1], parted(pathwise, GUIDE)[1], 1e-12, 1e-12)
    assert (ours["a"] - pathwise["a"]).abs().min() > 1e-3  # and the guide's is another estimator


@pytest.mark.parametrize(("estimator", "factor"), DOUBLED[2:])
def test_doubly_reparameterized_by_quadrature(estimator: Estimator, factor: Any) -> None:
    """The gradient of the bound of two samples, by 60^2 nodes; and of the mean of many draws of the estimator."""
    bound = estimator._bound if not isinstance(estimator, MIWAE) else ImportanceWeighted(1)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    noise = torch.cartesian_prod(nodes, nodes).T
    weight = torch.outer(weights, weights).flatten() / weights.sum() ** 2
    one, x = OneLatent(1, torch.float64, a=0.3, b=0.1, s=-0.1), 1.5
    z = one.a * x + one.b + one.s.exp() * noise
    log_q = dist.Normal(one.a * x + one.b, one.s.exp()).log_prob(z)
    log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(one.w * z, 1.0).log_prob(torch.tensor(x)) - log_q
    (weight * bound.reduce(log_w)).sum().backward()
    found = OneLatent(60_000, a=0.3, b=0.1, s=-0.1).draws(Estimator(bound, DOUBLE, 2), x)
    for name, parameter in one.named_parameters():
        draws = found[name] * (-1 if bound.side == "above" else 1)
        difference, error = draws.mean() - parameter.grad.item(), draws.std() / 60_000**0.5
        assert difference.abs() < 4.5 * error, name
    assert abs(one.w.grad.item()) > 0.02


@pytest.mark.parametrize("factory", LOCAL)
def test_dreg_has_iwaes_gradient_of_the_model(factory: Factory) -> None:
    pair, batch = made(factory)
    guides = ("encoder", "posterior", "q_", "announced.encoder", "networks.encoder")
    ours, theirs = gradients_of(DReG(3), pair, *batch), gradients_of(IWAE(3), pair, *batch)
    assert ours.keys() == theirs.keys()
    model = {name for name in ours if not name.startswith(guides)}
    assert 0 < len(model) < len(ours)
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model}, 1e-4, 1e-5)


@pytest.mark.parametrize("kind", [OneLatent, Chain])
@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize(("estimator", "factor"), DOUBLED[:-1])
def test_doubly_reparameterized_has_the_pathwise_expectation(
    estimator: Any, factor: Any, beta: float, kind: Any
) -> None:
    """Draw by draw at the same noise, the difference has expectation zero."""
    pair = kind(20_000)
    one, other = (pair.draws(e, 1.5) for e in (_again(estimator, beta=beta), doubled(estimator, beta=beta)))
    for name in GUIDE & one.keys():
        difference = one[name] - other[name]
        error = difference.std() / math.sqrt(len(difference))
        assert difference.mean().abs() < 4.5 * error, name
        assert other[name].mean().abs() > 8 * error, name  # a factor of two would be seen


@pytest.mark.parametrize("particles", [1, 4])
def test_dreg_in_an_inner_plate(particles: int) -> None:
    pair, x = Pixels(), torch.randn(4, 5)
    ours = gradients_of(DReG(particles, max_plate_nesting=2), pair, x)

    def by_hand() -> Tensor:
        fixed = pair.loc.detach()
        z = dist.Normal(pair.loc, 1.0).expand([particles, 1, 5]).rsample()
        w = dist.Normal(pair.loc, 0.5).expand([particles, 4, 5]).rsample()
        log_p = (dist.Normal(z, 0.5).log_prob(w) + dist.Normal(w, 1.0).log_prob(x)).sum(1, True)
        log_p = log_p + dist.Normal(0.0, 1.0).log_prob(z)
        log_q = dist.Normal(fixed, 1.0).log_prob(z) + dist.Normal(fixed, 0.5).log_prob(w).sum(1, True)
        weights = (log_p - log_q).softmax(0).detach()
        return -(weights**2 * (log_p - log_q)).sum()

    assert_same(ours, gradients(pair, by_hand))


# At the exact posterior


class Sampled(OneLatent):
    """The prior is one for which no closed-form KL is registered."""

    def prior(self, x: Tensor) -> Any:
        identity = dist.transforms.AffineTransform(0.0, 1.0)
        return dist.TransformedDistribution(dist.Normal(torch.zeros_like(x), 1.0), [identity])


STICKING = [
    DReG(1),
    DReG(4),
    SGVB_A(1, sticking_the_landing=True),
    SGVB_A(3, sticking_the_landing=True),
    SGVB_B(3, sticking_the_landing=True),
]


@pytest.mark.parametrize("estimator", STICKING, ids=repr)
@pytest.mark.filterwarnings("ignore:SGVB_B. no closed-form KL")
def test_no_variance_at_the_exact_posterior(estimator: Estimator) -> None:
    """In one latent; in two, of which the second depends on the first."""
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    pairs = [Sampled(5, torch.float64, a=0.5, b=0.0, s=0.5 * math.log(0.5))]
    if not isinstance(estimator, SGVB_B):  # whose closed-form KL of z1 given z2 keeps its variance
        pairs.append(Chain.posterior(5))
    for pair in pairs:
        for seed in range(3):
            guide, model = parted(gradients_of(estimator, pair, x, seed=seed), GUIDE)
            for name, gradient in guide.items():
                assert gradient.abs().max() < 1e-12, name
            assert model["w"].abs().min() > 1e-3
        guide, _ = parted(gradients_of(SGVB_A(3), pair, x), GUIDE)
        assert all(gradient.abs().max() > 1e-2 for gradient in guide.values())


@pytest.mark.parametrize("estimator", STICKING[:4], ids=repr)
def test_no_variance_in_a_subsampled_plate(estimator: Estimator) -> None:
    """The guide that is run once more meets the data of the first run."""
    pair, data = Chain.posterior(1), torch.linspace(-3, 5, 9, dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 9, subsample_size=3) as index:
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x[index]), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 9, subsample_size=3) as index:
            z2 = pyro.sample("z2", dist.Normal(pair.a * x[index], pair.s.exp()))
            pyro.sample("z1", dist.Normal(pair.b * x[index] + pair.c * z2, pair.t.exp()))

    for seed in range(3):
        found = gradients(pair, lambda: estimator.loss_and_grads(model, guide, data), seed)
        assert found.keys() == GUIDE
        assert all(gradient.abs().max() < 1e-10 for gradient in found.values())


# Sticking the landing


@pytest.mark.parametrize("kind", [OneLatent, Chain])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_sticking_the_landing_has_the_elbos_expectation(
    kind: type[OneLatent] | type[Chain], particles: int, beta: float
) -> None:
    pair = kind(10_000)
    plain = pair.draws(SGVB_A(particles, beta=beta), 1.5)
    other = pair.draws(SGVB_A(particles, sticking_the_landing=True, beta=beta), 1.5)
    torch.testing.assert_close(other["w"], plain["w"])
    for name in GUIDE & plain.keys():
        difference = plain[name] - other[name]
        error = difference.std() / 100
        assert difference.mean().abs() < 4.5 * error, name
        assert plain[name].mean().abs() > 10 * error, name
    assert seeded(1, SGVB_A(particles).bound, pair, torch.ones(10_000)).equal(
        seeded(1, SGVB_A(particles, sticking_the_landing=True).bound, pair, torch.ones(10_000))
    )


def test_sticking_the_landing_where_b_samples() -> None:
    """One site with a closed-form KL, whose gradient stays as it is; and one that is sampled."""
    closed, sampled = OneLatent(5, torch.float64), Sampled(5, torch.float64)
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    stuck = SGVB_B(3, sticking_the_landing=True)
    assert_same(gradients_of(stuck, closed, x), gradients_of(SGVB_B(3), closed, x), 1e-12, 1e-12)
    with pytest.warns(UserWarning, match="sampled"):
        ours = gradients_of(stuck, sampled, x)
    theirs = gradients_of(SGVB_A(3, sticking_the_landing=True), sampled, x)
    assert_same(ours, theirs, 1e-12, 1e-12)
    assert (ours["a"] - gradients_of(SGVB_A(3), sampled, x)["a"]).abs().min() > 1e-3


@pytest.mark.parametrize(
    "estimator",
    [
        DReG(2),
        SGVB_A(sticking_the_landing=True),
        SGVB_B(sticking_the_landing=True),
        ScoreFunction(pathwise=False),
        WakeSleep(),
        ReweightedWakeSleep(2),
        MonteCarloEM(),
    ],
    ids=repr,
)
def test_a_planar_flow_cannot_score_anew(estimator: Estimator) -> None:
    flow = dist.transforms.Planar(2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.5 * x, 1.0), [flow]))

    pair, x = Pair(model, guide), torch.randn(3, 2)
    message = rf"{type(estimator).__name__}.* scores draws anew, which q\(z\).*Use SGVB_A or IWAE"
    with pytest.raises(ValueError, match=message):
        estimator.bound(pair, x)
    with pytest.raises(ValueError, match=message):
        gradients_of(estimator, pair, x)
    with pytest.raises(ValueError, match=f"^{message}[^\\n]*$"):  # by itself
        check(pair, x, estimator=estimator)
    for other in (SGVB_A(2), IWAE(2), PIWAE(2, 2)):
        assert other.bound(pair, x).isfinite().all()
        assert gradients_of(other, pair, x)


def test_draws_of_bfloat16() -> None:
    """Under autocast a guide of plain layers draws in bfloat16."""
    decoder, encoder = nn.Linear(2, 3), nn.Linear(3, 2)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z).float(), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    pair, x = Pair(model, guide), torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        one, several = gradients_of(DReG(1), pair, x), gradients_of(DReG(4), pair, x)
        landing = gradients_of(SGVB_A(sticking_the_landing=True), pair, x)
        bound = gradients_of(IWAE(4), pair, x)
    assert_same(one, landing, rtol=0.05, atol=0.05)
    model = [name for name in several if "decoder" in name]
    assert_same({name: several[name] for name in model}, {name: bound[name] for name in model}, rtol=0.05, atol=0.05)


# The axes


@pytest.mark.parametrize(
    "bound",
    [Mean(), ImportanceWeighted(), ImportanceWeighted(2), RenyiBound(0.5), RenyiBound(-1.0), Mixture(0.3), CUBO(0.0)],
    ids=repr,
)
def test_weights_of_a_bound(bound: Bound) -> None:
    """Closed forms are what automatic differentiation gives; any shape may follow the samples."""
    log_weights = torch.randn(6, 4, 3, dtype=torch.float64)
    assert bound.reduce(log_weights).shape == (4, 3)
    leaf = log_weights.clone().requires_grad_()
    (weights,) = torch.autograd.grad(bound.reduce(leaf).sum(), leaf)
    torch.testing.assert_close(bound.weights(log_weights), weights)
    torch.testing.assert_close(bound.curvature(log_weights), Bound.curvature(bound, log_weights))
    step = 1e-5 * torch.eye(6, dtype=torch.float64)[:, :, None, None]
    rise = [(bound.weights(log_weights + e) / bound.weights(log_weights - e)).log()[k] for k, e in enumerate(step)]
    torch.testing.assert_close(torch.stack(rise) / 2e-5, bound.curvature(log_weights), rtol=1e-4, atol=1e-6)


def test_an_upper_bound() -> None:
    """CUBO above log p(x), for any guess and number of samples; its loss is minimized, and says so."""
    x, size = 1.0, 40_000
    pair = OneLatent(size, torch.float64, a=0.0, b=0.8, s=0.5 * math.log(0.6))
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(x)).item()
    limit = renyi(-1.0, x, 0.8, math.sqrt(0.6))
    for guess, K in ((limit, 1), (limit, 8), (limit + 0.5, 4)):
        estimator = Estimator(CUBO(guess), DOUBLE, K)
        bound = seeded(0, estimator.bound, pair, pair.data(x))
        expected = guess + (math.exp(2 * (limit - guess)) - 1) / 2
        assert_mean(bound, expected)
        assert expected > exact + 0.01
        assert seeded(0, estimator.loss, *programs(pair), pair.data(x)) == pytest.approx(bound.sum().item())
    assert estimator.side == "above"
    assert estimator.facts.bounds == "log p(x), from above: an upper bound"
    named = f"bound=CUBO(guess={limit + 0.5!r}), gradient=DoublyReparameterized(), num_particles=4"
    assert repr(estimator) == f"Estimator({named}, max_plate_nesting=1)"


@pytest.mark.parametrize("gradient", [None, DOUBLE], ids=repr)
def test_an_upper_bound_fits_the_guide(gradient: Any) -> None:
    """To the posterior N(x / 2, 1 / 2), of a model that is not trained."""
    pair, x = OneLatent(1, a=0.2, b=0.1, s=0.0), 2**0.5 * seeded(0, torch.randn, 256)
    pair.w.requires_grad_(False)
    estimator, options = Estimator(CUBO(-1.5), gradient, 20), {"epochs": 80, "batch_size": 256, "progress": False}
    optimizer = functools.partial(torch.optim.Adam, lr=0.03)
    run = fit(pair, TensorDataset(x), estimator=estimator, optimizer=optimizer, compile="traced", **options)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert [pair.a.item(), pair.b.item(), pair.s.exp().item()] == pytest.approx([0.5, 0.0, 0.5**0.5], abs=0.1)


def test_model_and_guide_by_opposite_bounds() -> None:
    """The guide's gradient under Split is minus the upper bound's, the model's that of IWAE."""
    pair, x = OneLatent(5, torch.float64), torch.linspace(-1, 2, 5, dtype=torch.float64)
    guide, model = parted(gradients_of(Estimator(ImportanceWeighted(), Split(CUBO(-2.0)), 4), pair, x), GUIDE)
    assert_same(model, parted(gradients_of(IWAE(4), pair, x), GUIDE)[1], 1e-12, 1e-12)
    assert_same(guide, parted(gradients_of(Estimator(CUBO(-2.0), None, 4), pair, x), GUIDE)[0], 1e-12, 1e-12)


# What they refuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IWAE(0), "num_particles has to be a whole number of at least 1; got 0"),
        (lambda: DReG(True), "num_particles has to be .* got True"),
        (lambda: IWAE(2.5), r"num_particles has to be .* got 2\.5"),
        (lambda: IWAE(2, num_data=0), "num_data has to be .* got 0"),
        (lambda: Renyi(0.5, 0), "num_particles has to be"),
        (lambda: Renyi(1, 5), r"at alpha = 1 .* the ELBO.*SGVB_A of as many particles"),
        (lambda: Renyi(math.nan, 5), "alpha has to be a finite number; got nan"),
        (lambda: Renyi(-math.inf, 5), "alpha has to be a finite number; got -inf"),
        (lambda: MIWAE(0, 3), "num_groups has to be .* got 0"),
        (lambda: MIWAE(3, 0), "samples_per_group has to be .* got 0"),
        (lambda: PIWAE(2.0, 3), r"num_groups has to be .* got 2\.0"),
        (lambda: CIWAE(1.1, 3), r"elbo_weight has to be .* at least 0 and at most 1; got 1\.1"),
        (lambda: CIWAE(math.nan, 3), "elbo_weight .* got nan"),
        (lambda: CIWAE(0.5, 0), "num_particles has to be"),
        (lambda: IWAE(3, beta=-1.0), "beta has to be a finite number at least 0"),
        # bounds and gradients that do not go together
        (
            lambda: Estimator(ImportanceWeighted(2), None, 3),
            r"multiple of the groups of .*\(num_groups=2\); got 3",
        ),
        (
            lambda: IWAE(3, gradient=StickingTheLanding()),
            r"IWAE: StickingTheL.* be biased.*DoublyReparameterized",
        ),
        (
            lambda: Renyi(0.5, 3, gradient=Score("batch")),
            r"of an ELBO.* RenyiBound\(alpha=0.5\) .* be biased",
        ),
        (lambda: MIWAE(3, 1, gradient=LeaveOneOut()), r"at least 2 samples in each group; got 3 in 3 groups"),
        (lambda: Estimator(Mean(), Phases(), 3), r"under Mean\(\) with 3 particles all draws weigh the same.*'sleep'"),
        (lambda: Estimator(CUBO(0.0), Phases("sleep"), 3), r"CUBO\(guess=0.0\) is an upper bound. Use one from below"),
    ],
)
def test_refuses(make: Callable[[], Estimator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
