"""Objectives beyond the ELBO: each loss against its formula, and each bound, which stays the ELBO."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import Coin, Pixels, assert_mean, assert_same, gradients, gradients_of, seeded
from pairs import PAIRS, linear_gaussian, made
from torch import Tensor, nn

import pyro_vae
from pyro_vae import (
    MLP,
    SGVB_A,
    SGVB_B,
    VAE,
    Cosine,
    DiagonalNormal,
    Gaussian,
    Linear,
    Pair,
    PairError,
    StandardNormal,
    check,
)
from pyro_vae.diagnostics import active_units, kl_decomposition, linear_vae_optimum
from pyro_vae.estimators import TCVAE, Annealed, Balanced, Capacity, Estimator, FreeBits, Objective
from pyro_vae.estimators.kl import aggregate, kl_by_unit, units
from pyro_vae.estimators.penalties import log_mixture
from pyro_vae.estimators.run import Call
from pyro_vae.pair import programs
from pyro_vae.pair import run as run_pair
from pyro_vae.training import TrainingStep

# Each away from the weights at which its loss is minus the ELBO.
OBJECTIVES: dict[str, Callable[..., Estimator]] = {
    "Annealed": lambda **options: Annealed(2, beta=0.4, **options),
    "Capacity": lambda **options: Capacity(3.0, 10.0, 2, **options),
    "FreeBits, unit": lambda **options: FreeBits(0.3, "unit", 2, **options),
    "FreeBits, site": lambda **options: FreeBits(5.0, "site", 2, **options),
    "Balanced": lambda **options: Balanced(2, beta=0.4, **options),
    "TCVAE, stratified": lambda **options: TCVAE(0.5, 6.0, 2.0, 2, **options),
    "TCVAE, weighted": lambda **options: TCVAE(0.5, 6.0, 2.0, 2, sampling="weighted", **options),
}
EVERY = [pytest.param(make, id=name) for name, make in OBJECTIVES.items()]
PENALISED = [p for p in EVERY if p.id != "Annealed"]
Make = Callable[..., Estimator]


class Vectors(nn.Module):
    """z ~ N(0, I), x | z ~ N(z, I), q(z | x_n) = N(loc_n, scale_n), each [3]: all of it in parameters."""

    def __init__(self, size: int = 6, full_size: int | None = None) -> None:
        super().__init__()
        self.full_size, dtype = full_size or size, torch.float64
        generator = torch.Generator().manual_seed(5)
        spread = torch.tensor([1.5, 0.6, 0.05], dtype=dtype)
        self.loc = nn.Parameter(spread * torch.randn(size, 3, generator=generator, dtype=dtype))
        self.log_scale = nn.Parameter(torch.tensor([-1.0, -0.4, -0.02], dtype=dtype).repeat(size, 1))

    def kl(self) -> Tensor:
        """``[B, 3]``"""
        return (self.loc**2 + (2 * self.log_scale).exp() - 1) / 2 - self.log_scale

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", self.full_size, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.loc[0]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("vectors", self)
        with pyro.plate("data", self.full_size, subsample=x):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


def vectors(size: int = 6) -> tuple[Vectors, Tensor]:
    return Vectors(size), torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def log_likelihood(pair: Vectors, x: Tensor, particles: int = 1) -> Tensor:
    """The mean of log p(x | z) over the draws of an estimator with these particles, at its seed."""
    estimator = SGVB_B(particles)
    return seeded(1, estimator.objective, *programs(pair), x).terms["x"]["log_p"]


def adam(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    return functools.partial(torch.optim.Adam, lr=lr)


def objective_of(estimator: Estimator, pair: nn.Module, *batch: Any) -> Objective:
    return seeded(1, estimator.objective, *programs(pair), *batch)


# All of them


@pytest.mark.parametrize("factory", PAIRS)
@pytest.mark.parametrize("make", EVERY)
def test_one_loss_in_all_ways(make: Make, factory: Any) -> None:
    """Pyro's three, and that of a training step; the bound is the ELBO of SGVB-B (or A) at the same draws."""
    pair, batch = made(factory)
    model, guide = programs(pair)
    estimator, size = make(), len(batch[0])
    objective = objective_of(estimator, pair, *batch)
    loss = objective.loss.item() * size
    for call in (estimator.loss, estimator.loss_and_grads):
        assert seeded(1, call, model, guide, *batch) == pytest.approx(loss, rel=1e-5)
    assert seeded(1, estimator.differentiable_loss, model, guide, *batch).item() == pytest.approx(loss, rel=1e-5)
    found = gradients_of(estimator, pair, *batch)
    assert_same(found, gradients(pair, lambda: estimator.objective(model, guide, *batch).loss * size), atol=1e-4)
    elbo = objective_of((SGVB_A if isinstance(estimator, Annealed) else SGVB_B)(2), pair, *batch)
    torch.testing.assert_close(objective.bound, elbo.bound)
    assert abs(objective.loss + elbo.bound) > 1e-3  # the loss is another


