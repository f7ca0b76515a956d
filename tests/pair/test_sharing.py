"""What guide and model have in common is computed once where somebody answers, and is the plain call elsewhere."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, SGVB_B, evidence
from pyro_vae.estimators import Estimator
from pyro_vae.pair import once, run


class Shared(nn.Module):
    """Guide and model pass the data through one network; each pass is counted, and each run of a program."""

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        self.network = nn.Linear(3, 2)
        self.calls, self.runs, self.hidden = 0, 0, hidden

    def features(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)

    def _features(self, x: Tensor) -> Any:
        self.runs += 1
        if self.hidden:
            with poutine.block():
                return once(self.features, x)
        return once(self.features, x)

    def model(self, x: Tensor) -> None:
        pyro.module("shared", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self._features(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("shared", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self._features(x), 0.5).to_event(1))


X = torch.ones(4, 3)


@pytest.mark.parametrize("estimator", [SGVB_A(), SGVB_A(3), SGVB_B(), IWAE(3)], ids=repr)
def test_once_under_pyros_svi_with_our_estimators(estimator: Estimator) -> None:
    found = []
    for hidden in (False, True):  # a block around the call, so that nobody answers
        torch.manual_seed(0)
        pyro.clear_param_store()
        pair = Shared(hidden)
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), loss=estimator)
        losses = [svi.step(X) for _ in range(3)]
        assert pair.calls == (6 if hidden else 3)
        found.append([*losses, *(parameter.detach() for parameter in pair.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_once_where_the_library_runs_the_two() -> None:
    pair = Shared()
    run(pair, X)
    evidence.importance(pair, X, 10, compile="eager")
    assert 2 * pair.calls == pair.runs > 2


def test_twice_under_pyros_own_tools() -> None:
    pair = Shared()
    Trace_ELBO().loss(pair.model, pair.guide, X)
    Predictive(pair.model, guide=pair.guide, num_samples=2)(X)
    assert pair.calls == pair.runs > 2
    assert torch.equal(once(pair.features, X), pair.network(X))
