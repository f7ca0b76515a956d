"""What the tests of the estimators share: equal seeds, gradients, tests of expectations, and small pairs."""

from __future__ import annotations

from collections.abc import Callable

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    VIMCO,
    DReG,
    Enumeration,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
)
from pyro_vae.estimators import TCVAE, Annealed, Balanced, Capacity, Estimator, FreeBits
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

# One of each class, by name, as functions of the options that all of them have.
MADE: dict[str, Callable[..., Estimator]] = {
    "SGVB_A": lambda **options: SGVB_A(3, **options),
    "SGVB_B": lambda **options: SGVB_B(3, **options),
    "Annealed": lambda **options: Annealed(3, **options),
    # With the weights at which the loss is minus the bound; test_objectives has the others.
    "Capacity": lambda **options: Capacity(0.0, 1.0, 3, **options),
    "FreeBits": lambda **options: FreeBits(0.0, num_particles=3, **options),
    # Below a beta of 1 its loss is another.
    "Balanced": lambda beta=1.0, **options: Balanced(3, **options),
    # Its beta weighs a part of the KL, and its bound knows nothing of it.
    "TCVAE": lambda beta=1.0, **options: TCVAE(1.0, 1.0, 1.0, 3, **options),
    "IWAE": lambda **options: IWAE(3, **options),
    "DReG": lambda **options: DReG(3, **options),
    "Renyi": lambda **options: Renyi(0.5, 3, **options),
    "MIWAE": lambda **options: MIWAE(2, 3, **options),
    "CIWAE": lambda **options: CIWAE(0.3, 3, **options),
    "PIWAE": lambda **options: PIWAE(2, 3, **options),
    "ScoreFunction": lambda **options: ScoreFunction(3, **options),
    "VIMCO": lambda **options: VIMCO(3, **options),
    "Enumeration": lambda **options: Enumeration(3, **options),
    "WakeSleep": lambda **options: WakeSleep(3, **options),
    "ReweightedWakeSleep": lambda **options: ReweightedWakeSleep(3, guide="both", **options),
}
# Estimators whose draws or whose gradient take other ways.
VARIANTS: dict[str, Callable[..., Estimator]] = {
    "SGVB_A, sticking": lambda **options: SGVB_A(3, sticking_the_landing=True, **options),
    "SGVB_B, sticking": lambda **options: SGVB_B(3, sticking_the_landing=True, **options),
    "Renyi, negative": lambda **options: Renyi(-1.0, 3, **options),
    "DReG, one": lambda **options: DReG(1, **options),
    "PIWAE, one": lambda **options: PIWAE(1, 1, **options),
    "ScoreFunction, no path": lambda **options: ScoreFunction(3, pathwise=False, **options),
    "ScoreFunction, one": lambda **options: ScoreFunction(1, **options),
    "Enumeration, one": lambda **options: Enumeration(1, **options),
    "ReweightedWakeSleep, wake": lambda **options: ReweightedWakeSleep(2, **options),
    "ReweightedWakeSleep, sleep": lambda **options: ReweightedWakeSleep(2, guide="sleep", **options),
}
