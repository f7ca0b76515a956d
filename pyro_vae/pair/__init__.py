"""What a pair is: its parameters, how it runs, and what its traces say."""

from pyro_vae.pair.pair import Pair, as_pair, pair_method, programs
from pyro_vae.pair.parameters import LocalParameters, isolated, tracing_obstacle
from pyro_vae.pair.running import (
    computing_once,
    data_plate,
    device_of,
    evaluating,
    kept_modes,
    once,
    run,
    simulate,
    vectorized,
)
from pyro_vae.pair.sites import DATA_PLATE, check_densities, data_frame, latent_sites, observed_sites, support_of

__all__ = [
    "DATA_PLATE",
    "LocalParameters",
    "Pair",
    "as_pair",
    "check_densities",
    "computing_once",
    "data_frame",
    "data_plate",
    "device_of",
    "evaluating",
    "isolated",
    "kept_modes",
    "latent_sites",
    "observed_sites",
    "once",
    "pair_method",
    "programs",
    "run",
    "simulate",
    "support_of",
    "tracing_obstacle",
    "vectorized",
]
