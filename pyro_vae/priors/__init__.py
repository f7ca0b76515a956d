"""Priors: ``() -> p(z)``, a distribution over one datum's latent, with its event dimensions declared."""

from pyro_vae.priors.families import (
    Beta,
    Cauchy,
    Dirichlet,
    Exponential,
    Gamma,
    Gumbel,
    Kumaraswamy,
    Laplace,
    Logistic,
    LogNormal,
    SparseBeta,
    StudentT,
    Uniform,
    Weibull,
)
from pyro_vae.priors.flow import Flow, MaskedAutoregressiveFlow
from pyro_vae.priors.mixtures import MixtureOfNormals, VampPrior
from pyro_vae.priors.normal import LearnedNormal, StandardNormal
from pyro_vae.priors.sphere import SphereUniform

__all__ = [
    "Beta",
    "Cauchy",
    "Dirichlet",
    "Exponential",
    "Flow",
    "Gamma",
    "Gumbel",
    "Kumaraswamy",
    "Laplace",
    "LearnedNormal",
    "LogNormal",
    "Logistic",
    "MaskedAutoregressiveFlow",
    "MixtureOfNormals",
    "SparseBeta",
    "SphereUniform",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "VampPrior",
    "Weibull",
]
