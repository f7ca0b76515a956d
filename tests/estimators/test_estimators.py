"""estimators: each is the Pyro ELBO that it says it is, gives its bound for each datum, and tells its facts."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import EVERY, EVERY_CLASS, Coin, OneLatent, Pixels, assert_mean, assert_same, gradients, gradients_of, seeded
from pairs import PAIRS, SAMPLED, flow_vae, linear_gaussian, made
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyro_vae
from pyro_vae import IWAE, SGVB_A, SGVB_B, TCVAE, VIMCO, DReG, FreeBits, Pair, ReweightedWakeSleep
from pyro_vae.estimators import ESTIMATORS, Estimator, Facts, Penalized, SiteTerms, facts_table, names
from pyro_vae.pair import programs
from pyro_vae.training import TrainingStep

Factory = Callable[[], tuple[Any, tuple[Any, ...]]]
TWINS = [pytest.param(SGVB_A, Trace_ELBO, id="A"), pytest.param(SGVB_B, TraceMeanField_ELBO, id="B")]


def pyros(elbo: type[ELBO], particles: int, nesting: int = 1) -> Any:
    return elbo(num_particles=particles, vectorize_particles=True, max_plate_nesting=nesting)


class Toy(nn.Module):
    """z ~ N(0, 1), x | z ~ N(z, 1), both scalars; q(z | x) = N(loc, scale). Evidence: x ~ N(0, sqrt 2)."""

    def __init__(self, prior: Any = None, scale: float = 1.0) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.scale, self.prior = scale, prior or dist.Normal(0.0, 1.0)

    def model(self, x: Tensor) -> None:
        pyro.module("toy", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("toy", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


class Discrete(nn.Module):
    """z1 ~ Bernoulli, z2 | z1 ~ Normal, x | z1, z2: the score function for z1, reparameterization for z2."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.weight = nn.Parameter(torch.tensor([0.3, -0.4, 0.1])), nn.Parameter(torch.tensor(0.7))

    def model(self, x: Tensor) -> None:
        pyro.module("discrete", self)
        with pyro.plate("data", 3):
            z1 = pyro.sample("z1", dist.Bernoulli(0.3))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(self.weight * z2, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("discrete", self)
        with pyro.plate("data", 3):
            z1 = pyro.sample("z1", dist.Bernoulli(logits=self.logits))
            pyro.sample("z2", dist.Normal(z1 + 0.5 * x * self.weight, 0.8))


class Shared(nn.Module):
    """w ~ N(0, 1) for all N data, x_i | w ~ N(w, 1); the guide is the exact posterior given the whole data."""

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        self.data = data
        self.factor = nn.Parameter(torch.ones((), dtype=data.dtype))

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(self.data.new_zeros(()), 1.0))
        with pyro.plate("data", len(self.data), subsample=x):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("shared", self)
        count = len(self.data) + 1
        pyro.sample("w", dist.Normal(self.factor * self.data.sum() / count, count**-0.5))

    def log_evidence(self) -> Tensor:
        size = len(self.data)
        covariance = torch.eye(size, dtype=self.data.dtype) + 1
        return dist.MultivariateNormal(self.data.new_zeros(size), covariance).log_prob(self.data)


# Pyro's own


