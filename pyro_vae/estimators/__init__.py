"""Objectives. Each is a Pyro ELBO, and gives its bound for each datum."""

from pyro_vae.estimators.base import Estimator, Objective, SiteTerms
from pyro_vae.estimators.discrete import VIMCO, Enumeration, ScoreFunction
from pyro_vae.estimators.facts import Facts, facts_table
from pyro_vae.estimators.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, DReG, Renyi
from pyro_vae.estimators.monte_carlo_em import MonteCarloEM
from pyro_vae.estimators.penalized import Balanced, Capacity, FreeBits
from pyro_vae.estimators.sgvb import SGVB_A, SGVB_B, Annealed, elbo_of
from pyro_vae.estimators.total_correlation import TCVAE
from pyro_vae.estimators.wake_sleep import ReweightedWakeSleep, WakeSleep

# In the order of the table of facts.
ESTIMATORS = (
    SGVB_A,
    SGVB_B,
    Annealed,
    Capacity,
    FreeBits,
    Balanced,
    TCVAE,
    IWAE,
    DReG,
    Renyi,
    MIWAE,
    CIWAE,
    PIWAE,
    ScoreFunction,
    VIMCO,
    Enumeration,
    WakeSleep,
    ReweightedWakeSleep,
    MonteCarloEM,
)

__all__ = [
    "CIWAE",
    "ESTIMATORS",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "SGVB_A",
    "SGVB_B",
    "TCVAE",
    "VIMCO",
    "Annealed",
    "Balanced",
    "Capacity",
    "DReG",
    "Enumeration",
    "Estimator",
    "Facts",
    "FreeBits",
    "MonteCarloEM",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "SiteTerms",
    "WakeSleep",
    "elbo_of",
    "facts_table",
]
