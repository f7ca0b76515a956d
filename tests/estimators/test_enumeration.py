"""Enumeration where Pyro contracts: plates within a datum, chains, what the data share; and the default of fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_same, gradients, seeded
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn

import pyro_vae
from pyro_vae import Enumeration, Pair, check
from pyro_vae.pair import programs
from pyro_vae.pair.particles import Plan

X = torch.tensor([[0.5, -1.0, 2.0, 0.3], [1.2, 0.1, -0.7, 0.9], [2.2, -0.4, 0.6, 1.8]])  # [B, T]
B, T = X.shape
TRANS = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
LOCS = torch.tensor([-0.5, 1.5])


BESIDE = ("chain, coin", "chain, guided, coin")
COIN, Q = dist.Bernoulli(0.3), dist.Bernoulli(0.8)


class Program(nn.Module):
    """Sites by name, in model and guide, as the cases below need them."""

    def __init__(self, case: str, size: int = B, full_size: int | None = None) -> None:
        super().__init__()
        self.case, self.size, self.full_size = case, size, full_size or size
        self.logit, self.locs = nn.Parameter(torch.tensor([0.3, -0.4])), nn.Parameter(LOCS.clone())
        self.w, self.s = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(-1.0))

    @property
    def data(self) -> Any:
        return pyro.plate("data", self.full_size, subsample=torch.arange(self.size), dim=-1)

    def see(self, x: Tensor, y: Tensor, shift: Any = 0.0, name: str = "x") -> None:
        pyro.sample(name, dist.Normal(self.locs[y] + shift, 1.0), obs=x)

    def model(self, x: Tensor) -> None:
        pyro.module("program", self)
        mix = dist.Categorical(torch.tensor([0.6, 0.4]))
        if self.case == "global":  # w of all data, y of each
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with self.data:
                self.see(x[:, 0], pyro.sample("y", mix), w)
        elif self.case == "global coin":  # y of all data
            y = pyro.sample("y", mix)
            with self.data:
                self.see(x[:, 0], y)
        elif self.case in ("nested", "nested, guided"):  # y of each step of a datum, h of a datum
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with self.data:
                h = pyro.sample("h", dist.Bernoulli(0.3))
                with pyro.plate("steps", T, dim=-2):
                    y = pyro.sample("y", dist.Categorical(torch.stack([0.3 + 0.4 * h, 0.7 - 0.4 * h], -1)))
                    self.see(x.T, y, w)
        else:  # a chain
            with self.data:
                if self.case in BESIDE:
                    h = pyro.sample("h", COIN)
                    pyro.sample("u", dist.Normal(h, 1.0), obs=x[:, 0])
                y = torch.zeros(self.size, dtype=torch.long)
                for t in pyro.markov(range(T)):
                    y = pyro.sample(f"y{t}", dist.Categorical(TRANS[y]))
                    self.see(x[:, t], y, name=f"x{t}")

    def guide(self, x: Tensor) -> None:
        pyro.module("program", self)
        q = dist.Categorical(logits=self.logit)
        if self.case in ("global", "nested", "nested, guided"):
            pyro.sample("w", dist.Normal(self.w, self.s.exp()))
        if self.case in ("global", "nested, guided"):
            with self.data:
                if self.case == "global":
                    pyro.sample("y", q)
                else:
                    pyro.sample("h", dist.Bernoulli(logits=self.logit[0]))
                    with pyro.plate("steps", T, dim=-2):
                        pyro.sample("y", q)
        elif self.case == "global coin":
            pyro.sample("y", q)
        elif self.case in (*BESIDE, "chain, guided"):
            with self.data:
                if self.case in BESIDE:
                    pyro.sample("h", Q)
                if self.case == "chain, coin":
                    return
                y = torch.zeros(self.size, dtype=torch.long)
                for t in pyro.markov(range(T)):
                    y = pyro.sample(f"y{t}", dist.Categorical(logits=torch.stack([self.logit, -self.logit])[y]))


CASES = ["global", "global coin", "nested", "nested, guided", "chain", "chain, guided"]
NESTED = ("nested", "nested, guided")


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("full_size", [B, 12])
@pytest.mark.parametrize("case", CASES)
def test_it_trains_as_pyros(case: str, full_size: int, particles: int) -> None:
    pair, nesting = Program(case, full_size=full_size), 1 + (case in NESTED)
    model, guide = programs(pair)
    marked = config_enumerate(model), config_enumerate(guide)
    ours = Enumeration(particles)
    theirs = TraceEnum_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=nesting)
    assert seeded(1, ours.loss, model, guide, X) == pytest.approx(seeded(1, theirs.loss, *marked, X), rel=1e-5)
    assert_same(
        gradients(pair, lambda: ours.loss_and_grads(model, guide, X)),
        gradients(pair, lambda: theirs.loss_and_grads(*marked, X)),
    )
    # For each datum it is the same number: what the data share counts 1/N, here in all N = full_size of them.
    bound = seeded(1, ours.bound, pair, X)
    assert -bound.mean().item() * full_size == pytest.approx(seeded(1, ours.loss, model, guide, X), rel=1e-5)
    objective = seeded(1, ours.objective, model, guide, X)
    assert objective.bound.item() == pytest.approx(bound.mean().item(), rel=1e-5)
    assert objective.loss.item() == pytest.approx(-bound.mean().item(), rel=1e-5)
    terms = seeded(1, ours.terms, pair, X)
    total = sum({"log_p": 1, "log_q": -1}[kind] * value for site in terms.values() for kind, value in site.items())
    torch.testing.assert_close(total.expand(particles, B).mean(0), bound, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", BESIDE)
def test_a_coin_beside_a_chain(case: str) -> None:
    """Each counts by itself; Pyro, with both programs marked, takes the coin's dimension for the chain's."""
    pair, alone = Program(case), Program(case.removesuffix(", coin"))
    values = torch.tensor([[0.0], [1.0]])
    each = COIN.log_prob(values) + dist.Normal(values, 1.0).log_prob(X[:, 0]) - Q.log_prob(values)
    right = (Q.log_prob(values).exp() * each).sum(0) + Enumeration().bound(alone, X)
    torch.testing.assert_close(Enumeration().bound(pair, X), right)
    assert Enumeration().loss(*programs(pair), X) == pytest.approx(-right.sum().item(), rel=1e-5)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_program_that_runs_once_for_each_particle(particles: int) -> None:
    """z costs nothing, as it is of its prior, so that the sum over y is exact for any number of draws."""
    weights, logits = torch.tensor([0.3, 0.7]), torch.tensor([0.5, -0.2])

    def z_of_one_dimension() -> None:
        if pyro.sample("z", dist.Normal(0.0, 1.0)).dim() > 1:
            raise RuntimeError("z has one dimension here.")

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z_of_one_dimension()
            y = pyro.sample("y", dist.Categorical(weights))
            with pyro.plate("steps", T, dim=-2):
                pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z_of_one_dimension()
            pyro.sample("y", dist.Categorical(logits=logits.expand(len(x), 2)))

    q = logits.softmax(0)
    right = (q * (weights.log() + dist.Normal(LOCS, 1.0).log_prob(X[..., None]).sum(1) - q.log())).sum(-1)
    torch.testing.assert_close(Enumeration(particles).bound(Pair(model, guide), X), right)


def test_a_chain_is_the_forward_algorithm() -> None:
    emission = dist.Normal(LOCS, 1.0)
    forward = TRANS[0].log() + emission.log_prob(X[:, 0, None])
    for t in range(1, T):
        forward = (forward[..., None] + TRANS.log()).logsumexp(-2) + emission.log_prob(X[:, t, None])
    log_p = forward.logsumexp(-1)
    torch.testing.assert_close(Enumeration().bound(Program("chain"), X), log_p)


def test_plates_within_a_datum_are_exact() -> None:
    """w drawn, and for each datum a sum over h of products over steps of sums over y."""
    pair = Program("nested")
    torch.manual_seed(1)
    w = dist.Normal(pair.w, pair.s.exp()).sample().detach()
    of_h = []
    for h, p in ((0.0, 0.7), (1.0, 0.3)):
        log_y = torch.tensor([0.3 + 0.4 * h, 0.7 - 0.4 * h]).log()
        of_h.append(math.log(p) + (log_y + dist.Normal(LOCS + w, 1.0).log_prob(X[..., None])).logsumexp(-1).sum(1))
    shared = (dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(pair.w, pair.s.exp()).log_prob(w)).detach()
    exact = torch.stack(of_h).logsumexp(0)
    torch.testing.assert_close(seeded(1, Enumeration().bound, pair, X), exact + shared / B)
    torch.testing.assert_close(seeded(1, Enumeration(num_data=60).bound, pair, X), exact + shared / 60)
    torch.testing.assert_close(seeded(1, Enumeration(num_data=math.inf).bound, pair, X), exact)
    mean = seeded(1, Enumeration(num_data=60).mean_bound, pair, [(X,)])
    assert mean == pytest.approx((exact.mean() + shared / 60).item(), rel=1e-5)


@pytest.mark.parametrize("case", ["global", "global coin", "nested", "nested, guided"])
def test_what_the_data_share_counts_once_whatever_the_batches(case: str) -> None:
    whole, part, told = Program(case), Program(case, size=1), Enumeration(num_data=B)
    of_all = seeded(1, Enumeration().objective, *programs(whole), X).loss
    of_each = [seeded(1, told.objective, *programs(part), x[None]).loss for x in X]
    torch.testing.assert_close(torch.stack(of_each).mean(), of_all)
    bounds = [seeded(1, told.bound, part, x[None]) for x in X]
    torch.testing.assert_close(torch.cat(bounds), seeded(1, Enumeration().bound, whole, X))
    # In Pyro's scale it counts once for each batch.
    assert seeded(1, told.loss, *programs(whole), X) == seeded(1, Enumeration().loss, *programs(whole), X)


def shared_coin(x: Tensor) -> None:
    """y of all data, in the model alone."""
    loc = pyro.param("loc", LOCS.clone())
    y = pyro.sample("y", dist.Categorical(torch.tensor([0.6, 0.4])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc[y], 1.0), obs=x)


def test_a_sum_over_all_data_trains_and_has_no_number_for_each() -> None:
    pair, x = Pair(shared_coin, lambda x: None), X[:, 0]
    exact = (torch.tensor([0.6, 0.4]).log() + dist.Normal(LOCS, 1.0).log_prob(x[:, None]).sum(0)).logsumexp(0)
    assert Enumeration().loss(*programs(pair), x) == pytest.approx(-exact.item(), rel=1e-5)
    for call in (Enumeration().bound, Enumeration().terms):
        with pytest.raises(ValueError, match="sums 'y' over the joint probability of all data"):
            call(pair, x)
    with pytest.raises(ValueError, match=r"'y', which all data share, .* a batch has 3 of 60"):
        Enumeration().objective(*programs(pair), x, num_data=60)
    with pytest.warns(UserWarning, match=r"fit takes Enumeration\(\): 'y' is discrete"):
        run = pyro_vae.fit(pair, x, epochs=1, batch_size=B, compile="eager", progress=False)
    assert run.history[0]["train"] == pytest.approx(exact.item() / B, rel=1e-5)

    with pytest.raises(ValueError, match="sums 'y' over the joint probability of all data"):
        pyro_vae.fit(pair, (x, x), estimator=Enumeration(), epochs=1, batch_size=B, progress=False)


def test_without_plates_it_is_pyros() -> None:
    """In ``SVI``, which asks for no number of each datum."""

    def model(x: Tensor) -> None:
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.6, 0.4])))
        z = pyro.sample("z", dist.Normal(LOCS[y], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([B]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x.mean(), 0.5))

    theirs = seeded(1, TraceEnum_ELBO(max_plate_nesting=1).loss, config_enumerate(model), guide, X[:, 0])
    assert seeded(1, Enumeration().loss, model, guide, X[:, 0]) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("how", ["vectorized", "repeated", "looped"])
@pytest.mark.parametrize("case", ["chain", "chain, guided"])
def test_it_contracts_in_every_way_of_particles(case: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn along the chains, so that particles are alike."""
    pair, several = Chain(case), Enumeration(3)
    monkeypatch.setattr(several, "_plan", lambda call: Plan(how, 1))
    torch.testing.assert_close(several.bound(pair, X), Enumeration().bound(pair, X))
    found = [gradients(pair, lambda e=e: e.loss_and_grads(*programs(pair), X)) for e in (several, Enumeration())]
    assert_same(*found)
    terms = several.terms(pair, X).values()
    assert {value.shape for site in terms for _, value in site.items()} == {torch.Size([3, B])}


