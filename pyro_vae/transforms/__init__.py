"""Transforms: ``context -> bijection``, the steps of a normalizing flow; Pyro's own wherever it has them.

Each step can score any given value, not its own draws alone: where no inverse in closed form is known, it is computed.
"""

from pyro_vae.transforms.autoregressive import InverseAutoregressive, MaskedAutoregressive
from pyro_vae.transforms.base import Step, transform_of, transforms_of
from pyro_vae.transforms.householder import Householder
from pyro_vae.transforms.permutation import Permutation
from pyro_vae.transforms.planar import Planar
from pyro_vae.transforms.radial import Radial
from pyro_vae.transforms.spline import SplineCoupling
from pyro_vae.transforms.sylvester import Sylvester

__all__ = [
    "Householder",
    "InverseAutoregressive",
    "MaskedAutoregressive",
    "Permutation",
    "Planar",
    "Radial",
    "SplineCoupling",
    "Step",
    "Sylvester",
    "transform_of",
    "transforms_of",
]
