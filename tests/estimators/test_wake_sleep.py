"""Wake-sleep and reweighted wake-sleep: which phase moves which parameters, by how much, and with whose data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import Chain, Coin, OneLatent, Own, assert_mean, assert_same, gradients, gradients_of, of_guide, of_model
from pairs import PAIRS, made
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, VIMCO, Pair, ReweightedWakeSleep, ScoreFunction, WakeSleep, check, fit
from pyro_vae.estimators import Estimator
from pyro_vae.pair import programs

Factory = Callable[[], tuple[Any, tuple[Any, ...]]]
X = torch.tensor([0.5, -1.0, 2.0, 0.1, 1.0])


# The wake phase of the model


@pytest.mark.parametrize("kind", [OneLatent, Chain, Coin])
@pytest.mark.parametrize("particles", [2, 4])
def test_model_learns_as_from_the_bound(kind: type[Own], particles: int) -> None:
    """At an equal seed, to the last digit; so the sleep phase gives the model no gradient."""
    pair = kind(5)
    elbo = of_model(gradients_of(ScoreFunction(particles, baseline="none"), pair, X))
    assert_same(of_model(gradients_of(WakeSleep(particles), pair, X)), elbo)
    bound = of_model(gradients_of(VIMCO(particles), pair, X))
    for phase in ("wake", "sleep", "both"):
        assert_same(of_model(gradients_of(ReweightedWakeSleep(particles, guide=phase), pair, X)), bound)
    if kind is not Coin:
        assert_same(bound, of_model(gradients_of(IWAE(particles), pair, X)))
        assert_same(elbo, of_model(gradients_of(SGVB_A(particles), pair, X)))
    assert (elbo["w"] - bound["w"]).abs().max() > 1e-3


# The sleep phase


SLEEPING = [WakeSleep(1), WakeSleep(3), ReweightedWakeSleep(2, guide="sleep")]


@pytest.mark.parametrize("estimator", SLEEPING, ids=repr)
def test_asleep_the_guide_sees_no_data(estimator: Estimator) -> None:
    """Of the data their shape alone: no gradient of the guide comes from the wake phase."""
    for pair in (OneLatent(5), Chain(5), Coin(5)):
        one, other = (of_guide(gradients_of(estimator, pair, x)) for x in (X, X + 3))
        assert_same(one, other, 0, 0)
        assert all(g.abs().min() > 0 for g in one.values())


@pytest.mark.parametrize("estimator", SLEEPING, ids=repr)
def test_guide_learns_from_dreams(estimator: Estimator) -> None:
    """E_p log q in closed form: z ~ N(0, 1), x | z ~ N(w z, 1), so that E z^2 = 1, E z x = w, E x^2 = w^2 + 1."""
    w, a, b, s = (torch.tensor(v, requires_grad=n != "w") for n, v in (("w", 1.3), ("a", 0.2), ("b", 0.6), ("s", -0.8)))
    square = 1 - 2 * a * w + a**2 * (w**2 + 1) + b**2  # E (z - a x - b)^2
    exact = torch.autograd.grad(-s - square / (2 * (2 * s).exp()), [a, b, s])
    found = OneLatent(20_000, w=1.3, a=0.2, b=0.6, s=-0.8).draws(estimator, 2.5)
    for name, expected in zip(("a", "b", "s"), exact, strict=True):
        assert_mean(found[name], expected)


def test_guide_learns_a_coin_from_dreams() -> None:
    """q(y) = Bernoulli(sigmoid l) of y ~ Bernoulli(0.3): the gradient is 0.3 - sigmoid l."""
    found = Coin(20_000, l=0.9).draws(WakeSleep(), 2.5)
    assert_mean(found["l"], 0.3 - 1 / (1 + math.exp(-0.9)))


def test_no_gradient_where_the_guide_is_exact_in_expectation() -> None:
    """At the exact posterior the guide has nothing to learn from dreams; and the terms of a chain are all there."""
    for pair in (Chain.posterior(20_000), Chain(20_000)):
        guide = of_guide(pair.draws(WakeSleep(), 1.0))
        scores = [guide[name].mean() / (guide[name].std() / math.sqrt(20_000)) for name in ("a", "s", "b", "c", "t")]
        exact = pair.a[0].item() == pytest.approx(1 / 3)
        assert all((abs(score) < 4.5) == exact for score in scores), scores


def test_both_phases_of_the_guide_are_their_mean() -> None:
    """Awake and asleep at once, of the same draws."""
    for pair in (OneLatent(5), Coin(5)):
        wake, sleep, both = (gradients_of(ReweightedWakeSleep(3, guide=g), pair, X) for g in ("wake", "sleep", "both"))
        assert_same(both, {name: (wake[name] + sleep[name]) / 2 for name in both})


# The wake phase of the guide


def test_each_datum_has_weights_of_its_own() -> None:
    """The gradient of a batch is the sum over its data, each with its own weights, at the draws of the batch."""
    pair, K = Chain(5), 4
    shared = {name: value.detach()[0].requires_grad_() for name, value in pair.named_parameters()}
    for name, value in shared.items():
        delattr(pair, name)
        setattr(pair, name, nn.Parameter(value.detach()))
    found = gradients_of(ReweightedWakeSleep(K), pair, X)
    torch.manual_seed(1)
    z2 = dist.Normal(shared["a"] * X, shared["s"].exp()).expand((K, 5)).sample()
    z1 = dist.Normal(shared["b"] * X + shared["c"] * z2, shared["t"].exp()).sample()
    loss = torch.zeros(())
    for i in range(5):
        log_p = dist.Normal(0.0, 1.0).log_prob(z2[:, i]) + dist.Normal(shared["w"] * z2[:, i], 1.0).log_prob(z1[:, i])
        log_p = log_p + dist.Normal(z1[:, i], 1.0).log_prob(X[i])
        log_q = dist.Normal(shared["a"] * X[i], shared["s"].exp()).log_prob(z2[:, i])
        loc = shared["b"] * X[i] + shared["c"] * z2[:, i]
        log_q = log_q + dist.Normal(loc, shared["t"].exp()).log_prob(z1[:, i])
        weights = (log_p - log_q).softmax(0).detach()
        loss = loss - (weights * (log_p + log_q)).sum()
    loss.backward()
    assert_same(found, {name: value.grad for name, value in shared.items()})


def test_one_datum_is_pyros() -> None:
    """Pyro weighs a mini-batch jointly, which for a single datum, and a single latent, is the same."""
    theirs = pyro.infer.ReweightedWakeSleep(
        num_particles=3, insomnia=1.0, model_has_params=True, vectorize_particles=True, max_plate_nesting=1
    )
    x = torch.tensor([1.5])
    for pair in (OneLatent(1), Coin(1)):
        ours = gradients_of(ReweightedWakeSleep(3), pair, x)
        assert_same(ours, gradients(pair, lambda p=pair: theirs.loss_and_grads(*programs(p), x)))


# Dreams of pairs of other shapes


def test_labels_stay_awake() -> None:
    """What the model does not observe is not dreamt: a conditional pair keeps its labels."""
    pair, (x, y) = made(next(p.values[0] for p in PAIRS if p.id == "two_arguments"))
    seen: list[tuple[Tensor, Tensor]] = []

    def guide(x: Tensor, y: Tensor) -> None:
        seen.append((x, y))
        pair.guide(x, y)

    for estimator in (WakeSleep(3), ReweightedWakeSleep(3, guide="both")):
        seen.clear()
        torch.manual_seed(0)
        estimator.differentiable_loss(pair.model, guide, x, y)
        (awake, label), (dreamt, same) = seen[-2:]  # before them it was seen how particles are run
        assert awake is x
        assert label.equal(y)
        assert same.equal(y)
        assert dreamt.shape == x.shape
        assert set(dreamt.unique().tolist()) == {0.0, 1.0}
        assert not dreamt.equal(x)


def flattening(transform: Callable[[Tensor], Tensor]) -> Pair:
    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(100 + scale * z.expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=transform(x))

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.01))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.flatten(1).mean(1, keepdim=True), 1.0).to_event(1))

    return Pair(model, guide)


def test_a_view_of_the_data_is_dreamt_in_its_place() -> None:
    pair, x = flattening(lambda x: x.flatten(1)), torch.zeros(3, 2, 2)
    WakeSleep().bound(pair, x)
    found = gradients_of(WakeSleep(), pair, x)
    (slope,) = (value for name, value in found.items() if name.endswith("slope"))
    assert slope.item() > 100  # E x (slope x - z), of dreams near 100; of the data, which are 0, it is 0
    assert x.equal(torch.zeros(3, 2, 2))


@pytest.mark.parametrize(
    "transform", [lambda x: (x > 0.5).to(x.dtype).flatten(1), lambda x: x.flatten(1) + 0.5], ids=["binary", "noise"]
)
def test_data_that_the_model_converts_are_refused(transform: Callable[[Tensor], Tensor]) -> None:
    pair, x = flattening(transform), torch.zeros(3, 2, 2)
    for estimator in (WakeSleep(), ReweightedWakeSleep(2, guide="sleep")):
        assert estimator.bound(pair, x).isfinite().all()  # the value needs no dream
        with pytest.raises(ValueError, match=r"'x' observes a tensor that is no argument.*Convert the data"):
            estimator.loss_and_grads(pair.model, pair.guide, x)
    ReweightedWakeSleep(2).loss_and_grads(pair.model, pair.guide, x)


def test_keyword_arguments_are_dreamt_with() -> None:
    def model(x: Tensor, shift: float = 0.0) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 0.1))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x: Tensor, shift: float = 0.0) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    pair, x = Pair(model, guide), torch.zeros(4)
    WakeSleep().bound(pair, x)
    (found,) = gradients(pair, lambda: WakeSleep().loss_and_grads(pair.model, pair.guide, x, shift=50.0)).values()
    assert -found.item() == pytest.approx(4 * 50, rel=0.05)


# What they refuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WakeSleep(0), "num_particles has to be a whole number of at least 1; got 0"),
        (lambda: ReweightedWakeSleep(1), "num_particles has to be a whole number of at least 2; got 1"),
        (lambda: ReweightedWakeSleep(2.5), r"num_particles has to be .* got 2\.5"),
        (lambda: ReweightedWakeSleep(2, guide="dream"), "guide is one of 'wake', 'sleep', 'both'; got 'dream'"),
        (lambda: WakeSleep(beta=0.5), "WakeSleep has one objective for the model.*no beta weighs.*SGVB_A"),
        (lambda: ReweightedWakeSleep(2, beta=0.9), "ReweightedWakeSleep has one objective .* no beta"),
    ],
)
def test_refuses(make: Callable[[], Estimator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def forced(x: Tensor) -> None:
    """x2 ~ N(z + x1, 1), with x1 of the argument, or of what is drawn in its place."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x1", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("x2", dist.Normal(z + x[:, 0], 1.0), obs=x[:, 1])


def free(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        first = pyro.sample("x1", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("x2", dist.Normal(z + first, 1.0), obs=x[:, 1])


def of_both(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x.mean(-1), 0.7))


@pytest.mark.parametrize("estimator", [WakeSleep(), ReweightedWakeSleep(2, guide="both")], ids=["WS", "RWS"])
def test_dreams_that_follow_given_data_are_refused(estimator: Any) -> None:
    """A second pixel that is drawn from the first one of the data is no draw of p(x)."""
    x = torch.randn(6, 2)
    words = r"takes p\(x2\) from data that it observes"
    for ask in (lambda: check(Pair(forced, of_both), x, estimator=estimator), lambda: fit_one(forced, x, estimator)):
        with pytest.raises(ValueError, match=words):
            ask()
    check(Pair(free, of_both), x, estimator=estimator)
    fit_one(free, x, estimator)
    fit_one(forced, x, ReweightedWakeSleep(2))  # which dreams of nothing


def fit_one(model: Any, x: Tensor, estimator: Any) -> None:
    fit(Pair(model, of_both), x, estimator=estimator, epochs=1, batch_size=6, compile="eager", progress=False)