def assert_is_pyros(ours: Estimator, theirs: Any, pair: Any, *batch: Any) -> None:
    """Value and gradient at the same seed, by all three ways."""
    model, guide = programs(pair)
    for name in ("loss", "loss_and_grads"):
        values = [seeded(1, getattr(e, name), model, guide, *batch) for e in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], rel=1e-5), name
        assert isinstance(values[0], float)
    values = [seeded(1, e.differentiable_loss, model, guide, *batch).item() for e in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for name in ("differentiable_loss", "loss_and_grads"):
        assert_same(
            *(gradients(pair, lambda e=e, name=name: getattr(e, name)(model, guide, *batch)) for e in (ours, theirs))
        )


@pytest.mark.parametrize("factory", PAIRS)
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(("estimator", "elbo"), TWINS)
def test_equals_pyros(estimator: type[Estimator], elbo: type[ELBO], particles: int, factory: Factory) -> None:
    pair, batch = made(factory)
    assert_is_pyros(estimator(particles), pyros(elbo, particles), pair, *batch)


@pytest.mark.parametrize("particles", [1, 4])
def test_score_function_equals_pyros(particles: int) -> None:
    assert_is_pyros(SGVB_A(particles), pyros(Trace_ELBO, particles), Discrete(), torch.tensor([0.5, -1.0, 2.0]))


def test_estimators_are_pyros() -> None:
    assert issubclass(SGVB_A, Trace_ELBO)
    assert issubclass(SGVB_B, TraceMeanField_ELBO)
    assert issubclass(SGVB_B, Estimator)
    assert all(issubclass(estimator, Trace_ELBO) for estimator in ESTIMATORS)


def test_is_a_loss_module() -> None:
    pair, batch = made(PAIRS[0].values[0])
    module = SGVB_B()(pair.model, pair.guide)
    loss = seeded(1, module, *batch)
    assert loss.item() == pytest.approx(seeded(1, SGVB_B().loss, pair.model, pair.guide, *batch), rel=1e-6)


# The bound of each datum


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_bound_of_a_wrong_guide_in_closed_form(estimator: type[Estimator]) -> None:
    """E log N(x; w z, 1) - KL(N(m, s) || N(0, 1)), with m = a x + b."""
    pair, x = OneLatent(20_000, torch.float64, w=1.3), 1.7
    m, s, w = (pair.a * x + pair.b).detach()[0], pair.s.exp().detach()[0], 1.3
    log_p = -((x - w * m) ** 2 + (w * s) ** 2) / 2 - math.log(2 * math.pi) / 2
    assert_mean(seeded(0, estimator().bound, pair, pair.data(x)), log_p - (m**2 + s**2 - 1) / 2 + s.log())


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_a_shared_latent_counts_once(estimator: type[Estimator]) -> None:
    """The sum over data of the bounds is the bound of all, in batches of any size: here exactly, w drawn alike."""
    pair = Shared(torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1)
    whole = seeded(1, estimator(2).bound, pair, pair.data)
    for size in (1, 2, 4):
        parts = [seeded(1, estimator(2).bound, pair, part) for part in pair.data.split(size)]
        assert [len(part) for part in parts] == [len(part) for part in pair.data.split(size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-10, atol=1e-10)
    if estimator is SGVB_A:
        torch.testing.assert_close(whole.sum(), pair.log_evidence(), rtol=1e-10, atol=1e-10)
    else:
        torch.manual_seed(0)
        assert SGVB_B(20_000).bound(pair, pair.data).sum().item() == pytest.approx(pair.log_evidence().item(), abs=0.1)
    terms = seeded(1, estimator(2).terms, pair, pair.data[:2])["w"]
    assert {value.shape for _, value in terms.items()} == {(2, 1)}


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_subsampled_loss_keeps_pyros_scale(estimator: type[Estimator]) -> None:
    pair = Shared(torch.arange(6.0))
    part = pair.data[:2]
    subject = estimator()
    bound = seeded(1, subject.bound, pair, part)
    assert seeded(1, subject.loss, *programs(pair), part) == pytest.approx(-bound.mean().item() * 6, rel=1e-5)
    objective = seeded(1, subject.objective, *programs(pair), part)
    assert objective.loss.item() == pytest.approx(-bound.mean().item(), rel=1e-5)
    assert objective.bound.item() == pytest.approx(bound.mean().item(), rel=1e-5)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(("estimator", "elbo"), TWINS)
def test_inner_plates(estimator: type[Estimator], elbo: type[ELBO], particles: int) -> None:
    pair, x = Pixels(), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    ours = estimator(particles, max_plate_nesting=2)
    assert_is_pyros(ours, pyros(elbo, particles, nesting=2), pair, x)
    terms = seeded(1, ours.terms, pair, x)
    shape = (5,) if particles == 1 else (particles, 5)
    assert {value.shape for site in terms.values() for _, value in site.items()} == {shape}
    assert repr(ours) == f"{estimator.__name__}(num_particles={particles}, max_plate_nesting=2)"


def test_users_scale_and_mask() -> None:
    x = torch.tensor([0.5, -1.0, 2.0])
    mask = torch.tensor([True, False, True])

    def pair(handler: Any) -> nn.Module:
        def model(x: Tensor) -> None:
            with pyro.plate("data", 3):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with handler:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", 3):
                pyro.sample("z", dist.Normal(0.2, 0.7))

        return Pair(model, guide)

    for estimator in (SGVB_A(), SGVB_B(), SGVB_A(3)):
        plain = seeded(1, estimator.terms, pair(poutine.scale(scale=1.0)), x)["x"].log_p
        scaled = seeded(1, estimator.terms, pair(poutine.scale(scale=2.5)), x)["x"].log_p
        masked = seeded(1, estimator.terms, pair(poutine.mask(mask=mask)), x)["x"].log_p
        torch.testing.assert_close(scaled, plain)  # a scale weighs what is trained, and no number that is told
        torch.testing.assert_close(masked, plain * mask)
        without = seeded(1, estimator.bound, pair(poutine.scale(scale=1.0)), x)
        bound = seeded(1, estimator.bound, pair(poutine.mask(mask=mask)), x)
        assert (bound == without).tolist() == mask.tolist()
    whole = pair(poutine.mask(mask=mask))
    model, guide = (poutine.mask(program, mask=mask) for program in programs(whole))
    for estimator in (SGVB_A(), SGVB_B()):
        assert seeded(1, estimator.bound, Pair(model, guide), x)[1] == 0


def test_no_data_plate() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=x)

    pair = Pair(model, lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)))
    for call in (SGVB_A().bound, SGVB_A().terms, SGVB_A().log_weights):
        with pytest.raises(ValueError, match=r"no plate over the data.*pyro.plate\("):
            call(pair, torch.zeros(3))


