"""What guide and model have in common is computed once where somebody answers, and is the plain call elsewhere."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, SGVB_B, TopDownVAE, evidence
from pyro_vae.estimators import Estimator
from pyro_vae.hierarchy import LatentLayer
from pyro_vae.pair import computing_once, once, run


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
        estimator.loss(pair.model, pair.guide, X)  # which sees how particles are run
        torch.manual_seed(0)
        pair.calls = 0
        losses = [svi.step(X) for _ in range(3)]
        assert pair.calls == (6 if hidden else 3)
        found.append([*losses, *(parameter.detach() for parameter in pair.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_once_where_the_library_runs_the_two() -> None:
    pair = Shared()
    run(pair, X)
    evidence.importance(pair, X, 10, compile="eager")  # which sees how particles are run
    pair.calls = pair.runs = 0
    evidence.importance(pair, X, 10, compile="eager")
    assert 2 * pair.calls == pair.runs > 2


def test_twice_under_pyros_own_tools() -> None:
    pair = Shared()
    Trace_ELBO().loss(pair.model, pair.guide, X)
    Predictive(pair.model, guide=pair.guide, num_samples=2)(X)
    assert pair.calls == pair.runs > 2
    assert torch.equal(once(pair.features, X), pair.network(X))


def test_once_keeps_gradients_and_forgets_afterwards() -> None:
    calls = []

    def square(z: Tensor) -> Tensor:
        calls.append(z)
        return z**2

    z = torch.tensor(3.0, requires_grad=True)
    with computing_once():
        first, second = once(square, z), once(square, z)
        assert first is second
        assert once(square, z.clone()) is not first  # another tensor, be it equal
        with torch.no_grad():
            assert not once(square, z).requires_grad
        with computing_once(False):
            assert once(square, z) is not first
        assert once(square, z) is first
    (first + second).backward()
    assert z.grad == 12
    count = len(calls)
    once(square, z), once(square, z)
    assert len(calls) == count + 2


class Random(PyroModule, LatentLayer):
    """A level whose weight is a random variable of model and guide."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = PyroSample(dist.Normal(torch.ones(2), 0.1).to_event(1))

    def prior(self, h: Any) -> Any:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def posterior(self, p: Any, h: Any, evidence: Tensor) -> Any:
        return dist.Normal(evidence, 0.5).to_event(1)

    def forward(self, h: Any, z: Tensor) -> Tensor:
        return self.weight * z


class Sum(Random):
    """A level like it without a weight."""

    def __init__(self) -> None:
        PyroModule.__init__(self)

    def forward(self, h: Any, z: Tensor) -> Tensor:
        return h + z


def test_what_has_sample_statements_is_run_in_both_programs() -> None:
    class Likelihood(nn.Module):
        def forward(self, h: Tensor) -> Any:
            return dist.Normal(h, 1.0).to_event(1)

    class Both(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x]

    model, guide = run(TopDownVAE(Both(), [Sum(), Random()], Likelihood()), torch.randn(4, 2))
    assert torch.equal(model.nodes["weight"]["value"], guide.nodes["weight"]["value"])
    with computing_once():
        drawn = [once(lambda: pyro.sample("a", dist.Normal(0.0, 1.0))) for _ in range(2)]
        assert drawn[0] != drawn[1]


class Dropped(nn.Module):
    """z ~ N(m, 1) in the model, q(z) = N(m', 1), for dropout masks m and m' of 0 and 2 on 2,000 units."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.ones = nn.Dropout(0.5), torch.ones(2000)
        self.weight = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        pyro.module("dropped", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(once(self.dropout, self.ones), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.weight + 0 * z.sum(-1), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(once(self.dropout, self.ones), 1.0).to_event(1))


def test_other_noise_is_the_same_in_both_programs_under_our_estimators_alone() -> None:
    torch.manual_seed(0)
    dropout, z = nn.Dropout(0.5), torch.ones(50)
    with computing_once():
        assert torch.equal(once(dropout, z), once(dropout, z))
    assert not torch.equal(once(dropout, z), once(dropout, z))
    # KL = (m - m')^2 / 2 a unit: 0 for one mask, and the variance of a mask, 1, on average over two of them.
    pair, x = Dropped(), torch.zeros(1)
    log_p = dist.Normal(0.0, 1.0).log_prob(x).item()
    assert -SGVB_B().loss(pair.model, pair.guide, x) == pytest.approx(log_p, abs=1e-3)
    pyros = -TraceMeanField_ELBO().loss(pair.model, pair.guide, x)
    assert (log_p - pyros) / 2000 == pytest.approx(1.0, abs=4 / 2000**0.5)  # the deviation of one is 1


def test_runs_inside_one_another_and_of_two_pairs_know_nothing_of_each_other() -> None:
    first, second, z = nn.Linear(1, 1), nn.Linear(1, 1), torch.ones(1)
    with computing_once():
        outer = once(first, z)
        assert once(second, z) is not outer
        with torch.no_grad():
            first.weight.add_(1.0)
        with computing_once():
            assert once(first, z) != outer
        assert once(first, z) is outer
    with computing_once():
        assert once(first, z) == outer + 1  # the next run sees weights that have moved
