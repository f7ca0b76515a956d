"""What the tests of the estimators share: one of each, equal seeds, gradients, tests of expectations, small pairs."""

from __future__ import annotations

from collections.abc import Callable

from pyro_vae.estimators import (
    CIWAE,
    ESTIMATORS,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
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
    "MADE",
    "VARIANTS",
    "Chain",
    "Coin",
    "OneLatent",
    "Own",
    "Pixels",
    "assert_mean",
    "assert_means_equal",
    "assert_same",
    "gradients",
    "gradients_of",
    "seeded",
]

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
    "Renyi, double": lambda **options: Renyi(0.5, 3, gradient=DoublyReparameterized(), **options),
    "DReG, one": lambda **options: DReG(1, **options),
    "MIWAE, double": lambda **options: MIWAE(2, 3, gradient=DoublyReparameterized(), **options),
    "MIWAE, VIMCO": lambda **options: MIWAE(2, 3, gradient=LeaveOneOut(), **options),
    "CIWAE, double": lambda **options: CIWAE(0.3, 3, gradient=DoublyReparameterized(), **options),
    "PIWAE, one": lambda **options: PIWAE(1, 1, **options),
    "ScoreFunction, no path": lambda **options: ScoreFunction(3, pathwise=False, **options),
    "ScoreFunction, one": lambda **options: ScoreFunction(1, **options),
    "Enumeration, one": lambda **options: Enumeration(1, **options),
    "ReweightedWakeSleep, sleep": lambda **options: ReweightedWakeSleep(2, guide="sleep", **options),
    "ReweightedWakeSleep, both": lambda **options: ReweightedWakeSleep(2, guide="both", **options),
}