class Chain(Program):
    """One that takes more data than it was made for."""

    @property
    def data(self) -> Any:
        return pyro.plate("data", self.size, dim=-1)

    def model(self, x: Tensor) -> None:
        self.size = len(x)
        super().model(x)

    def guide(self, x: Tensor) -> None:
        self.size = len(x)
        super().guide(x)


@pytest.mark.parametrize("case", ["nested", "nested, guided", "chain"])
def test_a_scale_and_beta_weigh_the_contraction(case: str) -> None:
    pair, nesting = Program(case), 1 + (case in NESTED)
    half = poutine.scale(scale=0.5)
    model, guide = half(pair.model), half(pair.guide)
    theirs = TraceEnum_ELBO(max_plate_nesting=nesting)
    expected = seeded(1, theirs.loss, config_enumerate(model), config_enumerate(guide), X)
    assert seeded(1, Enumeration().loss, model, guide, X) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        seeded(1, Enumeration().bound, Pair(model, guide), X), seeded(1, Enumeration().bound, pair, X)
    )
    terms = seeded(1, Enumeration().terms, pair, X)
    latent = {name for name in terms if not name.startswith("x")}
    weighed = sum(
        (0.3 if name in latent else 1.0) * {"log_p": 1, "log_q": -1}[kind] * value
        for name, site in terms.items()
        for kind, value in site.items()
    )
    found = seeded(1, Enumeration(beta=0.3).loss, *programs(pair), X)
    assert found == pytest.approx(-weighed.expand(B).sum().item(), rel=1e-5)