# beta


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [0.0, 0.3, 4, torch.tensor(0.3)])
def test_beta_weighs_model_and_guide_alike(estimator: type[Estimator], particles: int, beta: Any) -> None:
    for factory in (p.values[0] for p in PAIRS if p.id in ("hierarchy", "plain_object")):
        pair, batch = made(factory)
        subject = estimator(particles, beta=beta)
        terms = seeded(1, subject.terms, pair, *batch)
        log_p = terms.pop("x").log_p
        kl = sum(t.kl if t.kl is not None else t.log_q - t.log_p for t in terms.values())
        expected = (log_p - float(beta) * kl).expand(particles, len(batch[0])).mean(0)
        torch.testing.assert_close(seeded(1, subject.bound, pair, *batch), expected, rtol=1e-5, atol=1e-5)
        objective = seeded(1, subject.objective, *programs(pair), *batch)
        assert objective.loss.item() == pytest.approx(-expected.mean().item(), rel=1e-5)
        assert objective.bound.item() == pytest.approx((log_p - kl).mean().item(), rel=1e-4)


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_gradient_is_linear_in_beta(estimator: type[Estimator]) -> None:
    pair, batch = made(PAIRS[0].values[0])
    zero, half, one = (
        gradients(pair, lambda b=b: estimator(beta=b).differentiable_loss(*programs(pair), *batch)) for b in (0, 0.5, 1)
    )
    zero = {name: zero.get(name, torch.zeros_like(value)) for name, value in one.items()}
    assert_same(half, {name: (zero[name] + one[name]) / 2 for name in one})
    assert any((zero[name] - one[name]).abs().max() > 1e-3 for name in one)


