"""Distributions that Pyro does not ship."""

from pyro_vae.distributions.normal import LowRankNormal, MultivariateNormal
from pyro_vae.distributions.sphere import PowerSpherical, SphereUniform, VonMisesFisher, sphere

__all__ = [
    "LowRankNormal",
    "MultivariateNormal",
    "PowerSpherical",
    "SphereUniform",
    "VonMisesFisher",
    "sphere",
]
