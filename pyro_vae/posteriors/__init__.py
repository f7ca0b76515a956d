"""Posteriors: ``x -> q(z | x)``, a distribution over the latent; the network is passed in.

A posterior tells by ``network_shape(latent_shape)`` what its network has to give.
"""

from pyro_vae.posteriors.base import Posterior
from pyro_vae.posteriors.normal import DiagonalNormal

__all__ = ["DiagonalNormal", "Posterior"]