def test_beta_as_a_tensor_is_moved_in_place() -> None:
    beta = torch.tensor(1.0)
    pair, batch = made(PAIRS[0].values[0])
    estimator = SGVB_B(beta=beta)
    before = seeded(1, estimator.bound, pair, *batch)
    beta.fill_(0.5)
    torch.testing.assert_close(
        seeded(1, estimator.bound, pair, *batch), seeded(1, SGVB_B(beta=0.5).bound, pair, *batch)
    )
    assert (before != seeded(1, estimator.bound, pair, *batch)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 0}, "num_particles has to be a whole number of at least 1; got 0"),
        ({"num_particles": 2.0}, r"num_particles has to be .* got 2\.0"),
        ({"max_plate_nesting": 0}, "max_plate_nesting has to be"),
        ({"max_plate_nesting": math.inf}, "max_plate_nesting has to be .* got inf"),
        ({"beta": -0.1}, r"beta has to be a finite number of at least 0; got -0\.1"),
        ({"beta": torch.tensor(-0.5)}, r"beta has to be a finite number of at least 0; got tensor\(-0\.5"),
        ({"beta": math.inf}, r"beta has to be a finite number of at least 0; got inf"),
        ({"beta": math.nan}, "beta has to be a finite number of at least 0; got nan"),
        ({"num_data": 0.5}, "num_data has to be .* got 0.5"),
    ],
)
@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_refuses(estimator: type[Estimator], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator(**arguments)


# What SGVB_B cannot take


def test_sampled_kl_is_said_once() -> None:
    pair, x = Toy(prior=dist.StudentT(4.0)), torch.ones(3)
    estimator = SGVB_B()
    with pytest.warns(UserWarning, match=r"no closed-form KL is registered for z; there it is sampled"):
        estimator.bound(pair, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        torch.testing.assert_close(seeded(1, estimator.bound, pair, x), seeded(1, SGVB_A().bound, pair, x))
        SGVB_B().bound(Toy(), x)


def test_sampled_kl_equals_pyros() -> None:
    with pytest.warns(UserWarning, match="sampled"):
        assert_is_pyros(SGVB_B(3), pyros(TraceMeanField_ELBO, 3), Toy(dist.StudentT(4.0)), torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("validate", [True, False])
def test_b_refuses_a_discrete_latent(validate: bool) -> None:
    with pyro.validation_enabled(validate), pytest.raises(ValueError, match=r"q\(z1\) is a Bernoulli.*Use SGVB_A"):
        SGVB_B().bound(Discrete(), torch.zeros(3))


@pytest.mark.parametrize("particles", [1, 2])
def test_b_refuses_a_bottom_up_guide(particles: int) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 2):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 2):
            z1 = pyro.sample("z1", dist.Normal(x, 1.0))
            pyro.sample("z2", dist.Normal(z1, 1.0))

    pair, x = Pair(model, guide), torch.zeros(2)
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"draws z2, z1, the guide z1, z2.*SGVB_A"),
    ):
        SGVB_B(particles).bound(pair, x)
    assert SGVB_A(particles).bound(pair, x).isfinite().all()


def test_auxiliary_latent_of_the_guide() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if reverse:
                pyro.sample("a", dist.Normal(z / 2, 1.0), infer={"is_auxiliary": True})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.4))
        with pyro.plate("data", 2):
            a = pyro.sample("a", dist.Normal(loc, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 1.0))

    pair, x, reverse = Pair(model, guide), torch.ones(2), True
    SGVB_A().bound(pair, x)
    assert_is_pyros(SGVB_A(2), pyros(Trace_ELBO, 2), pair, x)
    bound = torch.stack([seeded(seed, IWAE(200).bound, pair, x) for seed in range(50)]).mean()
    assert bound.item() == pytest.approx(dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)).item(), abs=0.02)
    reverse = False
    for estimator in (SGVB_A(), SGVB_B(), IWAE(2)):
        with pytest.raises(
            ValueError, match=r"'a' is in the guide but not in the model.*a reverse model r\(a | z, x\)"
        ):
            estimator.bound(pair, x)


# Terms


