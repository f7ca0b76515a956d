"""Discrete latents: score functions against gradients by enumeration, and Enumeration against Pyro's."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import (
    Coin,
    OneLatent,
    Own,
    again,
    assert_mean,
    assert_means_equal,
    assert_same,
    gradients,
    gradients_of,
    seeded,
)
from pairs import PAIRS, made
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from pyro_vae import CIWAE, IWAE, MIWAE, SGVB_A, SGVB_B, VIMCO, DReG, Enumeration, Pair, Renyi, ScoreFunction
from pyro_vae.estimators import Bound, Estimator, ImportanceWeighted, LeaveOneOut
from pyro_vae.pair import programs

X = torch.tensor([0.5, -1.0, 2.0])


def exact_gradient(coin: Coin, x: float, K: int, beta: float = 1.0, of: Bound | None = None) -> dict[str, Tensor]:
    """The gradient of E L(log w), by default log mean_k w_k, over all 2^K draws of the first datum."""
    coin.zero_grad()
    draws = torch.tensor(list(itertools.product([0.0, 1.0], repeat=K)), dtype=coin.w.dtype)
    log_q = dist.Bernoulli(logits=coin.l[0]).log_prob(draws)
    log_x = dist.Normal(coin.w[0] * draws, 1.0).log_prob(torch.tensor(x))
    log_weights = log_x + beta * (coin.log_weight(draws, torch.tensor(x)) - log_x)
    (log_q.sum(1).exp() * (of or ImportanceWeighted()).reduce(log_weights.T)).sum().backward()
    return {name: p.grad[0].clone() for name, p in coin.named_parameters()}


# The score function


@pytest.mark.parametrize(
    ("particles", "baseline"),
    [(1, "none"), (1, "batch"), (1, "auto"), (4, "none"), (4, "batch"), (4, "leave_one_out"), (4, "auto")],
)
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_score_function_is_unbiased(particles: int, baseline: Any, beta: float) -> None:
    coin = Coin(20_000)
    exact = exact_gradient(Coin(1), 2.5, 1, beta)
    found = coin.draws(ScoreFunction(particles, baseline=baseline, beta=beta), 2.5)
    for name in found:
        assert_mean(found[name], exact[name])


def test_baselines_lower_the_variance() -> None:
    coin = Coin(10_000)
    for particles, baselines in ((1, ["batch", "auto"]), (4, ["batch", "leave_one_out", "auto"])):
        plain = coin.draws(ScoreFunction(particles, baseline="none"), 2.5)["l"].var()
        for baseline in baselines:
            assert coin.draws(ScoreFunction(particles, baseline=baseline), 2.5)["l"].var() < 0.6 * plain


@pytest.mark.parametrize("particles", [1, 4])
def test_score_function_without_baseline_is_pyros(particles: int) -> None:
    coin = Coin(3)
    ours = gradients_of(ScoreFunction(particles, baseline="none"), coin, X)
    assert_same(ours, gradients_of(SGVB_A(particles), coin, X))
    theirs = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    assert_same(ours, gradients(coin, lambda: theirs.loss_and_grads(*programs(coin), X)))
    other = gradients_of(ScoreFunction(particles), coin, X)
    assert (ours["l"] - other["l"]).abs().min() > 1e-4


@pytest.mark.parametrize("particles", [1, 4])
def test_score_function_in_place_of_the_path(particles: int) -> None:
    pair = OneLatent(40_000)
    path = pair.draws(SGVB_A(particles), 1.5, seed=0)
    score = pair.draws(ScoreFunction(particles, pathwise=False), 1.5, seed=1)
    for name in ("a", "b", "s"):
        assert_means_equal(score[name], path[name])
        assert score[name].var() > 2 * path[name].var(), name
    assert_means_equal(score["w"], path["w"])
    with_path = pair.draws(ScoreFunction(particles), 1.5)
    torch.testing.assert_close(with_path, path)


class Masked(Own):
    """z ~ N(0, 1) and q(z) = N(b, 1), both masked, though x | z ~ N(z, 1) depends on z all the same."""

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=torch.tensor(False)):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.tensor(False)):
            pyro.sample("z", dist.Normal(self.b, 1.0))


def test_a_score_is_not_masked() -> None:
    """The mask takes terms out of the objective; what is left still depends on the draw."""
    pair = Masked(20_000, b=0.5)
    exact = 1.5 - 0.5  # of E log N(x; z, 1)
    assert_mean(pair.draws(SGVB_A(), 1.5)["b"], exact)
    assert_mean(pair.draws(ScoreFunction(pathwise=False), 1.5)["b"], exact)


class Auxiliary(Own):
    """Of the guide a ~ Bernoulli(logits=l), z | a ~ N(b a, 1); of the model z ~ N(0, 1), a ~ r(a), x | z ~ N(z, 1)."""

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("a", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.l), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(self.b * a, 1.0))


@pytest.mark.parametrize("baseline", ["none", "auto"])
def test_an_auxiliary_discrete_latent_of_the_guide(baseline: Any) -> None:
    """Its own log q weighs its score, which Pyro forgets."""
    pair, x = Auxiliary(40_000, l=1.0, b=0.7), 1.5
    logit, b = pair.l.detach()[0].requires_grad_(), pair.b.detach()[0]
    a = torch.tensor([0.0, 1.0])
    loc = b * a
    inside = -(loc**2 + 1) / 2 - ((x - loc) ** 2 + 1) / 2  # E_q(z | a) of log p(x, z), up to what a does not change
    q = dist.Bernoulli(logits=logit).log_prob(a)
    (exact,) = torch.autograd.grad((q.exp() * (inside - q)).sum(), [logit])
    assert_mean(pair.draws(ScoreFunction(2, baseline=baseline), x)["l"], exact)


def test_score_function_of_what_stands_outside() -> None:
    """A shared discrete latent, weighed by all data of the batch; the batch's baseline does not touch it."""
    logit = nn.Parameter(torch.tensor(0.2))
    x = torch.tensor([0.3, 0.9, -0.2])

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Bernoulli(0.3))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Bernoulli(logits=logit))

    w = torch.tensor([0.0, 1.0])
    q = dist.Bernoulli(logits=logit).log_prob(w)
    inside = dist.Normal(w[:, None], 1.0).log_prob(x).sum(1) + dist.Bernoulli(0.3).log_prob(w) - q
    (exact,) = torch.autograd.grad(-(q.exp() * inside).sum(), [logit])
    torch.manual_seed(0)
    for options in ({"baseline": "batch"}, {"baseline": "leave_one_out"}):
        draws = torch.stack(
            [
                torch.autograd.grad(ScoreFunction(20, **options).differentiable_loss(model, guide, x), [logit])[0]
                for _ in range(150)
            ]
        )
        assert_mean(draws, exact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ScoreFunction(baseline="mean"),
            "one of 'auto', 'none', 'leave_one_out', 'batch'; got 'mean'",
        ),
        (lambda: ScoreFunction(baseline="leave_one_out"), "needs at least 2 particles.*baseline='batch'"),
        (lambda: ScoreFunction(0), "num_particles has to be a whole number of at least 1; got 0"),
        (lambda: ScoreFunction(2, sticking_the_landing=True), "leaves out the score.*use SGVB_A"),
        (lambda: VIMCO(1), "num_particles has to be a whole number of at least 2; got 1"),
        (lambda: VIMCO(True), "num_particles has to be .* got True"),
        (lambda: Enumeration(0), "num_particles has to be .* at least 1; got 0"),
    ],
)
def test_refuses(make: Callable[[], Estimator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# VIMCO


@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize(
    "estimator",
    [
        VIMCO(2),
        VIMCO(4),
        MIWAE(2, 2, gradient=LeaveOneOut()),
        Renyi(0.5, 3, gradient=LeaveOneOut()),
        Renyi(2.0, 3, gradient=LeaveOneOut()),
        CIWAE(0.3, 3, gradient=LeaveOneOut()),
    ],
    ids=repr,
)
def test_vimco_of_any_bound_is_unbiased(estimator: Estimator, beta: float) -> None:
    """Also of groups, each of which leaves out one of its own; against all draws, enumerated."""
    exact = exact_gradient(Coin(1), 2.5, estimator.num_particles, beta, estimator._bound)
    found = Coin(40_000).draws(again(estimator, beta=beta), 2.5)
    for name in found:
        assert_mean(found[name], exact[name])


def test_vimco_has_less_variance_than_the_score_function() -> None:
    """The same bound's gradient with its whole value as the signal: L_K sum_k score_k + sum_k w_k grad log w_k."""
    coin, x = Coin(10_000), torch.tensor(2.5)
    y = seeded(0, lambda: dist.Bernoulli(logits=coin.l.detach()).sample((3,)))
    log_q = dist.Bernoulli(logits=coin.l).log_prob(y)
    log_weights = dist.Bernoulli(0.3).log_prob(y) + dist.Normal(coin.w.detach() * y, 1.0).log_prob(x) - log_q
    bound = log_weights.logsumexp(0)
    (plain,) = torch.autograd.grad((bound + bound.detach() * log_q.sum(0)).sum(), [coin.l])
    assert coin.draws(VIMCO(3), 2.5)["l"].var() < 0.6 * plain.var()


class Three(Own):
    """y in {0, 1, 2}, x | y ~ N(w y, 1), q(y) of logits (0, l, m)."""

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            pyro.sample("x", dist.Normal(self.w * y, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=torch.stack([torch.zeros_like(self.l), self.l, self.m], -1)))


def test_vimco_of_a_categorical() -> None:
    one = Three(1, w=0.8, l=0.5, m=-0.7)
    draws = torch.tensor(list(itertools.product(range(3), repeat=2)))
    q = dist.Categorical(logits=torch.cat([torch.zeros(1), one.l, one.m])).log_prob(draws)
    log_p = dist.Categorical(torch.tensor([0.5, 0.3, 0.2])).log_prob(draws) + dist.Normal(one.w * draws, 1.0).log_prob(
        torch.tensor(2.5)
    )
    (q.sum(1).exp() * ((log_p - q).logsumexp(1) - math.log(2))).sum().backward()
    found = Three(40_000, w=0.8, l=0.5, m=-0.7).draws(VIMCO(2), 2.5)
    for name, parameter in one.named_parameters():
        assert_mean(found[name], parameter.grad[0])


class Mixed(Own):
    """y ~ Bernoulli, z | y ~ N(y, 1), x | z ~ N(w z, 1); q(z) = N(b, exp s) by path, q(y | z) = Bernoulli(l + c z)."""

    def __init__(self, size: int) -> None:
        super().__init__(size, w=1.0, b=0.2, s=-0.6, l=-0.8, c=0.9)

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.3)))
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.b, self.s.exp()))
            pyro.sample("y", dist.Bernoulli(logits=self.l + self.c * z))


