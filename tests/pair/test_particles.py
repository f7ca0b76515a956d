"""Particles of any pair: vectorized, as the batch repeated, or one run each, with the same numbers."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, SGVB_B, DReG, Enumeration, Pair, check, fit
from pyro_vae.estimators import ESTIMATORS, Estimator, MonteCarloEM
from pyro_vae.evidence import ais, importance
from pyro_vae.pair import programs
from pyro_vae.pair.particles import How, Plan
from pyro_vae.pair.plans import plan_of

X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
EXACT = dist.Normal(0.0, 2**0.5).log_prob(X)
HOWS: tuple[How, ...] = ("vectorized", "repeated", "looped")


class Gaussian(nn.Module):
    """z ~ N(0, 1), x | z ~ N(w z, 1), so that log p(x) is that of N(0, 2) at w = 1; a program that keeps dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.loc, self.scale = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.0, 0.4, 0.8))

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        return self.w * z

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(self.decode(z, x), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc * x, self.scale))


class Concatenated(Gaussian):
    """It puts what is drawn beside the data, as a conditional VAE does."""

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        return self.w * torch.stack([z, 0 * x], -1).sum(-1)


class OfSize(Gaussian):
    """It knows the number of its data."""

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        return self.w * (z.view(len(X)) if len(x) == len(X) else z[len(X) :])


WAYS: list[tuple[type[Gaussian], How]] = [(Gaussian, "vectorized"), (Concatenated, "repeated"), (OfSize, "looped")]


class Hiding(Gaussian):
    """It mixes the particles where ``hidden`` says, which the values that it starts from do not show."""

    def __init__(self, hidden: str) -> None:
        super().__init__()
        self.hidden, self.gate = hidden, nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.scale.data.fill_(1e-6 if hidden == "equal draws" else 0.8)

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        if self.hidden == "a size":
            return torch.stack([z, 0 * x], -1).sum(-1) + self.gate * len(x)
        if self.hidden == "noise":
            z = z + torch.randn_like(z)
        return z + z.mean(0) * {"a zero": self.gate, "training": self.training}.get(self.hidden, 1)


class Shown(nn.Module):
    """A bit that the model reads at the first datum alone, or whose list it reads."""

    def __init__(self, reads: Any) -> None:
        super().__init__()
        self.reads = reads

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(2 * self.reads(z) + z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.02 * torch.ones(len(x))))


HIDING = [
    *(Hiding(hidden) for hidden in ("a zero", "a size", "equal draws", "noise", "training")),
    *(Shown(reads) for reads in (lambda z: z.flatten()[0], lambda z: z.tolist()[0] if z.dim() == 1 else 0.0)),
]


@pytest.mark.parametrize("pair", HIDING, ids=lambda pair: getattr(pair, "hidden", "bits"))
@pytest.mark.parametrize("size", [1, 3])
def test_what_the_first_values_hide_is_seen(pair: nn.Module, size: int) -> None:
    x = X[:size] if isinstance(pair, Hiding) else X[:size].float()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    assert plan_of(*programs(pair), (x,), {}).how == "looped"
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert pair.training


SEVERAL = [kind.example() for kind in ESTIMATORS if not issubclass(kind, (Enumeration, MonteCarloEM))]


