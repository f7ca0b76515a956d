"""What a pair does with data, and what its gradients are worth."""

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
    decode,
    encode,
    rate_distortion,
    reconstruct,
    reconstruction_mse,
    sample,
)

__all__ = [
    "ActiveUnits",
    "EstimatorStatistics",
    "GradientStatistics",
    "GroupStatistics",
    "RateDistortion",
    "active_units",
    "decode",
    "encode",
    "gradient_statistics",
    "rate_distortion",
    "reconstruct",
    "reconstruction_mse",
    "sample",
]