def test_scales_that_differ_within_a_sum_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("steps", T, dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.3))
            with poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(y, 1.0), obs=x.T)

    with pytest.raises(ValueError, match=r"sums y, x over the values .* need one poutine.scale"):
        Enumeration().loss(model, lambda x: None, X)


# The default of fit


@config_enumerate
def mixture(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[y], 1.0), obs=x)


def local(p: Callable[[Tensor], Any], q: Callable[[Tensor], Any] | None = None, infer: Any = None) -> Any:
    """y ~ p, x | y ~ N(y, 1), and q if there is one."""

    def make() -> Pair:
        weight = nn.Parameter(torch.tensor(0.3))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", p(x), infer=dict(infer or {}))
                pyro.sample("x", dist.Normal(weight * (y.sum(-1) if p(x).event_shape else y), 1.0), obs=x)

        def guide(x: Tensor) -> None:
            if q is not None:
                with pyro.plate("data", len(x)):
                    pyro.sample("y", q(x), infer=dict(infer or {}))

        pair = Pair(model, guide)
        pair.weight = weight
        return pair

    return make


def coins(x: Tensor) -> Any:
    return dist.Bernoulli(torch.full((len(x), 2), 0.4)).to_event(1)


@pytest.mark.parametrize(
    ("make", "kind", "why"),
    [
        (lambda: Pair(mixture, AutoDelta(poutine.block(mixture, hide=["y"]))), "Enumeration", "'y' is discrete"),
        (local(lambda x: dist.Bernoulli(0.3)), "Enumeration", "'y' is discrete"),
        (local(lambda x: dist.Bernoulli(0.3), lambda x: dist.Bernoulli(0.5)), "Enumeration", "'y' is discrete"),
        (local(lambda x: dist.Poisson(2.0), lambda x: dist.Poisson(1.0)), "ScoreFunction", "'y' is a Poisson, which"),
        (local(lambda x: dist.Poisson(2.0)), "ScoreFunction", "'y' is a Poisson, which cannot be enumerated"),
        (local(coins, coins), "ScoreFunction", "Bernoulli with to_event"),
        (
            local(lambda x: dist.Bernoulli(0.3), infer={"enumerate": None}),
            "ScoreFunction",
            "marked by infer= otherwise",
        ),
        (local(lambda x: dist.Bernoulli(0.3), infer={"enumerate": "parallel"}), "Enumeration", "'y' is discrete"),
        (local(lambda x: dist.Normal(0.0, 1.0), lambda x: dist.Normal(0.1, 1.0)), "SGVB_B", ""),
    ],
)
@pytest.mark.filterwarnings("error:Found vars in model but not guide")
def test_the_default_looks_at_the_latents(make: Any, kind: str, why: str, tmp_path: Any) -> None:
    pair, x = make(), X.flatten()
    check(pair, x)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.filterwarnings("error", message="Found vars")
        run = pyro_vae.fit(pair, x, epochs=1, batch_size=6, compile="eager", progress=False)
    notes = [str(warning.message) for warning in said if "fit takes" in str(warning.message)]
    assert notes == run.notes
    assert len(notes) == bool(why)
    if why:
        assert f"fit takes {kind}()" in notes[0]
        assert why in notes[0]
    terms = run.history[0]["terms"]["x"]
    assert math.isfinite(terms["log_p"])


