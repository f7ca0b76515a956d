"""Posteriors: ``x -> q(z | x)``, a distribution over the latent; the network is passed in.

A posterior tells by ``network_shape(latent_shape)`` what its network has to give.
"""

from pyro_vae.posteriors.base import Posterior
from pyro_vae.posteriors.families import (
    Beta,
    Cauchy,
    Dirichlet,
    Exponential,
    FamilyPosterior,
    Gamma,
    Gumbel,
    Kumaraswamy,
    Laplace,
    Logistic,
    LogNormal,
    StudentT,
    Uniform,
    Weibull,
)
from pyro_vae.posteriors.flow import Flow
from pyro_vae.posteriors.normal import DiagonalNormal, FullNormal, LowRankNormal
from pyro_vae.posteriors.semi_implicit import SemiImplicitNormal
from pyro_vae.posteriors.sphere import PowerSpherical, VonMisesFisher

__all__ = [
    "Beta",
    "Cauchy",
    "DiagonalNormal",
    "Dirichlet",
    "Exponential",
    "FamilyPosterior",
    "Flow",
    "FullNormal",
    "Gamma",
    "Gumbel",
    "Kumaraswamy",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LowRankNormal",
    "Posterior",
    "PowerSpherical",
    "SemiImplicitNormal",
    "StudentT",
    "Uniform",
    "VonMisesFisher",
    "Weibull",
]
