"""Gradients without the guide's score: of any bound by hand, by quadrature, and at the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import (
    CUBO,
    DOUBLE,
    GUIDE,
    Chain,
    OneLatent,
    Pixels,
    again,
    assert_same,
    gradients,
    gradients_of,
    of_guide,
    of_model,
)
from pairs import PAIRS, made
from torch import Tensor, nn

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    DReG,
    MonteCarloEM,
    Pair,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    check,
)
from pyro_vae.estimators import Bound, Estimator, ImportanceWeighted, Mean


def in_groups(log_weights: Tensor, num_groups: int) -> Tensor:
    return log_weights.unflatten(0, (num_groups, -1)).softmax(1).flatten(0, 1)


def renyi_factor(alpha: float) -> Callable[[Tensor], Tensor]:
    def factor(log_weights: Tensor) -> Tensor:
        w = ((1 - alpha) * log_weights).softmax(0)
        return w * (1 - (1 - alpha) * (1 - w))

    return factor


# Of each bound L the pathwise estimator, and dL / dlog w - d^2 L / d(log w)^2 by hand.
DOUBLED: list[Any] = [
    pytest.param(Estimator(Mean(), None, 3), lambda w: torch.full_like(w, 1 / 3), id="Mean"),  # sticking the landing
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
    return again(estimator, gradient=DOUBLE, **options)


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
    assert_same(of_model(ours), of_model(pathwise), 1e-12, 1e-12)
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


@pytest.mark.parametrize("factory", [p for p in PAIRS if p.id != "plain_object"])
def test_dreg_has_iwaes_gradient_of_the_model(factory: Any) -> None:
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
    one, other = (pair.draws(e, 1.5) for e in (again(estimator, beta=beta), doubled(estimator, beta=beta)))
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
            found = gradients_of(estimator, pair, x, seed=seed)
            for name, gradient in of_guide(found).items():
                assert gradient.abs().max() < 1e-12, name
            assert found["w"].abs().min() > 1e-3
        assert all(gradient.abs().max() > 1e-2 for gradient in of_guide(gradients_of(SGVB_A(3), pair, x)).values())


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
        assert found.keys() == GUIDE - {"l"}
        assert all(gradient.abs().max() < 1e-10 for gradient in found.values())


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
