"""Data that a model cannot have are refused by all that takes data, wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pairs import binary
from pyro.distributions import Bernoulli, Normal
from registry import LIKELIHOODS
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import diagnostics, evidence

SIZE = 30
FEW: Any = {"compile": "eager", "chunk": 4}
FIT: Any = {"epochs": 1, "batch_size": 5, "compile": "eager", "progress": False}

#: All that takes data and says something of them.
ASKED: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "check": lambda pair, x: pv.check(pair, x),
    "fit": lambda pair, x: pv.fit(pair, x, **FIT),
    "fit, a loader": lambda pair, x: pv.fit(pair, DataLoader(TensorDataset(x), 5), **FIT),
    "fit, validation": lambda pair, x: pv.fit(pair, (x[:5], x), **FIT),
    "fit, validation by a loader": lambda pair, x: pv.fit(pair, (x[:5], DataLoader(TensorDataset(x), 5)), **FIT),
    "bound": lambda pair, x: pv.IWAE(2).bound(pair, x),
    "terms": lambda pair, x: pv.SGVB_B().terms(pair, x),
    "log_weights": lambda pair, x: pv.SGVB_A(2).log_weights(pair, x),
    "mean_bound": lambda pair, x: pv.SGVB_A().mean_bound(pair, [(part,) for part in x.split(5)]),
    "importance": lambda pair, x: evidence.importance(pair, x, 2, **FEW),
    "ais": lambda pair, x: evidence.ais(pair, x, 2, 1, **FEW),
    "hmc": lambda pair, x: evidence.hmc(pair, x, 4, 2, 2, **FEW),
    "posterior_draws": lambda pair, x: evidence.posterior_draws(pair, x, 4, 2, 2, **FEW),
    "encode": diagnostics.encode,
    "reconstruct": diagnostics.reconstruct,
    "interpolate": lambda pair, x: diagnostics.interpolate(pair, x, x, 2),
    "rate_distortion": lambda pair, x: diagnostics.rate_distortion(pair, [(x,)]),
    "reconstruction_mse": lambda pair, x: diagnostics.reconstruction_mse(pair, [(x,)]),
    "active_units": lambda pair, x: diagnostics.active_units(pair, [(x,)]),
    "levels": lambda pair, x: diagnostics.levels(pair, [(x,)]),
    "kl_decomposition": diagnostics.kl_decomposition,
    "gradient_statistics": lambda pair, x: diagnostics.gradient_statistics(pair, x, [pv.SGVB_A()], 4),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("likelihood", "bad", "validated"),
    [
        ("Bernoulli", 0.5, True),
        ("Poisson", -1.0, False),
        ("Categorical", math.nan, True),
    ],
)
def test_one_bad_number(ask: Any, likelihood: str, bad: float, validated: bool) -> None:
    """Behind the first batch and the first chunk, and where Pyro does not validate."""
    row = LIKELIHOODS[likelihood]
    x = row.data(6, size=SIZE)
    x[SIZE - 1, 3] = bad
    with (
        pyro.validation_enabled(validated),
        pytest.raises(ValueError, match=r"At the observed site 'x'|in 1 of \d+ data"),
    ):
        ask(row.pair(), x)


def test_where_it_is_no_matter() -> None:
    """Of an example batch only the shape counts."""
    pair, x = LIKELIHOODS["Bernoulli"].pair(), torch.full((4, 6), 255.0)
    assert diagnostics.sample(pair, 3, x).shape == (3, 6)
    assert diagnostics.decode(pair, torch.zeros(3, 2), x).shape == (3, 6)
    assert diagnostics.latent_names(pair, x) == ("z",)


class Derived(pv.networks.MLP):
    """A pair that observes other numbers than its argument, of which some may be missing."""

    def __init__(self) -> None:
        super().__init__(6, 1, ())

    def model(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(0.0, 1.0))
            law = Bernoulli(logits=z[:, None].expand(-1, 5)).mask(~x[:, 1:].isnan())
            pyro.sample("x", law.to_event(1), obs=x[:, 1:].nan_to_num())
            pyro.sample("sign", Bernoulli(logits=z), obs=x[:, 0].nan_to_num() / 2)

    def guide(self, x: torch.Tensor) -> None:
        loc = self(x.nan_to_num())[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(loc, 1.0))


def test_what_is_observed_is_what_counts() -> None:
    """x / 2 has to be 0 or 1, and a number that is missing may be anything."""
    x = 2 * binary(6, size=SIZE)
    x[:, 1:] = math.nan
    assert evidence.importance(Derived(), x, 2, chunk=4).log_prob.isfinite().all()
    x[SIZE - 1, 0] = 1.0
    with pytest.raises(ValueError, match=r"At the observed site 'sign' .* values in \[0.5, 0.5\]"):
        evidence.importance(Derived(), x, 2, chunk=4)
