"""What the tests of the estimators share: one of each, equal seeds, gradients, expectations, small pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from pyro_vae import estimators
from pyro_vae.estimators import (
    CIWAE,
    ESTIMATORS,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    Bound,
    DoublyReparameterized,
    DReG,
    Enumeration,
    Estimator,
    LeaveOneOut,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
)
from pyro_vae.testing.comparing import assert_mean, assert_means_equal, assert_same, gradients, seeded
from pyro_vae.testing.estimators import gradients_of
from pyro_vae.testing.examples import Chain, Coin, OneLatent, Own, Pixels

__all__ = [
    "CUBO",
    "DOUBLE",
    "EVERY",
    "EVERY_CLASS",
    "GUIDE",
    "MADE",
    "VARIANTS",
    "Chain",
    "Coin",
    "OneLatent",
    "Own",
    "Pixels",
    "again",
    "assert_mean",
    "assert_means_equal",
    "assert_same",
    "gradients",
    "gradients_of",
    "of_guide",
    "of_model",
    "renyi",
    "seeded",
]

DOUBLE = DoublyReparameterized()
GUIDE = {"a", "b", "c", "s", "t", "l"}  # the guide's parameters in the small pairs

# One of each class, as functions of the options that all of them have; but Monte Carlo EM, of which a second call at
# the same seed is another, since it has adapted its step size.
MADE: dict[str, Callable[..., Estimator]] = {
    one.__name__: one.example for one in ESTIMATORS if not issubclass(one, MonteCarloEM)
}
# Estimators whose draws or whose gradient take other ways.
VARIANTS: dict[str, Callable[..., Estimator]] = {
    "SGVB_A, sticking": lambda **options: SGVB_A(3, sticking_the_landing=True, **options),
    "SGVB_B, sticking": lambda **options: SGVB_B(3, sticking_the_landing=True, **options),
    "Renyi, negative": lambda **options: Renyi(-1.0, 3, **options),
    "Renyi, double": lambda **options: Renyi(0.5, 3, gradient=DOUBLE, **options),
    "DReG, one": lambda **options: DReG(1, **options),
    "MIWAE, double": lambda **options: MIWAE(2, 3, gradient=DOUBLE, **options),
    "MIWAE, VIMCO": lambda **options: MIWAE(2, 3, gradient=LeaveOneOut(), **options),
    "CIWAE, double": lambda **options: CIWAE(0.3, 3, gradient=DOUBLE, **options),
    "PIWAE, one": lambda **options: PIWAE(1, 1, **options),
    "ScoreFunction, no path": lambda **options: ScoreFunction(3, pathwise=False, **options),
    "ScoreFunction, one": lambda **options: ScoreFunction(1, **options),
    "Enumeration, one": lambda **options: Enumeration(1, **options),
    "ReweightedWakeSleep, sleep": lambda **options: ReweightedWakeSleep(2, guide="sleep", **options),
    "ReweightedWakeSleep, both": lambda **options: ReweightedWakeSleep(2, guide="both", **options),
}
EVERY_CLASS, EVERY = (
    [pytest.param(make, id=name) for name, make in rows.items()] for rows in (MADE, {**MADE, **VARIANTS})
)


class CUBO(Bound):
    """log E[w^2]^(1/2), with the tangent of the log at a guess, as the documentation writes it."""

    side = "above"

    def __init__(self, guess: float) -> None:
        self.guess = guess

    def reduce(self, log_weights: Tensor) -> Tensor:
        return self.guess + ((2 * (log_weights - self.guess)).exp().mean(0) - 1) / 2


def of_guide(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of gradients in a small pair those of the guide's parameters."""
    return {name: gradient for name, gradient in found.items() if name in GUIDE}


def of_model(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the model's parameters."""
    return {name: gradient for name, gradient in found.items() if name not in GUIDE}


def again(estimator: Estimator, **options: Any) -> Estimator:
    """The estimator that its repr says it is, with other options."""
    arguments = eval(
        repr(estimator), {**vars(estimators), "CUBO": CUBO, type(estimator).__name__: lambda **arguments: arguments}
    )
    return type(estimator)(**{**arguments, **options})


def renyi(alpha: float, x: float, m: float, s: float) -> float:
    """1/(1 - alpha) log E_q w^(1 - alpha) for z ~ N(0, 1), x | z ~ N(z, 1), q = N(m, s): log w = A z^2 + B z + C."""
    t = 1 - alpha
    A, B = -1 + 1 / (2 * s**2), x - m / s**2
    C = -(x**2) / 2 - 0.5 * math.log(2 * math.pi) + math.log(s) + m**2 / (2 * s**2)
    v = 1 / (1 / s**2 - 2 * t * A)
    return (0.5 * math.log(v) - math.log(s) + (t * B + m / s**2) ** 2 * v / 2 - m**2 / (2 * s**2) + t * C) / t
