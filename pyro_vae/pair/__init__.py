"""What a pair is: its parameters, how it runs, and what its traces say."""

from pyro_vae.pair.gate import check_densities, check_local
from pyro_vae.pair.pair import Pair, as_pair, modules_of, pair_method, programs
from pyro_vae.pair.parameters import LocalParameters, isolated, tracing_obstacle, trained_parameters
from pyro_vae.pair.running import (
    PairRun,
    data_plate,
    device_of,
    evaluating,
    kept_modes,
    penalty,
    run,
    simulate,
)
from pyro_vae.pair.sharing import computing_once, once
from pyro_vae.pair.sites import DATA_PLATE, data_frame, latent_sites, observed_sites, random_sites, support_of

__all__ = [
    "DATA_PLATE",
    "LocalParameters",
    "Pair",
    "PairRun",
    "as_pair",
    "check_densities",
    "check_local",
    "computing_once",
    "data_frame",
    "data_plate",
    "device_of",
    "evaluating",
    "isolated",
    "kept_modes",
    "latent_sites",
    "modules_of",
    "observed_sites",
    "once",
    "pair_method",
    "penalty",
    "programs",
    "random_sites",
    "run",
    "simulate",
    "support_of",
    "tracing_obstacle",
    "trained_parameters",
]
