"""Random small pairs: every number of the library is right, or refused in a sentence; and the judge itself is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from fuzzing.compose import TRAITS, compose
from fuzzing.judge import Judge, answers, needless
from fuzzing.programs import Draw, Grid, Let, Loop, Mask, Noise, Param, Plate, Sample, Scale
from fuzzing.recipes import Recipe, log_evidence, log_mean_exp, weights
from fuzzing.truth import ASKS, Broken, Refused, asked
from pyro_vae import SGVB_A, DReG, PairError, evidence
from pyro_vae.estimators import ImportanceWeighted

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def recipe(*body: Any, outside: tuple[Any, ...] = (), num_inner: int = 1, **data: Tensor) -> Recipe:
    return Recipe(0, [*outside, Plate("data", "data", "len(x)", body)], [], data, {}, num_inner)


def covered(*rows: list[float]) -> Any:
    return torch.tensor(rows, dtype=torch.float64)


MOVES = [[0.3, 0.7], [0.8, 0.2]]


def hidden_markov(x: Tensor) -> Tensor:
    """Two steps of a chain of two states that is seen at its end, summed by hand."""
    last = torch.tensor(MOVES[0], dtype=torch.float64) @ torch.tensor(MOVES, dtype=torch.float64)
    return torch.stack([dist.Normal(s, 0.5).log_prob(x) for s in (0.0, 1.0)]).add(last.log()[:, None]).logsumexp(0)


def quadrature(x: Tensor) -> Tensor:
    """z0 ~ U(0, 1), z1 ~ U(0, 1 + z0), x ~ N(z0 + z1, 1), by midpoints."""
    u = (torch.arange(1000).double() + 0.5) / 1000
    z0, z1 = u[:, None], u * (1 + u[:, None])
    return log_mean_exp(dist.Normal((z0 + z1).reshape(-1, 1), 1.0).log_prob(x))


CLOSED: dict[str, tuple[Recipe, Callable[[], Tensor]]] = {
    "normal": (
        recipe(
            Sample("z0", "dist.Normal(0.2, 1.0)"),
            Sample("z1", "dist.Normal(0.5 * z0, 1.2)"),
            Sample("x", "dist.Normal(z0 - z1, 0.8)", obs="x"),
            x=X,
        ),
        lambda: dist.Normal(0.1, math.sqrt(0.25 + 1.44 + 0.64)).log_prob(X),
    ),
    "event": (
        recipe(
            Sample("z", "dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))"),
            Sample("x", "dist.Normal(z.sum(-1), 1.0)", obs="x"),
            x=X,
        ),
        lambda: dist.Normal(torch.zeros(()).double(), 2.0).log_prob(X),
    ),
    "counts": (
        recipe(
            Sample("z", "dist.Gamma(torch.tensor(2.0), torch.tensor(1.0))"),
            Sample("x", "dist.Poisson(z)", obs="x"),
            x=torch.tensor([0.0, 3.0, 1.0]).double(),
        ),
        lambda: dist.NegativeBinomial(torch.tensor(2.0).double(), probs=torch.tensor(0.5).double()).log_prob(
            torch.tensor([0.0, 3.0, 1.0]).double()
        ),
    ),
    "coins": (
        recipe(
            Sample("z", "dist.Beta(torch.tensor(2.0), torch.tensor(3.0))"),
            Sample("x", "dist.Bernoulli(probs=z)", obs="x"),
            x=torch.tensor([0.0, 1.0]).double(),
        ),
        lambda: torch.tensor([0.6, 0.4]).double().log(),
    ),
    "markov": (
        recipe(
            Let("s", "torch.zeros(()).long()"),
            Loop(
                "pyro.markov(range(2))", 2, [Sample("s_{t}", f"dist.Categorical(torch.tensor({MOVES})[s])")]
            ),
            Sample("x", "dist.Normal(1.0 * s, 0.5)", obs="x"),
            x=X,
        ),
        lambda: hidden_markov(X),
    ),
    "inner": (
        recipe(
            Sample("z", "dist.Normal(0.0, 1.0)"),
            Plate("inner", "inner", "2", [
                Sample("y", "dist.Normal(z, 1.0)"), Sample("x", "dist.Normal(y, 1.0)", obs="x.T")
            ]),
            num_inner=2,
            x=covered([0.5, 1.0], [-1.0, 2.0]),
        ),
        lambda: dist.MultivariateNormal(torch.zeros(2).double(), covered([3.0, 1.0], [1.0, 3.0])).log_prob(
            covered([0.5, 1.0], [-1.0, 2.0])
        ),
    ),
    "global": (
        recipe(
            Sample("z", "dist.Normal(g, 1.0)"),
            Sample("x", "dist.Normal(z, 1.0)", obs="x"),
            outside=(Sample("g", "dist.Normal(0.0, 1.0)"),),
            x=X,
        ),
        lambda: dist.MultivariateNormal(torch.zeros(3).double(), 2 * torch.eye(3).double() + 1).log_prob(X),
    ),
    "masked, scaled": (
        recipe(
            Scale("3.0", [Mask("m", [Sample("z", "dist.Normal(0.0, 1.0)")])]),
            Mask("m", [Sample("x", "dist.Normal(z, 1.0)", obs="x")]),
            x=X,
            m=torch.tensor([True, False, True]),
        ),
        lambda: torch.where(
            torch.tensor([True, False, True]), dist.Normal(torch.zeros(()).double(), math.sqrt(2)).log_prob(X), 0.0
        ),
    ),
    "noise": (
        recipe(Noise("eps", "x.shape"), Sample("x", "dist.Normal(eps, 1.0)", obs="x"), x=X),
        lambda: dist.Normal(torch.zeros(()).double(), math.sqrt(2)).log_prob(X),
    ),
    "moving": (
        recipe(
            Sample("z0", "dist.Uniform(torch.zeros(()), torch.ones(()))"),
            Sample("z1", "dist.Uniform(torch.zeros(()), 1 + z0)"),
            Sample("x", "dist.Normal(z0 + z1, 1.0)", obs="x"),
            x=X,
        ),
        lambda: quadrature(X),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_evidence_is_that_of_a_closed_form(name):
    made, closed = CLOSED[name]
    torch.testing.assert_close(log_evidence(made), closed(), rtol=1e-6, atol=1e-6)


def programs(count: int, without: set[str]) -> Iterator[Recipe]:
    """Recipes as they are composed, with the parameters of the guide as they come."""
    for seed in range(count):
        made = compose(seed, fit=False)
        if not without & set(made.features):
            yield made


#: What the code draws otherwise than the interpreter, or at lower precision.
UNLIKE = {
    "subsample inside", "noise in the model", "noise in the guide", "autoguide", "point guide", "no data plate",
    "one latent for all data",
}  # fmt: skip


def test_code_and_interpreter_are_one_program():
    """Each density of a run of the code is that of the interpreter at the same values, also masked and scaled."""
    compared = 0
    for made in programs(120, UNLIKE):
        pair, batch = made.pair(), made.batch()
        times = 4 if "size of all data" in made.features else 1
        for which in ("model", "guide"):
            trace = poutine.trace(getattr(pair, which)).get_trace(*batch)
            trace.compute_log_prob()
            nodes: Any = trace.nodes
            values = {n: s["value"] for n, s in nodes.items() if s["type"] == "sample" and not s["is_observed"]}
            for term in made.interpreter(Draw(1), values=values).run(getattr(made, which)).terms:
                if term.kind == "observed" and "obs_mask" in made.features:
                    continue  # two sites of the code
                data, inner = int(term.level != "outside"), int(term.level == "inner")
                plates = torch.ones(made.num_inner if inner else 1, made.num if data else 1)
                found = (term.weighed * plates).sum() * (times if data else 1)
                right = nodes[term.name]["log_prob"].sum()
                assert found.item() == pytest.approx(right.item(), rel=1e-4, abs=1e-4), f"{term.name} of {made}"
                compared += 1
    assert compared > 300


def test_sums_over_a_grid_are_means_of_draws():
    for made in programs(60, {"autoguide", "point guide", "impossible value"}):
        on_grid, drawn = weights(made, Grid()), weights(made, Draw(4000)).draws().expand(-1, made.num)
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert ((drawn.mean(0) - on_grid.elbo()).abs() < 5 * error + 1e-6).all(), made


def test_a_narrow_guide_is_not_resolved():
    def resolved(scale: float) -> bool:
        model, guide = (
            [Plate("data", "data", "len(x)", [Sample("z", f"dist.LogNormal(0.1, {s})")])] for s in (1.0, scale)
        )
        return weights(Recipe(0, model, guide, {"x": X}), Grid()).is_resolved

    assert resolved(0.5)
    assert not resolved(0.06)


# The judge


def findings(judge: Judge, what: str) -> set[str]:
    return {outcome.kind for outcome in judge.outcomes if outcome.what == what}


@pytest.fixture
def plain() -> Judge:
    """A judge of a pair in which nothing is wrong: z ~ N(0, 1), x ~ N(z, 1), and a guide that is not the posterior."""
    model = [Plate("data", "data", "len(x)", [
        Sample("z", "dist.Normal(0.0, 1.0)"), Sample("x", "dist.Normal(p0 + z, 1.0)", obs="x")
    ])]  # fmt: skip
    guide = [Plate("data", "data", "len(x)", [Sample("z", "dist.Normal(q0 * x, torch.exp(q1))")])]
    params = [Param("p0", 0.1)], [Param("q0", 0.3), Param("q1", -0.2)]
    judge = Judge(Recipe(1, [*params[0], *model], [*params[1], *guide], {"x": X}, {}), gradients=True)
    judge.asks = {name: ASKS[name] for name in ("SGVB_A", "SGVB_B", "IWAE", "DReG", "VIMCO", "Enumeration")}
    return judge


def test_what_is_right_is_right(plain):
    assert {outcome.kind for outcome in plain.run()} <= {"right", "refused"}
    assert not needless(plain.recipe, plain.outcomes)


def test_the_scale_of_a_latent_is_a_beta_of_its_weights():
    """The gradient is that of E log mean exp(log p(x | z) + 3 (log p(z) - log q(z | x))), and not of the bound."""
    p = Scale("3.0", [Sample("z", "dist.Bernoulli(0.2)")]), Sample("x", "dist.Normal(p0 + z, 1.0)", obs="x")
    q = Scale("3.0", [Sample("z", "dist.Bernoulli(logits=q0 - x)")])
    model = [Param("p0", 0.1), Plate("data", "data", "len(x)", p)]
    guide = [Param("q0", 1.0), Plate("data", "data", "len(x)", [q])]
    judge = Judge(Recipe(1, model, guide, {"x": X}, {"scale a latent": ("both", "3.0")}), gradients=True)
    judge.asks = {name: ASKS[name] for name in ("VIMCO", "ScoreFunction")}
    judge.run()
    assert findings(judge, "VIMCO.gradient") == findings(judge, "ScoreFunction.gradient") == {"right"}


def test_what_is_off_by_chance_is_asked_again(plain):
    answers = iter(["off", "", "off", "off", "off", "off", "not asked for"])
    for what in ("by chance", "always"):
        plain.ask(what, lambda turn: next(answers), lambda answer, turn: answer)
    assert (findings(plain, "by chance"), findings(plain, "always")) == ({"right"}, {"wrong"})
    assert list(answers) == ["not asked for"]


def shifted(method: Callable[..., Any], by: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: by(method(*args, **kwargs))


@pytest.mark.parametrize("by", [0.2, -0.2])
def test_a_bound_that_is_off_is_found(plain, monkeypatch, by):
    monkeypatch.setattr(ImportanceWeighted, "reduce", shifted(ImportanceWeighted.reduce, lambda value: value + by))
    plain.run()
    assert findings(plain, "IWAE.bound") == findings(plain, "VIMCO.bound") == {"wrong"}
    assert findings(plain, "SGVB_A.bound") == {"right"}


def test_a_gradient_that_is_off_is_found(plain, monkeypatch):
    monkeypatch.setattr(ImportanceWeighted, "curvature", lambda self, log_w: 0.7 * (1 - self.weights(log_w)))
    plain.run()
    assert findings(plain, "DReG.gradient") == {"wrong"}
    assert findings(plain, "IWAE.gradient") == {"right"}
    assert isinstance(DReG(2), DReG)


def test_evidence_that_is_off_is_found(plain, monkeypatch):
    def off(self: Any, *args: Any) -> Tensor:
        return log_weights(self, *args) + 0.15

    log_weights = SGVB_A.log_weights
    monkeypatch.setattr(SGVB_A, "log_weights", off)
    plain.run()
    assert findings(plain, "importance") == {"wrong"}


def test_an_error_is_a_refusal_only_in_a_sentence_of_the_library():
    def unseen() -> None:
        evidence.importance(object(), X)

    with pytest.raises(Refused, match="a pair has two methods"):
        asked(unseen)
    with pytest.raises(Broken, match="KeyError"):
        asked(lambda: {}["z"])
    with pytest.raises(Broken, match="RuntimeError"):
        asked(lambda: torch.zeros(2) + torch.zeros(3))

    def of_another() -> None:
        raise PairError(["A sentence that is not the library's."])

    with pytest.raises(Broken):
        asked(of_another)


def test_every_trait_is_composed():
    missing = [t for t in TRAITS if not any(t in compose(seed, [t], fit=False).features for seed in range(20))]
    assert not missing


# The fuzz


@pytest.mark.slow
@pytest.mark.parametrize("start", range(7000, 7080, 4))
def test_every_number_is_right_or_refused(start):
    wrong = []
    for seed in range(start, start + 4):
        made, outcomes = answers(seed)
        found = [o for o in outcomes if o.is_finding]
        wrong += [f"{made}\n" + "\n".join(f"  {o.kind}: {o.what}: {o.detail}" for o in found)] if found else []
    assert not wrong, "\n\n".join(wrong)