def test_vimco_of_a_discrete_latent_given_a_continuous_one() -> None:
    """Against draws of z alone, y summed out of the bound of two samples."""
    x, reference, K = torch.tensor(1.5), Mixed(40_000), 2
    z = seeded(5, lambda: dist.Normal(reference.b, reference.s.exp()).expand((K, 40_000)).rsample())
    q_y = dist.Bernoulli(logits=reference.l + reference.c * z)
    bound = torch.zeros(())
    for values in itertools.product([0.0, 1.0], repeat=K):
        y = torch.tensor(values)[:, None].expand(K, 40_000)
        log_p = dist.Bernoulli(0.3).log_prob(y) + dist.Normal(y, 1.0).log_prob(z)
        log_p = log_p + dist.Normal(reference.w * z, 1.0).log_prob(x)
        log_q = dist.Normal(reference.b, reference.s.exp()).log_prob(z) + q_y.log_prob(y)
        bound = bound + (q_y.log_prob(y).sum(0).exp() * ((log_p - log_q).logsumexp(0) - math.log(K))).sum()
    bound.backward()
    found = Mixed(40_000).draws(VIMCO(K), 1.5, seed=6)
    for name, parameter in reference.named_parameters():
        assert_means_equal(found[name], parameter.grad)


# Enumeration


