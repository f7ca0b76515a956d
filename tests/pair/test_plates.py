"""Plates of other names, places and sizes: the plate over the data is found, and the numbers are those of the datum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vae import IWAE, SGVB_A, SGVB_B, DReG, Pair, ScoreFunction, check, fit
from pyro_vae.evidence import ais, importance
from pyro_vae.pair import data_frame, run

X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 0.1]])
EXACT = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1).log_prob(X)
TOTAL = EXACT.sum().item()


def of_rows(name: str, dim: int, columns: Callable[[Tensor], Any], sized: bool = True) -> Pair:
    """z ~ N(0, 1) for each row of x, and x_j ~ N(z, 1) for each of its numbers."""

    def plate(x: Tensor) -> Any:
        return pyro.plate(name, len(x), dim=dim) if sized else pyro.plate(name, dim=dim)

    def shape(x: Tensor) -> tuple[int, ...]:
        return (len(x), *[1] * (-1 - dim))

    def model(x: Tensor) -> None:
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(shape(x)), 1.0))
            columns(x)(z, x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.6))
        with plate(x):
            pyro.sample("z", dist.Normal(slope * x.mean(1).reshape(shape(x)), 0.7))

    return Pair(model, guide)


def in_a_plate(dim: int) -> Callable[[Tensor], Any]:
    def observe(z: Tensor, x: Tensor) -> None:
        with pyro.plate("columns", x.shape[1], dim=dim):
            value = x if dim == -1 else x.t()
            pyro.sample("x", dist.Normal(z, 1.0), obs=value)

    return lambda x: observe


def one_by_one(x: Tensor) -> Any:
    def observe(z: Tensor, x: Tensor) -> None:
        for j in pyro.plate("columns", x.shape[1]):
            pyro.sample(f"x_{j}", dist.Normal(z, 1.0), obs=x[:, j])

    return observe


def as_event(x: Tensor) -> Any:
    return lambda z, x: pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(2)).to_event(1), obs=x)


PAIRS = {
    "left of an inner plate": (of_rows("rows", -2, in_a_plate(-1)), -2),
    "right of an inner plate": (of_rows("rows", -1, in_a_plate(-2)), -1),
    "around a loop": (of_rows("rows", -1, one_by_one), -1),
    "called data, on the left": (of_rows("data", -2, in_a_plate(-1)), -2),
    "without a size": (of_rows("data", -1, as_event, sized=False), -1),
    "of another name without a size": (of_rows("rows", -1, as_event, sized=False), -1),
}
CASES = [pytest.param(*case, id=name) for name, case in PAIRS.items()]


@pytest.mark.parametrize(("pair", "dim"), CASES)
def test_the_plate_over_the_data(pair: Pair, dim: int) -> None:
    check(pair, X)
    frame = data_frame(run(pair, X).model_trace, len(X))
    assert (frame.dim, frame.size) == (dim, len(X))
    torch.manual_seed(0)
    bound = SGVB_A(2000).bound(pair, X)
    assert torch.allclose(bound, SGVB_B(2000).bound(pair, X), atol=0.15)
    for estimator in (IWAE(2000), DReG(2000)):
        assert torch.allclose(estimator.bound(pair, X), EXACT, atol=0.1)
    compile = "eager" if "x_0" in run(pair, X).model_trace.nodes else "auto"
    assert torch.allclose(importance(pair, X, 4000, compile=compile).log_prob, EXACT, atol=0.05)
    assert torch.allclose(
        ais(pair, X, num_chains=60, num_steps=60, num_leapfrog=3, compile=compile).log_prob, EXACT, atol=0.2
    )


@pytest.mark.parametrize(("pair", "dim"), CASES)
def test_losses_are_pyros(pair: Pair, dim: int) -> None:
    for num_particles in (1, 3):
        losses = []
        for elbo in (
            SGVB_A(num_particles, max_plate_nesting=2),
            Trace_ELBO(num_particles, max_plate_nesting=2, vectorize_particles=num_particles > 1),
        ):
            torch.manual_seed(1)
            losses.append(elbo.loss(pair.model, pair.guide, X))
        assert math.isclose(*losses, rel_tol=1e-5)


def test_a_plate_that_subsamples_trains_as_in_pyro() -> None:
    table = torch.randn(20, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x), subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.2))
        with pyro.plate("rows", len(x), subsample_size=5) as rows:
            pyro.sample("z", dist.Normal(slope * x[rows], 0.7))

    ours: list[float] = []
    pair = Pair(model, guide)
    check(pair, table)
    fit(
        pair,
        table,
        estimator=SGVB_A(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        batch_size=20,
        epochs=5,
        seed=3,
        compile="eager",
        progress=False,
        callbacks=[lambda run: ours.append(20 * run.history[-1]["loss"])],
    )
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    torch.manual_seed(3)
    assert len(ours) == 5
    scale = [svi.step(table) for _ in range(200)]
    assert abs(sum(ours) / 5 - sum(scale) / 200) < 4 * torch.tensor(scale).std().item() / 5**0.5
    with pytest.raises(ValueError, match="'rows' has 5 of 20"):
        importance(pair, table, 10)


def test_a_bound_of_data_that_cannot_be_told_apart_is_refused() -> None:
    square = X[:2]

    def program(is_model: bool) -> Any:
        def run(x: Tensor) -> None:
            with pyro.plate("one", 2, dim=-2), pyro.plate("other", 2, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2, 2), 1.0))
                if is_model:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return run

    model, guide = program(True), program(False)
    for call in (check, SGVB_A().bound, importance):
        with pytest.raises(ValueError, match=r"'one'.*'other'"):
            call(Pair(model, guide), square)
    torch.manual_seed(0)
    ours = ScoreFunction().loss(model, guide, square)
    torch.manual_seed(0)
    assert math.isclose(ours, Trace_ELBO().loss(model, guide, square), rel_tol=1e-6)


def table(name: str, columns: bool) -> Pair:
    """x_ij ~ N(z_i + u_j, 1), with or without a latent of each column."""

    def plates(x: Tensor) -> tuple[Any, Any]:
        return pyro.plate(name, len(x), dim=-2), pyro.plate("columns", x.shape[1], dim=-1)

    def model(x: Tensor) -> None:
        rows, of_columns = plates(x)
        u = torch.zeros(x.shape[1])
        if columns:
            with of_columns:
                u = pyro.sample("u", dist.Normal(torch.zeros(x.shape[1]), 1.0))
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with of_columns:
                pyro.sample("x", dist.Normal(z + u, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        rows, of_columns = plates(x)
        slope = pyro.param("slope", torch.tensor(0.3))
        if columns:
            with of_columns:
                pyro.sample("u", dist.Normal(slope * torch.ones(x.shape[1]), 0.5))
        with rows:
            pyro.sample("z", dist.Normal(slope * x.mean(1, keepdim=True), 0.5))

    return Pair(model, guide)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("size", "width"), [(5, 5), (5, 2)], ids=["N columns", "a last batch of as many"])
def test_as_many_columns_as_data(columns: bool, size: int, width: int) -> None:
    x = torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    runs = [fit(table(name, columns), x, estimator=SGVB_A(), epochs=1, batch_size=3) for name in ("rows", "data")]
    assert runs[0].history[-1]["loss"] == runs[1].history[-1]["loss"]
    assert SGVB_A(num_data=size).bound(table("rows", columns), x[:3]).shape == (3,)


def test_one_distribution_of_all_data_in_a_plate_without_a_size() -> None:
    """f ~ Beta(10, 10), x_i ~ Bernoulli(f): of Pyro's tutorial on SVI, where the data alone tell how many there are."""
    x = torch.tensor([1.0] * 6 + [0.0] * 4)

    def model(x: Tensor) -> None:
        f = pyro.sample("f", dist.Beta(10.0, 10.0))
        with pyro.plate("data_plate"):
            pyro.sample("x", dist.Bernoulli(f), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(15.0), constraint=dist.constraints.positive)
        pyro.sample("f", dist.Beta(a, 14.0))

    pair = Pair(model, guide)
    check(pair, x)
    torch.manual_seed(0)
    expected = Trace_ELBO().loss(pair.model, pair.guide, x)
    torch.manual_seed(0)
    assert SGVB_A().loss(pair.model, pair.guide, x) == pytest.approx(expected, rel=1e-5)
    beta = torch.distributions.Beta(16.0, 14.0)

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    exact = log_beta(16, 14) - log_beta(10, 10)
    rate = torch.distributions.kl_divergence(torch.distributions.Beta(15.0, 14.0), beta).item()
    torch.manual_seed(0)
    found = SGVB_A(20_000).loss(pair.model, pair.guide, x)
    assert found == pytest.approx(rate - exact, abs=0.01)
    with pytest.raises(ValueError, match="stands outside the data plate"):
        importance(pair, x)
