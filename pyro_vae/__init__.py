"""Variational autoencoders as Pyro programs."""

from pyro_vae import data, diagnostics, evidence, models, plotting
from pyro_vae.check import PairError, check
from pyro_vae.contract import Pair, pair_method
from pyro_vae.estimators import SGVB_A, SGVB_B
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.training import Cosine, Linear, NonFiniteError, Run, WeightPrior, fit
from pyro_vae.vae import VAE

__all__ = [
    "MLP",
    "SGVB_A",
    "SGVB_B",
    "VAE",
    "Bernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "Cosine",
    "DiagonalNormal",
    "Gaussian",
    "Linear",
    "NonFiniteError",
    "Pair",
    "PairError",
    "Run",
    "StandardNormal",
    "WeightPrior",
    "check",
    "data",
    "diagnostics",
    "evidence",
    "fit",
    "models",
    "pair_method",
    "plotting",
]
