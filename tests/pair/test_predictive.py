"""What Pyro has for trained programs, on a pair trained by ``fit``: the same as on the programs trained by ``SVI``."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.pair import as_pair

X, Y = torch.linspace(-1, 1, 20)[:, None].repeat(1, 2), torch.linspace(-2, 3, 20)


def regression(x: Tensor, y: Tensor | None = None) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def by_hand(x: Tensor, y: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))
    pyro.sample("scale", dist.LogNormal(pyro.param("spread", torch.zeros(())), 0.1))


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.linear(x)[..., 0]
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def programs_of(kind: Any, model: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = model() if isinstance(model, type) else model
    return model, kind if kind is by_hand else kind(model)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (by_hand, regression),
        (AutoNormal, regression),
        (AutoDiagonalNormal, regression),
        (AutoMultivariateNormal, regression),
        (AutoNormal, Regression),
    ],
)
def test_after_training(kind: Any, model: Any) -> None:
    """Predictive draws, the quantiles of an AutoGuide, and the graph of the model."""
    steps, rate = 30, 0.05
    theirs = programs_of(kind, model)
    pyro.clear_param_store()
    torch.manual_seed(3)
    theirs[1](X, Y)  # an AutoGuide draws when it is first called
    svi = SVI(*theirs, pyro.optim.Adam({"lr": rate}), Trace_ELBO())
    torch.manual_seed(1)
    for _ in range(steps):
        svi.step(X, Y)
    ours = programs_of(kind, model)
    pair = pv.Pair(*ours)
    torch.manual_seed(3)
    pair.guide(X, Y)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=len(X))
    options: dict[str, Any] = {"compile": "eager", "progress": False, "seed": 1, "num_data": len(X)}
    pv.fit(pair, data, estimator=pv.SGVB_A(), epochs=steps, optimizer=lambda p: torch.optim.Adam(p, lr=rate), **options)

    def drawn(model: Any, guide: Any) -> dict[str, Tensor]:
        torch.manual_seed(2)
        found = Predictive(model, guide=guide, num_samples=40)(X)
        torch.manual_seed(2)
        return {**found, **{f"q {k}": v for k, v in Predictive(guide, num_samples=40)(X).items() if k in found}}

    expected = drawn(*theirs)
    found = drawn(as_pair(pair).model, as_pair(pair).guide)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)
    if kind is not by_hand:
        for name, value in theirs[1].median(X).items():
            torch.testing.assert_close(ours[1].median(X)[name], value, rtol=1e-3, atol=1e-3)
        for name, values in theirs[1].quantiles([0.1, 0.9], X).items():
            mine = ours[1].quantiles([0.1, 0.9], X)[name]
            torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(values), rtol=1e-3, atol=1e-3)
    graph = pyro.infer.inspect.get_model_relations(as_pair(pair).model, model_args=(X, Y))
    assert graph["observed"] == ["y"]
    assert (
        graph["sample_sample"] == pyro.infer.inspect.get_model_relations(theirs[0], model_args=(X, Y))["sample_sample"]
    )