@pytest.mark.parametrize("make", EVERY)
def test_traces(make: Make) -> None:
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "hierarchy"))
    results = []
    name = "capacity" if "capacity" in make().numbers else "beta"  # an input of the graph
    for mode in ("eager", "traced"):
        step = TrainingStep(pair, make(), compile=mode)
        torch.manual_seed(3)
        losses = [step(batch, {name: torch.tensor(value)}).loss for value in (0.6, 0.6, 1.2)]
        assert step.mode == mode
        results.append((torch.stack(losses), {name: p.grad.clone() for name, p in pair.named_parameters()}))
    (eager, ours), (traced, theirs) = results
    assert_same(ours, theirs)
    torch.testing.assert_close(eager, traced)


@pytest.mark.parametrize("make", EVERY)
def test_fits_and_reports_the_elbo(make: Make) -> None:
    pair, (x,) = made(next(p.values[0] for p in PAIRS if p.id == "gaussian_vae"))
    data = (x.repeat(4, 1), x)
    run = pyro_vae.fit(pair, data, estimator=make(), epochs=2, batch_size=10, compile="traced", progress=False)
    last = run.history[-1]
    torch.manual_seed(0)
    assert last["valid"] == pytest.approx(SGVB_B(200).mean_bound(pair, [(x,)]), abs=0.5)
    terms = last["terms"]
    if "kl" in terms["z"]:
        assert last["train"] == pytest.approx(terms["x"]["log_p"] - terms["z"]["kl"], rel=1e-4)


@pytest.mark.parametrize("make", PENALISED)
def test_value_does_not_depend_on_the_plates_scale(make: Make) -> None:
    """A batch of 6 out of 60: Pyro's loss is ten times that of the batch, and the loss per datum is the same."""
    (pair, x), scaled = vectors(), Vectors(full_size=60)
    one = objective_of(make(num_data=60), pair, x)  # as fit tells it to TCVAE
    other = objective_of(make(), scaled, x)
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.bound, other.bound)
    assert seeded(1, make().loss, *programs(scaled), x) == pytest.approx(60 * one.loss.item())


@pytest.mark.parametrize("make", PENALISED)
def test_what_stands_outside_the_plate_is_not_penalized(make: Make) -> None:
    """A global latent keeps its KL of the ELBO, with the beta of that."""
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "plain_object"))
    loc = dict(pair.named_parameters())["pyro_params.param/bias/loc"]
    before = objective_of(make(), pair, *batch)
    with torch.no_grad():
        loc += 0.3
    after = objective_of(make(), pair, *batch)
    kl = (after.terms["bias"]["kl"] - before.terms["bias"]["kl"]).item()
    distortion = -(after.terms["x"]["log_p"] - before.terms["x"]["log_p"]).item()
    beta = make().beta if isinstance(make(), Balanced) else 1.0
    assert (after.loss - before.loss).item() == pytest.approx(beta * kl + distortion, rel=1e-3, abs=1e-3)
    assert kl > 0.01


@pytest.mark.parametrize("make", PENALISED)
def test_sticking_the_landing_changes_no_value(make: Make) -> None:
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "functions"))
    one, other = (objective_of(make(sticking_the_landing=on), pair, *batch).loss for on in (False, True))
    torch.testing.assert_close(one, other)


