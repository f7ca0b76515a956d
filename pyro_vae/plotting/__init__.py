"""Arrays -> figures.

Every function takes what ``numpy.asarray`` takes (an array, nested lists, a CPU tensor without gradients) and returns a
``matplotlib.figure.Figure``. Pyplot is never imported, no backend is chosen and ``matplotlib.rcParams`` is left as it
was. A figure shows itself as the last expression of a notebook cell (or by ``display(figure)``), and :func:`save`
writes it (:func:`animation` is the exception: it writes its GIF itself):

>>> import numpy as np
>>> from pyro_vae import plotting
>>> figure = plotting.samples(np.random.default_rng(0).random((16, 28, 28)))
>>> plotting.save(figure, "runs/samples.png")                                             # doctest: +SKIP

Images are [N, C, H, W] or [N, H, W] with C in {1, 3} and values in [0, 1]. Values that leave [0, 1] by at most half of
it (the mean of a Gaussian likelihood may) are clipped; values further out mean another scale, and are an error.
"""

from pyro_vae.plotting.curves import learning_curves
from pyro_vae.plotting.densities import densities
from pyro_vae.plotting.estimators import gradients
from pyro_vae.plotting.latents import active_units, latent_scatter, planes
from pyro_vae.plotting.levels import levels, site_name
from pyro_vae.plotting.lines import lines
from pyro_vae.plotting.missing import observed_and_imputed
from pyro_vae.plotting.mosaics import (
    animation,
    classes,
    classes_and_styles,
    image_grid,
    interpolations,
    manifold,
    manifold_grid,
    reconstructions,
    resampled,
    restorations,
    samples,
    traversals,
)
from pyro_vae.plotting.style import save
from pyro_vae.plotting.tiles import colored

__all__ = [
    "active_units",
    "animation",
    "classes",
    "classes_and_styles",
    "colored",
    "densities",
    "gradients",
    "image_grid",
    "interpolations",
    "latent_scatter",
    "learning_curves",
    "levels",
    "lines",
    "manifold",
    "manifold_grid",
    "observed_and_imputed",
    "planes",
    "reconstructions",
    "resampled",
    "restorations",
    "samples",
    "save",
    "site_name",
    "traversals",
]
