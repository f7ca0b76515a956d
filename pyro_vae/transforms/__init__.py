"""Transforms: ``context -> bijection``, the steps of a normalizing flow, and the distribution that they make.

Each step can score any given value: where no inverse in closed form is known, it is computed. A step of one's own is a
subclass of :class:`Step`; torch's and Pyro's stand beside them as they are.
"""

from pyro_vae.transforms.autoregressive import InverseAutoregressive, MaskedAutoregressive
from pyro_vae.transforms.base import Bijection, Parameters, Step
from pyro_vae.transforms.flow import NormalizingFlow
from pyro_vae.transforms.householder import Householder
from pyro_vae.transforms.permutation import Permutation
from pyro_vae.transforms.planar import Planar
from pyro_vae.transforms.radial import Radial
from pyro_vae.transforms.spline import SplineCoupling
from pyro_vae.transforms.sylvester import Sylvester

__all__ = [
    "Bijection",
    "Householder",
    "InverseAutoregressive",
    "MaskedAutoregressive",
    "NormalizingFlow",
    "Parameters",
    "Permutation",
    "Planar",
    "Radial",
    "SplineCoupling",
    "Step",
    "Sylvester",
]