# The paper's annealing


def test_annealed_weighs_the_joint_density() -> None:
    pair, x = vectors()
    terms = objective_of(SGVB_A(2), pair, x).terms
    objective = objective_of(Annealed(2, beta=0.3), pair, x)
    expected = terms["z"]["log_q"] - 0.3 * (terms["z"]["log_p"] + terms["x"]["log_p"])
    torch.testing.assert_close(objective.loss.detach(), expected)
    torch.testing.assert_close(objective.bound, objective_of(SGVB_A(2), pair, x).bound)
    # over beta, an ELBO whose entropy has the weight 1 / beta
    scaled = {n: g / 0.3 for n, g in gradients_of(Annealed(2, beta=0.3), pair, x).items()}
    entropy = gradients(pair, lambda: _entropy_weighed(pair, x, 1 / 0.3))
    assert_same(scaled, entropy)


def _entropy_weighed(pair: nn.Module, x: Tensor, weight: float) -> Tensor:
    model_trace, guide_trace = run_pair(pair, x, num_particles=2)
    return (weight * guide_trace.log_prob_sum() - model_trace.log_prob_sum()) / 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_annealed_score_function_is_unbiased(beta: float) -> None:
    """Against the sum over both values of a discrete latent."""
    x = 0.7
    pair = Coin(40_000, torch.float64)
    draws = pair.draws(Annealed(beta=beta), x)
    one = Coin(1, torch.float64)
    y, data = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(x, dtype=torch.float64)
    log_q = dist.Bernoulli(logits=one.l[0]).log_prob(y)
    log_p = one.log_weight(y, data) + log_q
    (log_q.exp() * (beta * log_p - log_q)).sum().backward()
    for name in ("w", "l"):
        assert_mean(draws[name], getattr(one, name).grad.item())


# Capacity


@pytest.mark.parametrize("capacity", [0.0, 0.5, 100.0])
def test_capacity(capacity: float) -> None:
    pair, x = vectors()
    kl = pair.kl().sum(-1).mean()
    expected = -log_likelihood(pair, x) + 50 * (kl - capacity).abs()
    loss = objective_of(Capacity(capacity, 50.0), pair, x).loss
    torch.testing.assert_close(loss, expected)
    tensor = objective_of(Capacity(torch.tensor(capacity), 50.0), pair, x).loss
    torch.testing.assert_close(tensor, loss)


def test_capacity_moves_by_a_schedule() -> None:
    """The graph of a step takes the capacity of the place; the KL follows it."""
    torch.manual_seed(0)
    x = 3 * torch.randn(256, 4)
    vae = VAE(
        StandardNormal(2), DiagonalNormal(MLP(4, (2, 2), (16,))), Gaussian(MLP(2, 4, (16,)), 1.0, sigmoid_mean=False)
    )
    estimator = Capacity(Linear(0.0, 3.0, duration=0.5), gamma=100.0)
    options: dict[str, Any] = {"compile": "traced", "progress": False, "batch_size": 64, "scheduler": Cosine()}
    run = pyro_vae.fit(vae, x, estimator=estimator, epochs=80, optimizer=adam(1e-2), **options)
    capacities = [entry["capacity"] for entry in run.history]
    kls = [entry["terms"]["z"]["kl"] for entry in run.history]
    assert capacities[19] == pytest.approx(3 * 19.75 / 40, abs=1e-5)  # at the last step of this epoch
    assert capacities[-1] == 3.0
    for epoch in (9, 19, 39, 79):
        assert kls[epoch] == pytest.approx(capacities[epoch], abs=0.5)
    assert kls[-1] == pytest.approx(3.0, abs=0.15)
    assert callable(estimator.capacity)  # the user's own is as it was


def test_a_schedule_goes_with_fit_alone() -> None:
    pair, x = vectors()
    estimator = Capacity(Linear(0.0, 25.0))
    assert estimator.bound(pair, x).shape == (6,)
    check(pair, x, estimator=estimator)
    with pytest.raises(ValueError, match=r"the capacity is a schedule, Linear\(start=0.0, end=25.0.*give a number"):
        estimator.loss(*programs(pair), x)


# Free bits


