"""What the tests of the gate share: a pair of known log p(x), handlers around it, and what its evidence has to be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import IWAE, SGVB_A, SGVB_B, VIMCO, DReG, Pair, ReweightedWakeSleep, ScoreFunction
from pyro_vae.evidence import ais, hmc, importance

X = torch.tensor([0.5, -1.0, 2.0])
EXACT = dist.Normal(0.0, 2**0.5).log_prob(X)
NOTHING = contextlib.nullcontext()
LOWER = (SGVB_A(4), SGVB_B(4), IWAE(8), DReG(8), VIMCO(8), ReweightedWakeSleep(8), ScoreFunction(4))


def whole(around: Any = NOTHING, latent: Any = NOTHING, more: Callable[..., Any] | None = None, size: Any = len) -> Any:
    """The model; ``more(z)`` are further statements of it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", size(x)), around:
            with latent:
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            if more is not None:
                more(z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model


def near(around: Any = NOTHING, latent: Any = NOTHING, more: Callable[..., Any] | None = None) -> Any:
    """A guide near the posterior, N(x / 2, 1 / 2)."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), around, latent:
            pyro.sample("z", dist.Normal(0.45 * x, 0.8))
        if more is not None:
            with pyro.plate("data ", len(x)):
                more(x)

    return guide


def pair_of(around: Any = NOTHING, latent: Any = NOTHING) -> Pair:
    return Pair(whole(around, latent), near(around, latent))


def mean_of(bound: Callable[[], Tensor], draws: int = 60) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    found = torch.stack([bound() for _ in range(draws)])
    return found.mean(0), found.std(0) / draws**0.5


def assert_evidence(pair: Any, x: Tensor = X, exact: Tensor = EXACT, chains: bool = True, copies: int = 20) -> None:
    """Importance sampling, annealing and HMC are of one number, and no bound is above it. The draws of a bound are
    those of ``copies`` of the data at once; one, where the programs are of a number of data."""
    found = importance(pair, x, 8_000)
    assert ((found.log_prob - exact).abs() < 4 * found.standard_error + 1e-3).all(), found.log_prob - exact
    if chains:
        for start in ("prior", "guide"):
            annealed = ais(pair, x, 32, 60, start=start, num_leapfrog=3, compile="eager")
            assert ((annealed.log_prob - exact).abs() < 5 * annealed.standard_error + 0.02).all(), start
        assert ((hmc(pair, x, 60, 16, 60, num_leapfrog=4, compile="eager").log_prob - exact).abs() < 0.1).all()
    many = x.repeat(copies)

    def mean(estimator: Any, draws: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        found = torch.cat([estimator.bound(pair, many).reshape(copies, -1) for _ in range(draws // copies)])
        return found.mean(0), found.std(0) / len(found) ** 0.5

    for estimator in LOWER:
        value, error = mean(estimator, 60)
        assert (value <= exact + 4 * error + 1e-5).all(), estimator
    value, error = mean(IWAE(500), 40)
    assert ((value - exact).abs() < 4 * error + 0.01).all()
