"""What a pair does with data, and what its gradients are worth."""

from pyro_vae.diagnostics.classes import class_argument, sample_by_class
from pyro_vae.diagnostics.codes import (
    decode,
    encode,
    has_prior,
    interpolate,
    latent_names,
    prior_quantiles,
    reconstruct,
    resample,
    sample,
    support,
)
from pyro_vae.diagnostics.decomposition import KLDecomposition, kl_decomposition
from pyro_vae.diagnostics.gradients import gradient_statistics
from pyro_vae.diagnostics.latents import chunks, observed_site, observed_values
from pyro_vae.diagnostics.linear import LinearOptimum, linear_vae_optimum
from pyro_vae.diagnostics.statistics import EstimatorStatistics, GradientStatistics, GroupStatistics
from pyro_vae.diagnostics.usage import (
    ActiveUnits,
    Levels,
    LevelUsage,
    RateDistortion,
    active_units,
    levels,
    rate_distortion,
    reconstruction_mse,
)

__all__ = [
    "ActiveUnits",
    "EstimatorStatistics",
    "GradientStatistics",
    "GroupStatistics",
    "KLDecomposition",
    "LevelUsage",
    "Levels",
    "LinearOptimum",
    "RateDistortion",
    "active_units",
    "chunks",
    "class_argument",
    "decode",
    "encode",
    "gradient_statistics",
    "has_prior",
    "interpolate",
    "kl_decomposition",
    "latent_names",
    "levels",
    "linear_vae_optimum",
    "observed_site",
    "observed_values",
    "prior_quantiles",
    "rate_distortion",
    "reconstruct",
    "reconstruction_mse",
    "resample",
    "sample",
    "sample_by_class",
    "support",
]
