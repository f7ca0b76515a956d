"""Distributions that Pyro does not ship, or ships without what training asks of them."""

from pyro_vae.distributions.classes import ClassNumber
from pyro_vae.distributions.experts import MixtureOfExperts, product_of_experts
from pyro_vae.distributions.families import (
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
    StudentT,
    Uniform,
    Weibull,
)
from pyro_vae.distributions.matrix import MatrixNormal, Rows
from pyro_vae.distributions.normal import LowRankNormal, MultivariateNormal
from pyro_vae.distributions.pixels import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    NegativeBinomial,
    OptimalNormal,
    Poisson,
    QuantizedCategorical,
    UniformLevels,
)
from pyro_vae.distributions.sphere import PowerSpherical, SphereUniform, VonMisesFisher, unit_vector
from pyro_vae.distributions.steps import MarkovNormal

__all__ = [
    "Beta",
    "Cauchy",
    "ClassNumber",
    "ContinuousBernoulli",
    "Dirichlet",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Exponential",
    "Gamma",
    "Gumbel",
    "Kumaraswamy",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LowRankNormal",
    "MarkovNormal",
    "MatrixNormal",
    "MixtureOfExperts",
    "MultivariateNormal",
    "NegativeBinomial",
    "OptimalNormal",
    "Poisson",
    "PowerSpherical",
    "QuantizedCategorical",
    "Rows",
    "SphereUniform",
    "StudentT",
    "Uniform",
    "UniformLevels",
    "VonMisesFisher",
    "Weibull",
    "product_of_experts",
    "unit_vector",
]
