"""Bounds and gradients by themselves: their weights, an upper bound, opposite bounds, what does not go together."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from laws import (
    CUBO,
    DOUBLE,
    OneLatent,
    assert_mean,
    assert_same,
    gradients_of,
    of_guide,
    of_model,
    renyi,
    seeded,
)
from torch.utils.data import TensorDataset

from pyro_vae import CIWAE, IWAE, MIWAE, PIWAE, DReG, Renyi, fit
from pyro_vae.estimators import (
    Bound,
    Estimator,
    ImportanceWeighted,
    LeaveOneOut,
    Mean,
    Mixture,
    Phases,
    RenyiBound,
    Score,
    Split,
    StickingTheLanding,
)
from pyro_vae.pair import programs


@pytest.mark.parametrize(
    "bound",
    [Mean(), ImportanceWeighted(), ImportanceWeighted(2), RenyiBound(0.5), RenyiBound(-1.0), Mixture(0.3), CUBO(0.0)],
    ids=repr,
)
def test_weights_of_a_bound(bound: Bound) -> None:
    """Closed forms are what automatic differentiation gives; any shape may follow the samples."""
    log_weights = torch.randn(6, 4, 3, dtype=torch.float64)
    assert bound.reduce(log_weights).shape == (4, 3)
    leaf = log_weights.clone().requires_grad_()
    (weights,) = torch.autograd.grad(bound.reduce(leaf).sum(), leaf)
    torch.testing.assert_close(bound.weights(log_weights), weights)
    torch.testing.assert_close(bound.curvature(log_weights), Bound.curvature(bound, log_weights))
    step = 1e-5 * torch.eye(6, dtype=torch.float64)[:, :, None, None]
    rise = [(bound.weights(log_weights + e) / bound.weights(log_weights - e)).log()[k] for k, e in enumerate(step)]
    torch.testing.assert_close(torch.stack(rise) / 2e-5, bound.curvature(log_weights), rtol=1e-4, atol=1e-6)


def test_an_upper_bound() -> None:
    """CUBO above log p(x), for any guess and number of samples; its loss is minimized, and says so."""
    x, size = 1.0, 40_000
    pair = OneLatent(size, torch.float64, a=0.0, b=0.8, s=0.5 * math.log(0.6))
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(x)).item()
    limit = renyi(-1.0, x, 0.8, math.sqrt(0.6))
    for guess, K in ((limit, 1), (limit, 8), (limit + 0.5, 4)):
        estimator = Estimator(CUBO(guess), DOUBLE, K)
        bound = seeded(0, estimator.bound, pair, pair.data(x))
        expected = guess + (math.exp(2 * (limit - guess)) - 1) / 2
        assert_mean(bound, expected)
        assert expected > exact + 0.01
        assert seeded(0, estimator.loss, *programs(pair), pair.data(x)) == pytest.approx(bound.sum().item())
    assert estimator.side == "above"
    assert estimator.facts.bounds == "log p(x), from above: an upper bound"
    named = f"bound=CUBO(guess={limit + 0.5!r}), gradient=DoublyReparameterized(), num_particles=4"
    assert repr(estimator) == f"Estimator({named}, max_plate_nesting=1)"


@pytest.mark.parametrize("gradient", [None, DOUBLE], ids=repr)
def test_an_upper_bound_fits_the_guide(gradient: Any) -> None:
    """To the posterior N(x / 2, 1 / 2), of a model that is not trained."""
    pair, x = OneLatent(1, a=0.2, b=0.1, s=0.0), 2**0.5 * seeded(0, torch.randn, 256)
    pair.w.requires_grad_(False)
    estimator, options = Estimator(CUBO(-1.5), gradient, 20), {"epochs": 80, "batch_size": 256, "progress": False}
    optimizer = functools.partial(torch.optim.Adam, lr=0.03)
    run = fit(pair, TensorDataset(x), estimator=estimator, optimizer=optimizer, compile="traced", **options)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert [pair.a.item(), pair.b.item(), pair.s.exp().item()] == pytest.approx([0.5, 0.0, 0.5**0.5], abs=0.1)


def test_model_and_guide_by_opposite_bounds() -> None:
    """The guide's gradient under Split is minus the upper bound's, the model's that of IWAE."""
    pair, x = OneLatent(5, torch.float64), torch.linspace(-1, 2, 5, dtype=torch.float64)
    found = gradients_of(Estimator(ImportanceWeighted(), Split(CUBO(-2.0)), 4), pair, x)
    assert_same(of_model(found), of_model(gradients_of(IWAE(4), pair, x)), 1e-12, 1e-12)
    assert_same(of_guide(found), of_guide(gradients_of(Estimator(CUBO(-2.0), None, 4), pair, x)), 1e-12, 1e-12)


# What they refuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IWAE(0), "num_particles has to be a whole number of at least 1; got 0"),
        (lambda: DReG(True), "num_particles has to be .* got True"),
        (lambda: IWAE(2.5), r"num_particles has to be .* got 2\.5"),
        (lambda: IWAE(2, num_data=0), "num_data has to be .* got 0"),
        (lambda: Renyi(0.5, 0), "num_particles has to be"),
        (lambda: Renyi(1, 5), r"at alpha = 1 .* the ELBO.*SGVB_A of as many particles"),
        (lambda: Renyi(math.nan, 5), "alpha has to be a finite number; got nan"),
        (lambda: Renyi(-math.inf, 5), "alpha has to be a finite number; got -inf"),
        (lambda: MIWAE(0, 3), "num_groups has to be .* got 0"),
        (lambda: MIWAE(3, 0), "samples_per_group has to be .* got 0"),
        (lambda: PIWAE(2.0, 3), r"num_groups has to be .* got 2\.0"),
        (lambda: CIWAE(1.1, 3), r"elbo_weight has to be .* at least 0 and at most 1; got 1\.1"),
        (lambda: CIWAE(math.nan, 3), "elbo_weight .* got nan"),
        (lambda: CIWAE(0.5, 0), "num_particles has to be"),
        (lambda: IWAE(3, beta=-1.0), "beta has to be a finite number of at least 0"),
        # bounds and gradients that do not go together
        (
            lambda: Estimator(ImportanceWeighted(2), None, 3),
            r"multiple of the groups of .*\(num_groups=2\); got 3",
        ),
        (
            lambda: IWAE(3, gradient=StickingTheLanding()),
            r"IWAE: StickingTheL.* be biased.*DoublyReparameterized",
        ),
        (
            lambda: Renyi(0.5, 3, gradient=Score("batch")),
            r"of an ELBO.* RenyiBound\(alpha=0.5\) .* be biased",
        ),
        (lambda: MIWAE(3, 1, gradient=LeaveOneOut()), r"at least 2 samples in each group; got 3 in 3 groups"),
        (lambda: Estimator(Mean(), Phases(), 3), r"under Mean\(\) with 3 particles all draws weigh the same.*'sleep'"),
        (lambda: Estimator(CUBO(0.0), Phases("sleep"), 3), r"CUBO\(guess=0.0\) is an upper bound. Use one from below"),
    ],
)
def test_refuses(make: Callable[[], Estimator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