@pytest.mark.parametrize("particles", [1, 3])
def test_terms_by_site(particles: int) -> None:
    pair, batch = named("hierarchy")
    shape = (5,) if particles == 1 else (particles, 5)
    sampled = seeded(1, SGVB_A(particles).terms, pair, *batch)
    closed = seeded(1, SGVB_B(particles).terms, pair, *batch)
    kinds = {name: [kind for kind, _ in site.items()] for name, site in sampled.items()}
    assert kinds == {"z2": ["log_p", "log_q"], "z1": ["log_p", "log_q"], "x": ["log_p"]}
    assert {name: [kind for kind, _ in site.items()] for name, site in closed.items()} == {
        "z2": ["kl"],
        "z1": ["kl"],
        "x": ["log_p"],
    }
    for site in (*sampled.values(), *closed.values()):
        assert isinstance(site, SiteTerms)
        for _, value in site.items():
            assert value.shape == shape
            assert not value.requires_grad
    torch.testing.assert_close(sampled["x"].log_p, closed["x"].log_p)
    assert (closed["z1"].kl >= 0).all()
    closed_kl = closed["z2"].kl.reshape(-1, 5)[0]
    torch.manual_seed(0)
    many = SGVB_A(20_000).terms(pair, *batch)
    torch.testing.assert_close((many["z2"].log_q - many["z2"].log_p).mean(0), closed_kl, rtol=0.1, atol=0.05)