@pytest.mark.parametrize(("kind", "how"), WAYS)
def test_the_way_is_found(kind: type[Gaussian], how: How) -> None:
    pair = kind()
    assert check(pair, X).particles == how
    state = torch.random.get_rng_state()
    assert plan_of(*programs(pair), (X,), {}).how == how
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("how", HOWS[1:])
@pytest.mark.parametrize("estimator", SEVERAL, ids=repr)
def test_every_way_gives_the_same_numbers(estimator: Estimator, how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same draws: of so few numbers each way takes the same ones from the generator."""
    pair, found = Gaussian(), []
    for way in ("vectorized", how):
        monkeypatch.setattr(estimator, "_plan", lambda call, way=way: Plan(way, 1))
        pair.zero_grad()
        torch.manual_seed(0)
        loss = estimator.loss_and_grads(pair.model, pair.guide, X[:2])
        torch.manual_seed(0)
        bound = estimator.bound(pair, X[:2])
        grads = [torch.zeros(()) if p.grad is None else p.grad.clone() for p in pair.parameters()]
        found.append(torch.cat([torch.as_tensor([loss]), bound, *(grad.double().reshape(1) for grad in grads)]))
    assert torch.allclose(*found, rtol=1e-6, atol=1e-8), found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), WAYS)
def test_evidence_is_exact_in_every_way(kind: type[Gaussian], how: How) -> None:
    pair = kind()
    found = importance(pair, X, 2000, seed=1)
    assert torch.allclose(found.log_prob, EXACT, atol=0.1), found
    for start in ("prior", "guide"):
        annealed = ais(pair, X, num_chains=4, num_steps=40, start=start)
        assert torch.allclose(annealed.log_prob, EXACT, atol=0.3), annealed


class Coins(nn.Module):
    """Two coins, the second of the model alone, and what they show; the probabilities are those of the data."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.keeps = keeps
        self.logit = nn.Parameter(torch.tensor(0.3))

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Bernoulli(0.3 * torch.ones(len(x))))
            second = pyro.sample("second", dist.Bernoulli(0.2 + 0.5 * first))
            assert self.keeps or second.dim() < 4
            pyro.sample("x", dist.Normal(first + 2 * second, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("first", dist.Bernoulli(logits=self.logit * x))


@pytest.mark.parametrize("how", HOWS)
def test_latents_are_summed_out_in_every_way(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, x = Coins(True), X.float()
    alone, several = Enumeration(), Enumeration(3)
    monkeypatch.setattr(several, "_plan", lambda call: Plan(how, 1))
    assert torch.allclose(several.bound(pair, x), alone.bound(pair, x), atol=1e-6)
    grads = []
    for estimator in (alone, several):
        pair.zero_grad()
        estimator.loss_and_grads(pair.model, pair.guide, x)
        grads.append(pair.logit.grad)
    assert torch.allclose(*grads, atol=1e-6)


# Programs as their users write them


class Regression(nn.Module):
    """y ~ N(X w, 1), w ~ N(0, 1), which is no program of several w at once."""

    def model(self, x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x @ w.t()).squeeze(-1), 1.0), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([[0.3, -0.2]]))
        pyro.sample("w", dist.Normal(loc, 0.2).to_event(2))


def test_weights_of_a_matrix_product() -> None:
    torch.manual_seed(0)
    pair, x = Regression(), torch.randn(6, 2)
    y = x @ torch.tensor([1.0, -1.0])
    assert check(pair, x, y).particles == "looped"
    kl = 0.5 * (0.04 + pair_loc().square() - 1 - math.log(0.04)).sum()
    mean = dist.Normal(x @ pair_loc(), 1.0).log_prob(y) - 0.5 * 0.04 * x.square().sum(-1)
    for estimator in (SGVB_A(400), SGVB_B(400)):
        torch.manual_seed(0)
        assert math.isclose(-estimator.loss(pair.model, pair.guide, x, y), (mean.sum() - kl).item(), abs_tol=0.4)
    ours, pyros = SGVB_A(1), Trace_ELBO()
    torch.manual_seed(1)
    ours_loss = ours.loss(*programs(pair), x, y)
    torch.manual_seed(1)
    assert math.isclose(ours_loss, pyros.loss(*programs(pair), x, y), rel_tol=1e-6)


def pair_loc() -> Tensor:
    return torch.tensor([0.3, -0.2])


class Normed(Concatenated):
    """Batch statistics in the encoder, which depend on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, dtype=torch.float64)

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        return super().decode(self.norm(z.view(len(z), -1)).squeeze(-1), x)


def test_batch_statistics_are_those_of_each_particle() -> None:
    pair = Normed()
    before = {name: value.clone() for name, value in pair.norm.named_buffers()}
    assert plan_of(*programs(pair), (X,), {}).how == "looped"
    assert all(torch.equal(value, before[name]) for name, value in pair.norm.named_buffers())
    assert plan_of(*programs(pair.eval()), (X,), {}).how == "repeated"


def test_programs_with_masks_and_packed_rows_train_and_are_weighed() -> None:
    class Masked(Concatenated):
        def decode(self, z: Tensor, x: Tensor) -> Tensor:
            found = torch.zeros(len(x), dtype=x.dtype)
            found[x > 0] = (self.w * z)[x > 0]  # as many as the data say
            return found

    pair = Masked()
    assert check(pair, X, estimator=IWAE(5)).particles == "repeated"
    exact = torch.where(X > 0, EXACT, dist.Normal(0.0, 1.0).log_prob(X))
    assert torch.allclose(importance(pair, X, 4000).log_prob, exact, atol=0.05)
    fit(pair, X, estimator=IWAE(3), epochs=2, batch_size=3, compile="eager")


def test_an_autoguide_of_local_latents_keeps_its_draws_apart() -> None:
    model = Concatenated().model
    guide = AutoNormal(model, init_scale=1.0)
    pair = Pair(model, guide)
    assert torch.allclose(importance(pair, X, 1000).log_prob, EXACT, atol=0.15)


def test_several_particles_of_a_program_whose_sites_differ_from_run_to_run_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            if z.view(len(x))[0] > 0:
                pyro.sample("more", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="'more' is drawn in one run"):
        SGVB_A(20).bound(Pair(model, guide), X.float())


def test_a_subsample_is_the_same_in_model_and_guide() -> None:
    table = torch.arange(12.0)

    def program(is_model: bool) -> Any:
        def run(x: Tensor) -> None:
            with pyro.plate("data", 12, subsample_size=4) as rows:
                assert len(rows) == 4
                z = pyro.sample("z", dist.Normal(table[rows].view(4), 1.0))
                if is_model:
                    pyro.sample("x", dist.Normal(z.view(4), 1.0), obs=table[rows])

        return run

    model, guide = program(True), program(False)
    assert plan_of(model, guide, (table,), {}).how == "looped"
    torch.manual_seed(0)
    # p(z) and q(z) are the same where both have met the same rows
    losses = [SGVB_A(3).loss(model, guide, table) for _ in range(200)]
    exact = 12 * (0.5 * math.log(2 * math.pi) + 0.5)
    error = torch.tensor(losses).std().item() / 200**0.5
    assert abs(sum(losses) / 200 - exact) < 4 * error


@pytest.mark.parametrize("how", HOWS[1:])
def test_what_a_number_asks_of_a_pair_is_asked_in_every_way(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    class Moving(Gaussian):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Uniform(self.loc * x - 1, self.loc * x + 1))

    pair, estimator = Moving(), DReG(2)
    monkeypatch.setattr(estimator, "_plan", lambda call: Plan(how, 1))
    with pytest.raises(ValueError, match=r"needs q\(z\) on all of the support"):
        estimator.loss(pair.model, pair.guide, X)
