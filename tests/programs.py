"""Programs in a line, for the tests of samplers, evidence and diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


def program(**sites: Callable[..., Any]) -> Callable[[Tensor], None]:
    """Sites inside the data plate, by name: functions of x and of the values before them. Those named x are observed.

    >>> model = program(z=lambda x: dist.Normal(0.0, 1.0), x=lambda x, z: dist.Normal(z, 1.0))
    """

    def run(x: Tensor) -> None:
        values: list[Tensor] = []
        with pyro.plate("data", len(x)):
            for name, site in sites.items():
                values.append(pyro.sample(name, site(x, *values), obs=x if name[0] == "x" else None))

    return run


def standard(*shape: int) -> Callable[[Tensor], Any]:
    """A site N(0, I) of the data's dtype."""
    return lambda x: dist.Normal(x.new_zeros(shape), 1.0).to_event(len(shape))


def mean_within(draws: Tensor, expected: float, below: float) -> None:
    """The mean of independent draws, within 4.5 standard errors, which have to be smaller than ``below``."""
    error = draws.std().item() / draws.numel() ** 0.5
    assert error < below, "the test has no power"
    assert abs(draws.mean().item() - expected) < 4.5 * error, f"{draws.mean().item()} +- {error}, not {expected}"


def repeated(*values: float, times: int = 1) -> Tensor:
    """Data of a few values, in float64."""
    return torch.tensor(values, dtype=torch.float64).repeat(times)


class Normals(nn.Module):
    """z ~ N(0, 1), x | z ~ N(z, s); the guide is N(slope x + shift, scale), by default with the exact slope."""

    def __init__(self, s: float = 1.0, shift: float = 0.0, scale: float = 1.0, slope: float | None = None) -> None:
        super().__init__()
        self.s, self.shift, self.scale = s, shift, scale
        self.slope = 1 / (1 + s**2) if slope is None else slope
        self.largest = 0  # draws held at once

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            self.largest = max(self.largest, z.numel())
            pyro.sample("x", dist.Normal(z, self.s), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x + self.shift, self.scale))

    def log_evidence(self, x: Tensor) -> Tensor:
        return dist.Normal(torch.zeros_like(x), (1 + self.s**2) ** 0.5).log_prob(x)


class GammaPoisson(nn.Module):
    """z ~ Gamma(2, 1), x | z ~ Poisson(z): x is negative binomial, z | x ~ Gamma(2 + x, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = program(
            z=lambda x: dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.0)), x=lambda x, z: dist.Poisson(z)
        )
        self.guide = program(z=lambda x: dist.LogNormal((1 + x / 2).log(), 0.7))

    def log_evidence(self, x: Tensor) -> Tensor:
        return dist.NegativeBinomial(x.new_tensor(2.0), probs=x.new_tensor(0.5)).log_prob(x)
