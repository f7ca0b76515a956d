"""What a pair does with data, and what its gradients are worth."""

from pyro_vae.diagnostics.decomposition import KLDecomposition, kl_decomposition
from pyro_vae.diagnostics.gradients import (
    EstimatorStatistics,
    GradientStatistics,
    GroupStatistics,
    gradient_statistics,
)
from pyro_vae.diagnostics.latents import (
    ActiveUnits,
    RateDistortion,
    active_units,
    chunks,
    decode,
    encode,
    has_prior,
    interpolate,
    prior_quantiles,
    rate_distortion,
    reconstruct,
    reconstruction_mse,
    sample,
    support,
)
from pyro_vae.diagnostics.levels import Levels, LevelUsage, latent_names, levels, resample
from pyro_vae.diagnostics.linear import LinearOptimum, linear_vae_optimum

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
    "decode",
    "encode",
    "gradient_statistics",
    "has_prior",
    "interpolate",
    "kl_decomposition",
    "latent_names",
    "levels",
    "linear_vae_optimum",
    "prior_quantiles",
    "rate_distortion",
    "reconstruct",
    "reconstruction_mse",
    "resample",
    "sample",
    "support",
]
