r"""Denoising, inpainting and super-resolution by inference in a fitted pair.

A degraded image y comes of an image x by a known :class:`Observation` p(y | x). With the pair's p(z) and p(x | z)

.. math:: p(z \mid y) \propto p(z) \, p(y \mid z), \qquad p(y \mid z) = \int p(x \mid z) \, p(y \mid x) \, dx

and the restoration is :math:`E[x \mid z, y]` at the z of the greatest density, or its mean over draws of
:math:`p(z \mid y)`, that is :math:`E[x \mid y]`, which has the least expected squared error under the model.
:class:`Observed` is the pair of p(z), p(y | z) and q(z | crude restoration of y), for all that takes pairs.
"""

from pyro_vae.applications.restoration.application import Restorations, RestorationScore, psnr, restore
from pyro_vae.applications.restoration.baselines import filtered, interpolated, upscaled
from pyro_vae.applications.restoration.inference import Observed, Restored, infer
from pyro_vae.applications.restoration.observations import (
    GaussianObservation,
    MaskedObservation,
    Observation,
    Pixels,
    SaltAndPepperObservation,
)

__all__ = [
    "GaussianObservation",
    "MaskedObservation",
    "Observation",
    "Observed",
    "Pixels",
    "RestorationScore",
    "Restorations",
    "Restored",
    "SaltAndPepperObservation",
    "filtered",
    "infer",
    "interpolated",
    "psnr",
    "restore",
    "upscaled",
]