def test_free_bits_per_unit() -> None:
    """Units with a mean KL below the threshold add the threshold, and no gradient."""
    pair, x = vectors()
    kl = pair.kl().mean(0)
    assert (kl > 0.5).tolist() == [True, False, False]
    estimator = FreeBits(0.5, beta=0.8)
    loss = objective_of(estimator, pair, x).loss
    torch.testing.assert_close(loss, -log_likelihood(pair, x) + 0.8 * (kl[0] + 1.0))
    assert pair.kl()[:, 1].min() < 0.3 < kl[1] < 0.5  # the mean over the batch counts, not each datum
    found = gradients_of(estimator, pair, x)["log_scale"]
    without = gradients_of(SGVB_B(beta=0.0), pair, x)["log_scale"]
    torch.testing.assert_close(found[:, 1:], without[:, 1:])
    assert (found[:, 0] - without[:, 0]).abs().min() > 1e-3


def test_free_bits_per_site() -> None:
    """A hierarchy has a group for each of its latents."""
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "hierarchy"))
    terms = objective_of(SGVB_B(2), pair, *batch).terms
    kls = [terms[name]["kl"].item() for name in ("z1", "z2")]
    for nats in (0.0, sum(kls) / 2, 5.0):
        loss = objective_of(FreeBits(nats, "site", 2), pair, *batch).loss.item()
        assert loss == pytest.approx(-terms["x"]["log_p"].item() + sum(max(nats, kl) for kl in kls), rel=1e-5)


def test_units_of_any_shape() -> None:
    """Event dimensions, inner plates, particles, scales and masks: the units' KL sum to the site's."""
    scale = torch.rand(5, 2, 3) + 0.5
    mask = torch.tensor([True, False, True, True, True])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 5), pyro.poutine.scale(scale=2.0), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
            pyro.sample("y", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Delta(x), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 5), pyro.poutine.scale(scale=2.0), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(0.3, scale).to_event(2))
            pyro.sample("y", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))  # no closed form
            pyro.sample("w", dist.Normal(torch.full((5,), 0.1), 0.2))

    pair = Pair(model, guide)
    with pytest.warns(UserWarning, match="FreeBits: no closed-form KL is registered for y"):
        terms = seeded(1, FreeBits(0.1, "site").terms, pair, torch.zeros(()))
    model_trace, guide_trace = seeded(1, run_pair, pair, torch.zeros(()))
    for name, count in (("z", 6), ("y", 2), ("w", 1)):
        q, p = guide_trace.nodes[name], model_trace.nodes[name]
        kl = kl_by_unit(q["fn"], p["fn"], q["value"], mask=q["mask"])
        scaled = kl_by_unit(q["fn"], p["fn"], q["value"], q["scale"], q["mask"])
        assert kl is not None
        assert scaled is not None
        torch.testing.assert_close(scaled, 2 * kl)
        assert kl.shape == (5, count)
        expected = terms[name].kl if terms[name].kl is not None else terms[name].log_q - terms[name].log_p
        torch.testing.assert_close(kl.sum(-1), expected)
        assert kl[1].abs().sum() == 0  # masked


def test_inner_plates_are_units() -> None:
    """A latent for each pixel of a datum: as many groups as there are pixels."""
    pair, x = Pixels(4), torch.randn(4, 5)
    objective = objective_of(FreeBits(50.0, num_particles=2, max_plate_nesting=2), pair, x)
    assert objective.loss.item() == pytest.approx(-objective.terms["x"]["log_p"].item() + 5 * 50.0, rel=1e-5)


# Balancing