def theirs(particles: int, nesting: int = 1) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=nesting)


def assert_is_pyros(pair: nn.Module, *batch: Any, particles: int = 1, nesting: int = 1) -> None:
    """Value, gradient, the bound of each datum and its terms."""
    assert_trains_as_pyros(pair, *batch, particles=particles, nesting=nesting)
    ours, (model, guide) = Enumeration(particles, max_plate_nesting=nesting), programs(pair)
    objective = seeded(1, ours.objective, model, guide, *batch)
    bound = seeded(1, ours.bound, pair, *batch)
    torch.testing.assert_close(objective.bound, bound.mean())
    signs = {"log_p": 1, "log_q": -1}
    terms = seeded(1, ours.terms, pair, *batch)
    total = sum(signs[kind] * value for site in terms.values() for kind, value in site.items())
    torch.testing.assert_close(total.reshape(-1, len(bound)).mean(0), bound, rtol=1e-5, atol=1e-5)
    shape = bound.shape if particles == 1 else (particles, *bound.shape)
    assert {value.shape for site in terms.values() for _, value in site.items()} == {shape}


def assert_trains_as_pyros(pair: nn.Module, *batch: Any, particles: int = 1, nesting: int = 1) -> None:
    """The loss and its gradient."""
    ours, pyros = Enumeration(particles, max_plate_nesting=nesting), theirs(particles, nesting)
    model, guide = programs(pair)
    marked = config_enumerate(model), config_enumerate(guide)
    ours.loss(model, guide, *batch)  # makes the parameters
    assert seeded(1, ours.loss, model, guide, *batch) == pytest.approx(seeded(1, pyros.loss, *marked, *batch), rel=1e-5)
    assert_same(
        gradients(pair, lambda: ours.loss_and_grads(model, guide, *batch)),
        gradients(pair, lambda: pyros.loss_and_grads(*marked, *batch)),
    )


