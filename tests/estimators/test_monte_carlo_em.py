"""MonteCarloEM: posterior draws by HMC, then updates of the weights with them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import BATCH, linear_gaussian, real
from pyro.infer import SVI
from torch import Tensor, nn

from pyro_vae import VAE, DiagonalNormal, Gaussian, MonteCarloEM, Pair, StandardNormal, fit
from pyro_vae.networks import MLP
from pyro_vae.pair import programs


def small() -> VAE:
    torch.manual_seed(0)
    likelihood = Gaussian(MLP(2, (2, 6), hidden=(8,)), scale=None, sigmoid_mean=False)
    return VAE(StandardNormal(2), DiagonalNormal(MLP(6, (2, 2), hidden=(8,))), likelihood)


def converged(**options: Any) -> MonteCarloEM:
    return MonteCarloEM(400, num_transitions=30, **options)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_draws_are_from_the_posterior(start: Any) -> None:
    pair, x, _ = linear_gaussian()
    (u,) = converged(start=start).prepare(*programs(pair), x)
    exact = pair.posterior(x)
    assert u.shape == (400, BATCH, 2)
    # independent chains: the error of a mean is its standard deviation over sqrt(400)
    error = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt() / 400**0.5
    assert ((u.mean(0) - exact.mean).abs() / error).max() < 4.5
    covariance = torch.stack([torch.cov(chains.T) for chains in u.unbind(1)])
    torch.testing.assert_close(covariance.mean(0), exact.covariance_matrix[0], rtol=0.1, atol=0.01)


def test_gradient_of_the_model_is_that_of_the_evidence() -> None:
    """Fisher's identity: E over p(z | x) of grad log p(x, z) = grad log p(x)."""
    pair, x, _ = linear_gaussian()
    estimator = converged(fit_guide=False)
    covariance = pair.W @ pair.W.T + pair.s**2 * torch.eye(4, dtype=x.dtype)
    log_evidence = dist.MultivariateNormal(pair.b, covariance).log_prob(x).sum()
    exact = torch.autograd.grad(log_evidence, [pair.W, pair.b])
    draws = []
    for seed in range(12):
        torch.manual_seed(seed)
        loss = estimator.differentiable_loss(*programs(pair), x.clone())
        draws.append([-g for g in torch.autograd.grad(loss, [pair.W, pair.b])])
    for truth, found in zip(exact, zip(*draws, strict=True), strict=True):
        found = torch.stack(found)
        z = (found.mean(0) - truth) / (found.std(0) / len(found) ** 0.5)
        assert z.abs().max() < 6  # t with 11 degrees of freedom, 12 of them
        assert z.square().mean() < 4
        assert truth.abs().max() > 20 * found.std(0).max() / len(found) ** 0.5  # a gradient of 0 would not pass


def test_the_guide_imitates_the_draws() -> None:
    """The guide's gradient is that of E log q over the posterior: zero at the exact posterior, and only there."""
    pair, x, _ = linear_gaussian()
    exact = pair.posterior(x)
    loc, shift = nn.Parameter(exact.mean.detach().clone()), torch.ones(2, dtype=x.dtype)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(pyro.param("loc", loc), exact.covariance_matrix.detach()))

    def gradient() -> Tensor:
        both = Pair(pair.model, guide)
        return torch.autograd.grad(converged().differentiable_loss(*programs(both), x), [loc])[0]

    precision = torch.linalg.inv(exact.covariance_matrix.detach())
    error = precision.diagonal(dim1=-2, dim2=-1).amax().sqrt() / 400**0.5
    assert gradient().abs().max() < 5 * error
    with torch.no_grad():
        loc += shift
    expected = (precision @ shift).expand(BATCH, 2)
    torch.testing.assert_close(gradient(), expected, rtol=0, atol=5 * error.item())


def test_step_size_is_adapted_to_the_target() -> None:
    pair, x = small(), real(6, size=40)
    estimator = MonteCarloEM(target_acceptance=0.9, num_transitions=40, num_leapfrog=2)
    found = []
    watch = estimator._watch
    estimator._watch = lambda acceptance: (found.append(acceptance), watch(acceptance))  # type: ignore[method-assign]
    for _ in range(10):
        estimator.prepare(*programs(pair), x)
    assert sum(found[-200:]) / 200 == pytest.approx(0.9, abs=0.03)