class Levels(nn.Module):
    """Latents of 2, 1 and 6 units (the last [2, 3]) with posteriors that are parameters, so that their KL is known."""

    sizes = (2, 1, 6)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(8)
        spread = (1.5, 0.3, 0.6)
        self.loc = nn.ParameterList(
            s * torch.randn(4, n, generator=generator).double() for s, n in zip(spread, self.sizes, strict=True)
        )

    def kl(self) -> Tensor:
        """[3], means over the batch; each scale is 0.5."""
        constant = math.log(2.0) + (0.25 - 1) / 2
        return torch.stack([(loc**2 / 2 + constant).sum(-1).mean() for loc in self.loc])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for level, loc in enumerate(self.loc, 1):
                shape = self.shape(loc)[1:]
                pyro.sample(f"z{level}", dist.Normal(x.new_zeros(shape), 1.0).to_event(len(shape)))
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("levels", self)
        with pyro.plate("data", len(x)):
            for level, loc in enumerate(self.loc, 1):
                loc = loc.reshape(self.shape(loc))
                pyro.sample(f"z{level}", dist.Normal(loc, 0.5).to_event(loc.dim() - 1))

    @staticmethod
    def shape(loc: Tensor) -> tuple[int, ...]:
        return (len(loc), 2, 3) if loc.shape[1] == 6 else tuple(loc.shape)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("beta", [0.3, torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64)])
def test_balance_by_hand(beta: Any, num_particles: int) -> None:
    """The weights go with the nats for each unit, have a mean of 1, and carry no gradient."""
    pair, x = Levels(), torch.randn(4, dtype=torch.float64)
    kl = pair.kl()
    used = [(kl[level].item() + 0.01) / size for level, size in enumerate(pair.sizes)]
    gamma = torch.tensor([3 * share / sum(used) for share in used], dtype=torch.float64)
    assert gamma.std() > 0.2
    estimator = Balanced(num_particles, beta=beta)
    objective = objective_of(estimator, pair, x)
    expected = 0.3 * (gamma * kl).sum() - dist.Normal(0.0, 1.0).log_prob(x).mean()
    torch.testing.assert_close(objective.loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(objective.bound, -kl.sum().detach() + dist.Normal(0.0, 1.0).log_prob(x).mean())
    found = torch.autograd.grad(objective.loss, list(pair.loc))
    wanted = [0.3 * weight * loc.detach() / 4 for weight, loc in zip(gamma, pair.loc, strict=True)]
    torch.testing.assert_close(list(found), wanted, rtol=1e-6, atol=1e-6)


def test_balance_where_no_latent_is_used() -> None:
    """All weights are defined, and the KL has no part in the loss."""
    x = torch.randn(4, dtype=torch.float64)

    class Unused(Levels):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                for level, loc in enumerate(self.loc, 1):
                    loc = torch.zeros_like(loc).reshape(self.shape(loc))
                    pyro.sample(f"z{level}", dist.Normal(loc, 1.0).to_event(loc.dim() - 1))

    loss = objective_of(Balanced(beta=0.2), Unused(), x).loss
    torch.testing.assert_close(loss, -dist.Normal(0.0, 1.0).log_prob(x).mean())


@pytest.mark.parametrize("beta", [1.0, 1.7, torch.tensor(1.0), torch.tensor(2.5)])
def test_balanced_from_a_beta_of_one_on_is_the_elbo(beta: Any) -> None:
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "hierarchy"))
    ours, theirs = (objective_of(make(2, beta=beta), pair, *batch) for make in (Balanced, SGVB_B))
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.bound, theirs.bound)
    one, other = (gradients_of(make(2, beta=beta), pair, *batch) for make in (Balanced, SGVB_B))
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("beta", [0.0, 0.25, torch.tensor(0.25)])
def test_one_latent_has_nothing_to_balance(beta: Any) -> None:
    pair, x = vectors()
    ours, theirs = (objective_of(make(beta=beta), pair, x).loss for make in (Balanced, SGVB_B))
    assert torch.equal(ours, theirs)