def test_terms_against_a_hand_calculation() -> None:
    pair, x = Toy(scale=0.5), torch.tensor([0.3, -1.2])
    with poutine.trace() as recorded:
        seeded(1, pair.guide, x)
    z = recorded.trace.nodes["z"]["value"]
    terms = seeded(1, SGVB_A().terms, pair, x)
    torch.testing.assert_close(terms["x"].log_p, dist.Normal(z, 1.0).log_prob(x))
    torch.testing.assert_close(terms["z"].log_p, dist.Normal(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(terms["z"].log_q, dist.Normal(0.0, 0.5).log_prob(z).detach())
    kl = math.log(2) + 0.125 - 0.5
    torch.testing.assert_close(SGVB_B().terms(pair, x)["z"].kl, torch.full((2,), kl))


@pytest.mark.parametrize("particles", [1, 4])
def test_log_weights(particles: int) -> None:
    pair, batch = named("plain_object")
    estimator = SGVB_A(particles, beta=0.2)  # of which importance weights know nothing
    weights = seeded(1, estimator.log_weights, pair, *batch)
    assert weights.shape == (particles, 5)
    torch.testing.assert_close(weights.mean(0).detach(), seeded(1, SGVB_A(particles).bound, pair, *batch))
    with pytest.raises(ValueError, match=r"SGVB_B integrates a KL in closed form; take importance weights from SGVB_A"):
        SGVB_B().log_weights(pair, *batch)


def test_mean_bound() -> None:
    pair, x, exact = linear_gaussian()
    assert SGVB_A().mean_bound(pair, [(part,) for part in x.split(2)]) == pytest.approx(exact.mean().item())  # 2, 2, 1
    with pytest.raises(ValueError, match="no data to average the bound over"):
        SGVB_A().mean_bound(pair, [])


def test_a_delta_with_a_density_is_sampled() -> None:
    """Pyro's registered KL forgets ``log_density``, by which a guide writes a transformed variable."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        base = dist.Normal(x / 2, 0.7).to_event(1)
        value = base.rsample()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(value, log_density=base.log_prob(value), event_dim=1))

    pair, x = Pair(model, guide), torch.randn(6, 2)
    torch.manual_seed(1)
    expected = SGVB_A().bound(pair, x)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="no closed-form KL is registered for z"):
        ours = SGVB_B().bound(pair, x)
    torch.testing.assert_close(ours, expected)


def test_num_data_shares_what_stands_outside_a_plate_of_the_batch() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.5))

    pair, x = Pair(model, guide), torch.randn(5, 1)
    for estimator in (SGVB_A(num_data=50), SGVB_B(num_data=50)):
        torch.manual_seed(2)
        terms = estimator.terms(pair, x)
        torch.manual_seed(2)
        bound = estimator.bound(pair, x)
        torch.manual_seed(2)
        objective = estimator.objective(pair.model, pair.guide, x)
        torch.manual_seed(2)
        alone = type(estimator)().terms(pair, x)
        for kind, value in terms["w"].items():
            torch.testing.assert_close(value * 10, dict(alone["w"].items())[kind])
        torch.testing.assert_close(objective.loss, -bound.mean())
        torch.testing.assert_close(objective.bound, bound.mean())


# All of them

Make = Callable[..., Estimator]


def named(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    return made(next(p.values[0] for p in PAIRS if p.id == name))


@pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
@pytest.mark.parametrize(
    "make",
    [make if make in EVERY_CLASS else pytest.param(*make.values, id=make.id, marks=pytest.mark.slow) for make in EVERY],
)
def test_every_pair(make: Make, factory: Factory) -> None:
    """One value in Pyro's scale by four ways, minus the sum of the bounds; and one gradient, of all parameters.

    The laws of estimators say the same of small pairs; here of images, plain functions, a latent outside of the plate.
    """
    pair, batch = made(factory)
    estimator = make()
    if factory is flow_vae and isinstance(estimator, (FreeBits, TCVAE)):
        with pytest.raises(ValueError, match="units"):
            estimator.bound(pair, *batch)
        return
    model, guide = programs(pair)
    if "bias" in SGVB_A().terms(pair, *batch) and "in the data plate" in estimator.facts.sites:
        for call in (lambda: estimator.bound(pair, *batch), lambda: estimator.loss(model, guide, *batch)):
            with pytest.raises(ValueError, match=r"weighs each datum by itself, but 'bias' stands outside.*Use SGVB_A"):
                call()
        return
    bound = seeded(1, estimator.bound, pair, *batch)
    assert bound.shape == (len(batch[0]),)
    loss = -bound.sum().item()
    for call in (estimator.loss, estimator.loss_and_grads, estimator.differentiable_loss):
        assert float(seeded(1, call, model, guide, *batch)) == pytest.approx(loss, rel=1e-5)
    objective = seeded(1, estimator.objective, model, guide, *batch)
    assert objective.loss.item() * len(bound) == pytest.approx(loss, rel=1e-5)
    if estimator.facts.bounds.endswith("(ELBO)"):
        signs = {"log_p": 1, "log_q": -1, "kl": -1}
        total = sum(signs[kind] * value for site in objective.terms.values() for kind, value in site.items())
        assert total.item() == pytest.approx(objective.bound.item(), rel=1e-4)
    found = gradients_of(estimator, pair, *batch)
    assert found.keys() == {name for name, p in pair.named_parameters() if p.requires_grad}
    assert_same(found, gradients(pair, lambda: estimator.objective(model, guide, *batch).loss * len(bound)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "pair"),
    [(DReG(3), OneLatent(4)), (VIMCO(3), Coin(4)), (ReweightedWakeSleep(3, guide="both"), OneLatent(4))],
    ids=["DReG", "VIMCO", "ReweightedWakeSleep"],
)
def test_compiled_gradient(estimator: Estimator, pair: nn.Module) -> None:
    results = []
    for mode in ("eager", "inductor"):
        step = TrainingStep(pair, estimator, compile=mode)
        seeded(3, step, (torch.tensor([0.5, 2.0, 1.0, -1.0]),))
        results.append({name: p.grad.clone() for name, p in pair.named_parameters()})
    assert_same(*results)


# What a schedule moves


@pytest.mark.parametrize("make", EVERY)
def test_numbers_at_other_values(make: Make) -> None:
    """``at`` is as an estimator that was made with these values; a value out of range, or another name, is refused."""
    estimator, (pair, (x,)) = make(), named("hierarchy")
    assert {name: value.item() for name, value in estimator.scheduled.items()} == pytest.approx(
        {name: float(getattr(estimator, name)) for name in estimator.numbers}
    )
    for name in estimator.numbers:
        estimator.check_scheduled(name, 0.3)
        with pytest.raises(ValueError, match=f"{name} has to be a finite number of at least 0; got -0.3"):
            estimator.check_scheduled(name, -0.3)
        with pytest.raises(TypeError):
            estimator.scheduled[name] = torch.tensor(0.3)  # type: ignore[index]
        moved = make()
        setattr(moved, name, 0.3)  # what nobody but a test does
        at = {"at": {name: torch.tensor(0.3)}}
        ours = seeded(1, functools.partial(estimator.objective, **at), *programs(pair), x)
        torch.testing.assert_close(ours, seeded(1, moved.objective, *programs(pair), x))
        assert (ours.loss != seeded(1, estimator.objective, *programs(pair), x).loss) or name == "free_nats"
        bound = seeded(1, functools.partial(estimator.bound, **at), pair, x)
        torch.testing.assert_close(bound, seeded(1, moved.bound, pair, x))
    with pytest.raises(ValueError, match=rf"{type(estimator).__name__} has no number 'speed' that a schedule moves"):
        estimator.bound(pair, x, at={"speed": 1.0})
    assert ("beta" in estimator.numbers) != bool(estimator.no_beta)
    if estimator.no_beta:
        with pytest.raises(ValueError, match=rf"{type(estimator).__name__} .*, so no beta weighs"):
            estimator.check_scheduled("beta", 1.0)


def test_a_given_tensor_is_scheduled_itself() -> None:
    beta = torch.tensor(0.5, dtype=torch.float64)
    assert SGVB_B(beta=beta).scheduled["beta"] is beta
    assert SGVB_B(beta=2).scheduled["beta"].dtype == torch.float32


# Facts


def test_every_estimator_has_facts() -> None:
    assert [one.__name__ for one in ESTIMATORS] != sorted(names.__all__) == sorted(one.__name__ for one in ESTIMATORS)
    for kind in ESTIMATORS:
        facts = kind.example().facts
        assert all(value.strip() for value in dataclasses.asdict(facts).values()), kind
        assert not any(ord(c) < 32 and c != "\n" for c in inspect.getdoc(kind)), "a backslash was lost"
        assert "Source:" in vars(kind)["__doc__"], kind
        assert facts.source.split()[0] in vars(kind)["__doc__"].split("Source:")[1]
        assert getattr(pyro_vae, kind.__name__) is getattr(pyro_vae.estimators, kind.__name__) is kind
        assert kind.__name__ in pyro_vae.__all__
    penalized = {one.__name__ for one in ESTIMATORS if issubclass(one, Penalized)}
    assert penalized == {"Capacity", "FreeBits", "Balanced", "TCVAE"}


def test_facts_of_the_axes() -> None:
    """They compose: of the bound its side, of the gradient its sites, of both where latents may stand."""
    assert SGVB_A().facts == Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="the ELBO's",
        sites="any; without reparameterization by the score function",
        cost="L model, 1 guide",
        source="Kingma & Welling 2013, eq. 6",
    )
    assert DReG(3).facts == Facts(
        bounds="log p(x), from below; tighter with K",
        gradient="the bound's",
        sites="reparameterized, able to score a given value, in the data plate",
        cost="K model, 1 guide (2 with several latents)",
        source="Tucker, Lawson, Gu & Maddison 2019",
    )


def test_facts_table() -> None:
    lines = facts_table(ESTIMATORS).splitlines()
    assert lines[0].split() == ["estimator", *(field.name for field in dataclasses.fields(Facts))]
    assert max(len(line) for line in lines) <= 120
    first = [line.split()[0] for line in lines[1:] if line and not line.startswith((" ", "-"))]
    assert first == [estimator.__name__ for estimator in ESTIMATORS]
    words = " ".join(facts_table([one.example() for one in ESTIMATORS], 10_000).split())
    for estimator in ESTIMATORS:
        assert all(value in words for value in dataclasses.asdict(estimator.example().facts).values())
