"""Evidence: log p(x) of a fitted pair, in nats per datum."""

from pyro_vae.evidence.ais import AIS, ais
from pyro_vae.evidence.bdmc import BDMC, bdmc
from pyro_vae.evidence.hmc import HMC, PosteriorDraws, hmc, posterior_draws
from pyro_vae.evidence.importance import Importance, importance
from pyro_vae.evidence.result import Evidence

__all__ = [
    "AIS",
    "BDMC",
    "HMC",
    "Evidence",
    "Importance",
    "PosteriorDraws",
    "ais",
    "bdmc",
    "hmc",
    "importance",
    "posterior_draws",
]