def test_balanced_takes_a_sampled_kl() -> None:
    """Where no closed form is known the weights are of its estimate, at least 0.01 nats, and finite."""
    zeros, x = torch.zeros(5, 2), torch.randn(5, generator=torch.Generator().manual_seed(2))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("z2", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(y.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Gamma(zeros + 2.0, 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(zeros, 0.5).to_event(1))

    toy = Pair(model, guide)
    with pytest.warns(UserWarning, match="Balanced: no closed-form KL is registered for z2"):
        objective = objective_of(Balanced(beta=0.5), toy, x)
    terms = objective.terms
    sampled, closed = (terms["z2"]["log_q"] - terms["z2"]["log_p"]).item(), terms["z1"]["kl"].item()
    used = [max(sampled, 0.0) + 0.01, closed + 0.01]
    expected = 0.5 * 2 * (used[0] * sampled + used[1] * closed) / sum(used) - terms["x"]["log_p"].item()
    assert objective.loss.item() == pytest.approx(expected, rel=1e-5)


def test_balanced_warm_up_ends_as_the_elbo() -> None:
    """Under fit beta is a tensor: one graph serves the warm-up and what comes after."""
    pair, batch = made(next(p.values[0] for p in PAIRS if p.id == "hierarchy"))
    step = TrainingStep(pair, Balanced(2), compile="traced")
    plain = TrainingStep(pair, SGVB_B(2), compile="traced")
    differences = []
    for beta in (0.3, 0.9, 1.0, 1.5):
        ours, theirs = (seeded(2, each, batch, {"beta": torch.tensor(beta)}).loss for each in (step, plain))
        differences.append(abs(ours - theirs).item())
    assert min(differences[:2]) > 1e-3
    assert max(differences[2:]) < 1e-6


# TCVAE


def by_hand(pair: Vectors, z: Tensor, num_data: int, sampling: str) -> Tensor:
    """``[3]``: the means of the three parts at draws ``[B, 3]``, one sum after the other."""
    size = len(z)
    parts = []
    for i in range(size):
        log_w = []
        for j in range(size):
            own, other = 1 / num_data, (num_data - 1) / (num_data * (size - 1))
            weight = 1 / (num_data * size) if sampling == "weighted" else own if i == j else other
            log_w.append(math.log(weight))
        log_q = dist.Normal(pair.loc, pair.log_scale.exp()).log_prob(z[i])
        log_w = torch.tensor(log_w, dtype=z.dtype)
        joint = (log_q.sum(-1) + log_w).logsumexp(0)
        product = sum((log_q[:, d] + log_w).logsumexp(0) for d in range(3))
        log_p = dist.Normal(0.0, 1.0).log_prob(z[i]).sum()
        parts.append(torch.stack([log_q[i].sum() - joint, joint - product, product - log_p]))
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize("num_data", [6, 1000])
@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_tcvae_against_loops(sampling: Any, num_data: int) -> None:
    pair, x = vectors()
    z = seeded(1, run_pair, pair, x)[1].nodes["z"]["value"]
    parts = by_hand(pair, z, num_data, sampling)
    weights = torch.tensor([0.5, 6.0, 2.0], dtype=torch.float64)
    estimator = TCVAE(*weights.tolist(), sampling=sampling, num_data=num_data)
    kl = pair.kl().sum(-1).mean()
    torch.testing.assert_close(
        objective_of(estimator, pair, x).loss, -log_likelihood(pair, x) + kl + ((weights - 1) * parts).sum()
    )
    run = seeded(1, estimator._run, Call(*programs(pair), (x,), {}))
    ours = estimator.parts(run)
    torch.testing.assert_close(torch.stack([part.mean() for part in ours]), parts)
    torch.testing.assert_close(
        torch.stack(ours).sum(0), run.guide["z"].log_prob - run.model["z"].log_prob
    )  # whatever the estimate of q(z)


def test_tcvae_with_particles_is_the_mean_of_its_particles() -> None:
    pair, x = vectors()
    estimator = TCVAE(0.5, 6.0, 2.0, 3, num_data=40)
    run = seeded(1, estimator._run, Call(*programs(pair), (x,), {}))
    z = run.guide["z"].value
    assert z.shape == (3, 6, 3)
    each = torch.stack([by_hand(pair, particle, 40, "stratified") for particle in z])
    ours = torch.stack([part.mean(0) for part in estimator.parts(run)], -1)
    torch.testing.assert_close(ours, each)


def test_stratified_weights_are_free_of_bias() -> None:
    """Over all batches of 3 out of 5 data with one datum among them, the mean of q(z) is that of the whole data."""
    pair = Vectors(5)
    z = torch.randn(3, dtype=torch.float64)
    log_q = dist.Normal(pair.loc, pair.log_scale.exp()).log_prob(z)
    found = []
    for others in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)):
        rows = log_q[[0, *others]]
        found.append(aggregate(rows, log_mixture(rows, 3, 5, "stratified")[0]))
    joint = torch.stack([j for j, _ in found]).exp().mean(0)
    single = torch.stack([s for _, s in found]).exp().mean(0)
    torch.testing.assert_close(joint, log_q.sum(-1).exp().mean())
    torch.testing.assert_close(single, log_q.exp().mean(0))


