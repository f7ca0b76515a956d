"""Likelihoods: ``z -> p(x | z)``, a distribution over one datum; the network is passed in.

All take ``z: [*, B, latent_dim]`` and give a distribution with batch shape ``[*, B]`` and the event shape of x. A
likelihood tells by ``network_shape(event_shape)`` what its network has to give.
"""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.pixels import Bernoulli, Gaussian

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]
