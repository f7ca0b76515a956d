"""Programs in a line, for the tests of samplers, evidence and diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


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