def test_tcvae_gradient() -> None:
    """By finite differences of the loss at the same draws."""
    pair, x = vectors()
    estimator = TCVAE(0.5, 6.0, 2.0, num_data=30)
    found = gradients_of(estimator, pair, x)["loc"] / 6
    step = torch.zeros_like(pair.loc)
    step[2, 1] = 1e-5
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(pair)
        with torch.no_grad():
            moved.loc += sign * step
        values.append(objective_of(estimator, moved, x).loss.item())
    assert found[2, 1].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_tcvae_of_one_datum() -> None:
    pair, x = vectors(1)
    assert objective_of(TCVAE(num_data=100), pair, x).loss.isfinite()
    assert gradients_of(TCVAE(num_data=100), pair, x)["loc"].isfinite().all()


def test_tcvae_lowers_the_total_correlation() -> None:
    """x | z ~ N(z, 0.3) with correlated data: the ELBO's codes are correlated as the data are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]])
    found = []
    for beta in (1.0, 10.0):
        torch.manual_seed(1)
        posterior = DiagonalNormal(MLP(2, (2, 2), hidden=()))
        vae = VAE(StandardNormal(2), posterior, lambda z: dist.Normal(z, 0.3).to_event(1))
        options: dict[str, Any] = {"compile": "traced", "progress": False, "scheduler": Cosine()}
        pyro_vae.fit(vae, x, estimator=TCVAE(beta=beta), epochs=60, batch_size=100, optimizer=adam(0.05), **options)
        found.append(kl_decomposition(vae, x))
    assert found[0].total_correlation > 0.3
    assert found[1].total_correlation < 0.3 * found[0].total_correlation


# What they refuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Capacity(-1.0), r"capacity has to be a finite number of at least 0; got -1.0"),
        (lambda: Capacity(1.0, -2.0), r"gamma has to be a finite number of at least 0; got -2.0"),
        (lambda: Capacity(1.0, beta=2.0), r"Capacity holds the KL at a capacity, so no beta weighs"),
        (lambda: FreeBits(-0.1), r"free_nats has to be a finite number of at least 0; got -0.1"),
        (lambda: FreeBits(math.nan), r"free_nats has to be a finite number of at least 0; got nan"),
        (lambda: FreeBits(0.1, "pixel"), r"per is one of 'unit', 'site'; got 'pixel'"),  # type: ignore[arg-type]
        (lambda: TCVAE(-1.0), r"alpha has to be a finite number of at least 0; got -1.0"),
        (lambda: TCVAE(gamma=math.inf), r"gamma has to be a finite number of at least 0; got inf"),
        (lambda: TCVAE(beta=-1.0), r"beta has to be a finite number of at least 0; got -1.0"),
        (lambda: TCVAE(sampling="all"), r"sampling is one of 'stratified', 'weighted'; got 'all'"),  # type: ignore[arg-type]
    ],
)
def test_arguments(make: Callable[[], Estimator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (FreeBits(0.1), r"needs latents of independent units, which q\(z\), MultivariateNormal.*Use per='site'"),
        (TCVAE(), r"TCVAE takes each unit of q\(z\) by itself, but it is a MultivariateNormal.*or SGVB_B"),
    ],
    ids=["FreeBits", "TCVAE"],
)
def test_units_that_are_not_independent(estimator: Estimator, message: str) -> None:
    pair, x, _ = linear_gaussian()
    with pytest.raises(ValueError, match=message):
        estimator.loss(*programs(pair), x)
    with pytest.raises(PairError, match=message):
        check(pair, x, estimator=estimator)
    assert units(pair.posterior(x)) is None
    with pytest.warns(UserWarning, match="FreeBits: no closed-form KL is registered for z"):
        assert math.isfinite(FreeBits(0.1, "site").loss(*programs(pair), x))


def test_tcvae_in_an_inner_plate() -> None:
    class First(Pixels):
        def sites(self, x: Tensor, observe: bool) -> None:
            pyro.module("pixels", self)
            with pyro.plate("data", 5, dim=-1), pyro.plate("pixels", 4, dim=-2):
                w = pyro.sample("w", dist.Normal(torch.zeros(()) if observe else self.loc, 1.0))
                if observe:
                    pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'w' stands in the plates data, pixels.*to_event"):
        TCVAE(max_plate_nesting=2).loss(*programs(First()), torch.randn(4, 5))


def test_names_in_the_messages() -> None:
    pair, x = Coin(3), torch.ones(3)
    for estimator in (Capacity(1.0), FreeBits(0.1), TCVAE()):
        with pytest.raises(ValueError, match=f"{type(estimator).__name__} needs reparameterized latents.*Bernoulli"):
            estimator.loss(*programs(pair), x)


# The linear VAE


def covariance_of(eigenvalues: Tensor, size: int) -> Tensor:
    """``[size, D]``: data whose covariance has exactly these eigenvalues, along axes of no meaning."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, len(eigenvalues), generator=generator, dtype=eigenvalues.dtype)
    white = torch.linalg.svd(x - x.mean(0), full_matrices=False)[0] * math.sqrt(size)
    rotation = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double())[0]
    return white * eigenvalues.sqrt() @ rotation.T + 1.0