def test_fit_updates_several_times_a_batch() -> None:
    pair = small()
    steps = []

    class Counting(torch.optim.Adam):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            steps.append(1)
            return super().step(*args, **kwargs)

    data = torch.randn(40, 2) @ torch.randn(2, 6) + 0.1 * torch.randn(40, 6)
    options = {"epochs": 6, "batch_size": 20, "compile": "eager", "progress": False}
    run = fit(pair, data, estimator=MonteCarloEM(num_updates=3), optimizer=lambda p: Counting(p, lr=1e-2), **options)
    assert len(steps) == 6 * 2 * 3
    assert run.history[-1]["samples"] == 6 * 40
    assert run.history[-1]["train"] > run.history[0]["train"] + 1


def test_traced_draws_what_eager_draws() -> None:
    data = real(6, size=20)
    weights = []
    for compile in ("eager", "traced"):
        pair = small()
        fit(pair, data, estimator=MonteCarloEM(), epochs=2, batch_size=10, compile=compile, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)


def test_svi_takes_the_draws_of_one_e_step_for_several_updates() -> None:
    pair, x = small(), real(6)
    estimator = MonteCarloEM(num_updates=3)
    e_steps = []
    prepare = estimator.prepare
    estimator.prepare = lambda *a, **k: (e_steps.append(1), prepare(*a, **k))[1]  # type: ignore[method-assign]
    svi = SVI(*programs(pair), pyro.optim.Adam({"lr": 1e-2}), loss=estimator)
    for _ in range(4):
        assert isinstance(svi.step(x), float)
    assert len(e_steps) == 2  # three updates, then one of the next
    svi.step(x.clone())
    assert len(e_steps) == 3


def test_leaves_the_model_a_gradient_through_the_draws_alone() -> None:
    """Neither the chains nor the guide's own draws carry a gradient."""
    pair, x = small(), real(6)
    estimator = MonteCarloEM(fit_guide=False)
    estimator.differentiable_loss(*programs(pair), x).backward()
    assert all(p.grad is None for p in pair.posterior.parameters())
    assert all(p.grad is not None for p in pair.likelihood.parameters())


def test_chains_that_do_not_move_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_vae.estimators.objectives._EXTREME", 5)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1e-12).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    with pytest.warns(UserWarning, match=r"accept nothing \(step size .*start='guide'"):
        MonteCarloEM().prepare(*programs(Pair(model, guide)), torch.ones(3, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains has to be a whole number of at least 1; got 0"),
        ({"num_transitions": 0}, "num_transitions has to be"),
        ({"num_leapfrog": 1.5}, "num_leapfrog has to be"),
        ({"num_updates": 0}, "num_updates has to be"),
        ({"target_acceptance": 1.0}, "target_acceptance has to be a finite number above 0 and below 1; got 1.0"),
        ({"start": "posterior"}, "start is one of 'prior', 'guide'; got 'posterior'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonteCarloEM(**options)


def test_refuses_a_discrete_latent() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(torch.sigmoid(x)))

    with pytest.raises(ValueError, match="'y' is a Bernoulli, which is discrete"):
        MonteCarloEM().differentiable_loss(*programs(Pair(model, guide)), torch.zeros(3))


def test_takes_no_beta() -> None:
    with pytest.raises(ValueError, match="MonteCarloEM has one objective for the model and another for the guide"):
        fit(small(), real(6), estimator=MonteCarloEM(), beta=0.5, batch_size=5, progress=False)


def test_repr_makes_it_again() -> None:
    estimator = MonteCarloEM.example(start="guide", fit_guide=False, max_plate_nesting=2)
    again = eval(repr(estimator))
    assert repr(again) == repr(estimator)
    assert (again.num_transitions, again.start, again.fit_guide, again.max_plate_nesting) == (2, "guide", False, 2)
