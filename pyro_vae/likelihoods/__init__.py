"""Likelihoods: ``z -> p(x | z)``, a distribution over one datum; the network is passed in.

All take ``z: [*, B, latent_dim]`` and give a distribution with batch shape ``[*, B]`` and the event shape of x. A
likelihood tells by ``network_shape(event_shape)`` what its network has to give.

==================  ================================================================================================
data                likelihood
==================  ================================================================================================
0 and 1             :class:`Bernoulli`
in [0, 1]           :class:`ContinuousBernoulli`
levels k / 255      :class:`Categorical`, :class:`DiscretizedLogistic`, :class:`MixtureOfDiscretizedLogistics`
real                :class:`Normal`, :class:`Laplace`, :class:`StudentT`
counts 0, 1, 2 ..   :class:`Poisson`, :class:`NegativeBinomial`
classes             :class:`Classes`
==================  ================================================================================================

A density is in other units than a probability: see :func:`bits_per_dim` before comparing across the rows.
"""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.classes import Classes
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.likelihoods.pixels import Bernoulli, ContinuousBernoulli
from pyro_vae.likelihoods.quantized import Categorical, DiscretizedLogistic, MixtureOfDiscretizedLogistics
from pyro_vae.likelihoods.real import Gaussian, Laplace, LocationScale, Normal, StudentT
from pyro_vae.likelihoods.units import bits_per_dim

__all__ = [
    "Bernoulli",
    "Categorical",
    "Classes",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LocationScale",
    "MixtureOfDiscretizedLogistics",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "bits_per_dim",
]