def linear_vae(eigenvalues: Tensor, latent_dim: int, scale: float, beta: float) -> tuple[VAE, Tensor]:
    x = covariance_of(eigenvalues, 256)
    torch.manual_seed(1)
    size = len(eigenvalues)
    vae = VAE(
        StandardNormal(latent_dim),
        DiagonalNormal(MLP(size, (2, latent_dim), hidden=())),
        Gaussian(MLP(latent_dim, size, hidden=()), scale, sigmoid_mean=False),
    ).double()
    pyro_vae.fit(
        vae,
        x,
        estimator=SGVB_B(2),
        beta=beta,
        epochs=700,
        batch_size=256,
        optimizer=adam(0.05),
        scheduler=Cosine(),
        compile="traced",
        progress=False,
    )
    return vae, x


EIGENVALUES = torch.tensor([12.0, 5.0, 2.0, 0.8, 0.1, 0.05], dtype=torch.float64)


@pytest.mark.parametrize(
    ("beta", "scale", "count"),
    [
        pytest.param(0.4, 1.0, 4, marks=pytest.mark.slow),
        pytest.param(1.0, 1.0, 3, marks=pytest.mark.slow),
        (3.0, 1.0, 2),
        (0.3, 5.0, 1),
    ],
)
def test_collapsed_units_of_the_linear_vae(beta: float, scale: float, count: int) -> None:
    """Units in use are eigenvalues above beta scale^2; with 5 latents, and by training."""
    optimum = linear_vae_optimum(EIGENVALUES, 5, scale, beta)
    assert optimum.num_active == count
    vae, x = linear_vae(EIGENVALUES, 5, scale, beta)
    found = active_units(vae, [(x,)])
    assert found.count == count
    variances = found.variances.sort(descending=True).values
    torch.testing.assert_close(variances, optimum.code_variances, atol=0.1, rtol=0)  # turned a little
    torch.manual_seed(0)
    terms = SGVB_B(200).terms(vae, x)
    assert terms["z"].kl is not None
    assert terms["x"].log_p is not None
    rate, distortion = terms["z"].kl.mean().item(), -terms["x"].log_p.mean().item()
    assert rate == pytest.approx(optimum.rate, abs=0.05)
    assert distortion == pytest.approx(optimum.distortion, abs=0.05)
    W, b = vae.likelihood.network.layers[-1].weight, vae.likelihood.network.layers[-1].bias
    evidence = dist.MultivariateNormal(b, W @ W.T + scale**2 * torch.eye(6, dtype=x.dtype)).log_prob(x).mean().item()
    assert evidence == pytest.approx(optimum.log_likelihood, abs=0.05)