def discrete(guided: bool = True, **handlers: Any) -> Pair:
    """A mixture of three Gaussians, its latent in the guide or summed out by the model."""
    p, q = nn.Parameter(torch.tensor([0.1, 0.4, -0.2])), nn.Parameter(torch.tensor([[0.2, 0.5, -0.3]]).repeat(3, 1))
    loc = nn.Parameter(torch.tensor([-1.0, 0.3, 2.0]))
    nothing = contextlib.nullcontext()
    mixture = nn.Module()
    mixture.p, mixture.q, mixture.loc = p, q, loc

    def model(x: Tensor) -> None:
        pyro.module("mixture", mixture)
        with pyro.plate("data", 3), handlers.get("whole", nothing):
            with handlers.get("p", nothing):
                y = pyro.sample("y", dist.Categorical(logits=handlers.get("prior", p)))
            pyro.sample("x", dist.Normal(loc[y], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        if guided:
            with pyro.plate("data", 3), handlers.get("q", nothing):
                pyro.sample("y", dist.Categorical(logits=q + handlers.get("added", 0.0)))

    return Pair(model, guide)


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guided": False},
        {"p": poutine.scale(scale=0.5), "q": poutine.scale(scale=0.5)},
        {"whole": poutine.scale(scale=0.5), "guided": False},
        {"whole": poutine.mask(mask=MASK), "guided": False},
        {"p": poutine.mask(mask=MASK), "guided": False},
        {"added": torch.tensor([0.0, 0.0, -math.inf])},
        {"prior": torch.tensor([0.0, 0.0, -math.inf]), "guided": False},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_enumeration_is_pyros(options: dict[str, Any], particles: int) -> None:
    """A mask and a scale of the user's; values without probability."""
    assert_is_pyros(discrete(**options), X, particles=particles)


def test_a_scale_or_a_mask_weighs_what_is_trained_and_no_bound() -> None:
    half, masked = poutine.scale(scale=0.5), poutine.mask(mask=MASK)
    for handlers in ({"p": half, "q": half}, {"p": masked, "q": masked}, {"whole": half}):
        assert_trains_as_pyros(discrete(**handlers), X)
    exact = Enumeration().bound(discrete(), X)
    torch.testing.assert_close(Enumeration().bound(discrete(p=half, q=half), X), exact)
    torch.testing.assert_close(Enumeration().bound(discrete(whole=half), X), exact)
    with pytest.raises(ValueError, match="y has masked draws on which 'x' depends"):
        Enumeration().bound(discrete(p=masked, q=masked), X)


def test_a_mixture_is_exact() -> None:
    """Summed out by the model, the bound is log p(x); by the guide, it is lower by the KL from the posterior."""
    components = dist.Normal(torch.tensor([-1.0, 0.3, 2.0]), 1.0)
    log_joint = torch.tensor([0.1, 0.4, -0.2]).log_softmax(0) + components.log_prob(X[:, None])
    evidence, log_posterior = log_joint.logsumexp(1), log_joint.log_softmax(1)
    torch.testing.assert_close(Enumeration().bound(discrete(guided=False), X), evidence)
    q = torch.tensor([0.2, 0.5, -0.3]).log_softmax(0)
    torch.testing.assert_close(Enumeration().bound(discrete(), X), evidence - (q.exp() * (q - log_posterior)).sum(1))
    half = Enumeration(beta=0.5)
    torch.testing.assert_close(half.bound(discrete(guided=False), X), evidence)  # beta weighs no likelihood
    log_p, log_prior = components.log_prob(X[:, None]), torch.tensor([0.1, 0.4, -0.2]).log_softmax(0)
    torch.testing.assert_close(half.bound(discrete(), X), (q.exp() * (log_p + 0.5 * (log_prior - q))).sum(1))
    objective = half.objective(*programs(discrete()), X)
    torch.testing.assert_close(objective.bound, Enumeration().bound(discrete(), X).mean())
    assert objective.loss.item() == pytest.approx(-half.bound(discrete(), X).mean().item(), rel=1e-5)


class Labeled(nn.Module):
    """M2-like: y in the guide, z | y by path, and a component c that the model sums out; perhaps in a subsample."""

    def __init__(self, component: bool = False, size: int = 5, full_size: int | None = None) -> None:
        super().__init__()
        self.component, self.size, self.full_size = component, size, full_size or size
        self.q_y, self.q_z, self.p_x = nn.Linear(4, 3), nn.Linear(7, 4), nn.Linear(5, 4)
        self.locs = nn.Parameter(torch.tensor([[0.0], [1.5]]))

    def plate(self, x: Tensor) -> Any:
        return pyro.plate("data", self.full_size, subsample=torch.arange(self.size))

    def model(self, x: Tensor) -> None:
        pyro.module("labeled", self)
        with self.plate(x):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            shift = 0.0
            if self.component:
                shift = self.locs[pyro.sample("c", dist.Bernoulli(0.4)).long()]
            label = nn.functional.one_hot(y, 3).float().expand(*z.shape[:-1], 3)
            pyro.sample("x", dist.Normal(self.p_x(torch.cat([z, label], -1)) + shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("labeled", self)
        with self.plate(x):
            y = pyro.sample("y", dist.Categorical(logits=self.q_y(x)))
            label = nn.functional.one_hot(y, 3).float()
            label, x = label.expand(*label.shape[:-2], len(x), 3), x.expand(*label.shape[:-2], *x.shape)
            loc, log_scale = self.q_z(torch.cat([x, label], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("full_size", [5, 15])
def test_enumeration_with_continuous_latents_is_pyros(particles: int, component: bool, full_size: int) -> None:
    torch.manual_seed(0)
    pair, x = Labeled(component, full_size=full_size), torch.randn(5, 4)
    assert_is_pyros(pair, x, particles=particles)
    alone = Labeled(component)
    alone.load_state_dict(pair.state_dict())
    ours = Enumeration(particles)
    torch.testing.assert_close(seeded(1, ours.bound, pair, x), seeded(1, ours.bound, alone, x), rtol=1e-4, atol=1e-4)


def test_two_discrete_latents_and_an_inner_plate() -> None:
    logit = nn.Parameter(torch.tensor(0.3))

    def model(x: Tensor) -> None:
        with pyro.plate("data", 3, dim=-1):
            a = pyro.sample("a", dist.Bernoulli(0.3))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
            c = pyro.sample("c", dist.Bernoulli(0.6 - 0.3 * b))
            with pyro.plate("pixels", 2, dim=-2):
                pyro.sample("x", dist.Normal(a + 2 * b - c, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 3, dim=-1):
            a = pyro.sample("a", dist.Bernoulli(logits=pyro.param("l", logit.detach())))
            pyro.sample("b", dist.Bernoulli(0.4 + 0.3 * a))

    for particles in (1, 3):
        assert_is_pyros(Pair(model, guide), torch.stack([X, X + 1]), particles=particles, nesting=2)
    # By hand, over all values of a, b, c.
    x, bound = torch.stack([X, X + 1]), torch.zeros(3)
    for a, b in itertools.product([0.0, 1.0], repeat=2):
        A, B = torch.tensor(a), torch.tensor(b)
        q = dist.Bernoulli(logits=logit.detach()).log_prob(A) + dist.Bernoulli(0.4 + 0.3 * A).log_prob(B)
        summed = torch.stack(
            [
                dist.Bernoulli(0.6 - 0.3 * B).log_prob(C) + dist.Normal(A + 2 * B - C, 1.0).log_prob(x).sum(0)
                for C in (torch.tensor(0.0), torch.tensor(1.0))
            ]
        ).logsumexp(0)
        log_p = dist.Bernoulli(0.3).log_prob(A) + dist.Bernoulli(0.2 + 0.5 * A).log_prob(B) + summed
        bound = bound + q.exp() * (log_p - q)
    torch.testing.assert_close(Enumeration(max_plate_nesting=2).bound(Pair(model, guide), x), bound)


def test_pyros_marginals_of_what_the_model_sums_out() -> None:
    pair = discrete(guided=False)
    marginal = Enumeration().compute_marginals(config_enumerate(pair.model), pair.guide, X)["y"]
    components = dist.Normal(torch.tensor([-1.0, 0.3, 2.0]), 1.0)
    log_joint = torch.tensor([0.1, 0.4, -0.2]).log_softmax(0) + components.log_prob(X[:, None])
    torch.testing.assert_close(marginal.logits.log_softmax(-1), log_joint.log_softmax(1))


def simple(prior: Any, posterior: Any = None) -> Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 3, dim=-1):
            y = pyro.sample("y", prior)
            pyro.sample("x", dist.Normal(y.sum(-1) if prior.event_shape else y, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        if posterior is not None:
            with pyro.plate("data", 3, dim=-1):
                pyro.sample("y", posterior)

    return Pair(model, guide)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (simple(dist.Poisson(2.0), dist.Poisson(1.0)), r"q\(y\) is a Poisson, which can neither.*Use ScoreFunction"),
        (simple(dist.Poisson(2.0)), r"p\(y\) is a Poisson, which can neither.*Give the guide a site"),
        (
            simple(dist.Bernoulli(torch.ones(2) / 3).to_event(1), dist.Bernoulli(torch.ones(2) / 2).to_event(1)),
            r"q\(y\) is a Bernoulli with to_event, which can neither",
        ),
        (simple(dist.Bernoulli(torch.ones(2) / 3).to_event(1)), r"p\(y\) is a Bernoulli with to_event"),
    ],
    ids=["Poisson", "Poisson alone", "event", "event alone"],
)
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_enumeration_refuses(pair: Pair, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Enumeration().bound(pair, X)


def test_enumeration_refuses_scales_within_a_sum() -> None:
    pair = discrete(guided=False, p=poutine.scale(scale=0.5))
    with pytest.raises(ValueError, match=r"sums y, x over the values .* need one poutine.scale"):
        Enumeration().loss(*programs(pair), X)
    torch.testing.assert_close(Enumeration().bound(pair, X), Enumeration().bound(discrete(guided=False), X))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("way", ["sequential", None])
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_enumeration_is_parallel(guided: bool, way: str | None) -> None:
    pair = discrete(guided=guided)
    marked = Pair(*(config_enumerate(program, default=way) for program in (pair.model, pair.guide)))
    with pytest.raises(ValueError, match=rf"'y' is marked by infer={{'enumerate': {way!r}}}, but.*in parallel"):
        Enumeration().bound(marked, X)


def test_enumeration_tells_how_its_values_lie() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(torch.stack([y, x], -1).sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))

    assert SGVB_A().bound(Pair(model, guide), X).isfinite().all()
    with pytest.raises(ValueError, match=r"all of its values at once, .*\(stack expects .*broadcast_shapes"):
        Enumeration().bound(Pair(model, guide), X)


def test_enumeration_has_no_weights() -> None:
    with pytest.raises(ValueError, match="sums latents out; take importance weights from SGVB_A"):
        Enumeration().log_weights(discrete(), X)


@pytest.mark.parametrize("factory", [p for p in PAIRS if p.id in ("hierarchy", "two_arguments")])
@pytest.mark.parametrize("estimator", [VIMCO(3), Enumeration(3), ScoreFunction(3)], ids=repr)
@pytest.mark.filterwarnings("error:TraceEnum_ELBO found no sample sites")
def test_without_discrete_latents(estimator: Estimator, factory: Any) -> None:
    """Where all latents are reparameterized they are the pathwise estimators."""
    pair, batch = made(factory)
    same = IWAE(3) if isinstance(estimator, VIMCO) else SGVB_A(3)
    assert_same(gradients_of(estimator, pair, *batch), gradients_of(same, pair, *batch))


@pytest.mark.parametrize("estimator", [IWAE(2), DReG(2), SGVB_B(2)], ids=repr)
def test_pathwise_estimators_name_the_discrete_site(estimator: Estimator) -> None:
    alternatives = "Use SGVB_A or.*ScoreFunction, VIMCO or ReweightedWakeSleep; or Enumeration"
    with pytest.raises(ValueError, match=rf"q\(y\) is a Bernoulli, which has no reparameterized.*{alternatives}"):
        estimator.bound(Coin(3), X)
    event = simple(dist.Bernoulli(torch.ones(2) / 3).to_event(1), dist.Bernoulli(torch.ones(2) / 2).to_event(1))
    with pytest.raises(ValueError, match=r"q\(y\) is a Bernoulli, which"):
        estimator.loss_and_grads(event.model, event.guide, X)