def test_what_fails_with_all_values_at_once_is_drawn() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("x", dist.Normal(torch.stack([y, x], -1).sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1)).expand(len(x))))

    with pytest.warns(UserWarning, match=r"fit takes ScoreFunction\(\), .* since .*all of its values at once"):
        pyro_vae.fit(Pair(model, guide), X.flatten(), epochs=1, batch_size=6, compile="eager", progress=False)


@pytest.mark.parametrize("contracted", [False, True])
def test_a_mask_of_a_distribution_leaves_the_probabilities_of_values(contracted: bool) -> None:
    """Of a latent that is masked in both programs, beside one that is not, and of one that ``obs_mask`` makes."""
    x, seen = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([False, True, True])
    place = {"dim": -2} if contracted else {}

    def laid(value: Tensor) -> Tensor:
        return value[:, None] if contracted else value

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), **place):
            k = pyro.sample("k", dist.Bernoulli(laid(torch.full((3,), 0.2))))
            pyro.sample("masked", dist.Bernoulli(laid(torch.full((3,), 0.6))).mask(laid(seen)))
            with pyro.plate("columns", 2) if contracted else nullcontext():
                shape = (*k.shape[: -1 - contracted], 3, *([2] if contracted else []))
                fn, seen_all = (
                    dist.Bernoulli((0.1 + 0.5 * k).expand(shape)),
                    laid(seen).expand(shape[-1 - contracted :]),
                )
                pyro.sample("x", fn.mask(seen_all), obs=laid(x).expand(shape[-1 - contracted :]), obs_mask=seen_all)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), **place):
            pyro.sample("k", dist.Bernoulli(laid(torch.full((3,), 0.3))))
            pyro.sample("masked", dist.Bernoulli(laid(torch.full((3,), 0.4))).mask(laid(seen)))

    log_x = torch.stack([dist.Bernoulli(p).log_prob(x) * seen * (1 + contracted) for p in (0.1, 0.6)], -1)
    q, p = torch.tensor([0.7, 0.3]), torch.tensor([0.8, 0.2])
    masked = -1.0 * seen * (0.4 * math.log(0.4 / 0.6) + 0.6 * math.log(0.6 / 0.4))
    expected = (q * (log_x + (p / q).log())).sum(-1) + masked
    assert torch.allclose(Enumeration().bound(Pair(model, guide), x), expected, atol=1e-6)
