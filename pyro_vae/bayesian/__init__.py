"""Networks whose weights are random variables.

:func:`bayesian_` turns any network into a Pyro random module; :func:`sample_prior` and :func:`sample_posterior` are the
two statements that its model and its guide need, before the plate over the data.
"""

from pyro_vae.bayesian.layers import BayesianConv2d, BayesianConvTranspose2d, BayesianLayer, BayesianLinear
from pyro_vae.bayesian.noise import Noise, WeightNoise
from pyro_vae.bayesian.posteriors import FullCovariance, LowRank, MatrixVariate, MeanField, WeightPosterior
from pyro_vae.bayesian.priors import IsotropicNormal, ScaleMixture
from pyro_vae.bayesian.random import bayesian_, bayesian_layers, sample_posterior, sample_prior

__all__ = [
    "BayesianConv2d",
    "BayesianConvTranspose2d",
    "BayesianLayer",
    "BayesianLinear",
    "FullCovariance",
    "IsotropicNormal",
    "LowRank",
    "MatrixVariate",
    "MeanField",
    "Noise",
    "ScaleMixture",
    "WeightNoise",
    "WeightPosterior",
    "bayesian_",
    "bayesian_layers",
    "sample_posterior",
    "sample_prior",
]
