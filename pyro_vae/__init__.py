"""Variational autoencoders as Pyro programs."""

from typing import TYPE_CHECKING, Any

from pyro_vae import (
    _importing,  # noqa: F401  # the first, for Ctrl-C while the others are imported
    bayesian,
    conditioning,
    data,
    diagnostics,
    evidence,
    likelihoods,
    models,
    networks,
    posteriors,
    priors,
    transforms,
)
from pyro_vae.check import PairError, check
from pyro_vae.conditioning import impute, sample
from pyro_vae.estimators import names as _estimators
from pyro_vae.estimators.names import *  # noqa: F403
from pyro_vae.hierarchy import BottomUpEncoder, BottomUpVAE, LatentLayer, TopDownVAE, concat
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.networks import MLP, Centered, ConvDecoder, ConvEncoder
from pyro_vae.pair import Pair, pair_method
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.training import Cosine, Cyclical, Linear, NonFiniteError, Run, SpectralPrior, WeightPrior, fit
from pyro_vae.vae import CVAE, VAE

if TYPE_CHECKING:
    from pyro_vae import applications, figures, plotting, runs
    from pyro_vae.runs import load

__all__ = [
    "CVAE",
    "MLP",
    "VAE",
    "Bernoulli",
    "BottomUpEncoder",
    "BottomUpVAE",
    "Centered",
    "ConvDecoder",
    "ConvEncoder",
    "Cosine",
    "Cyclical",
    "DiagonalNormal",
    "Gaussian",
    "LatentLayer",
    "Linear",
    "NonFiniteError",
    "Pair",
    "PairError",
    "Run",
    "SpectralPrior",
    "StandardNormal",
    "TopDownVAE",
    "WeightPrior",
    "applications",
    "bayesian",
    "check",
    "concat",
    "conditioning",
    "data",
    "diagnostics",
    "evidence",
    "figures",
    "fit",
    "impute",
    "likelihoods",
    "load",
    "models",
    "networks",
    "pair_method",
    "plotting",
    "posteriors",
    "priors",
    "runs",
    "sample",
    "transforms",
]
__all__ += _estimators.__all__


def __getattr__(name: str) -> Any:
    """Imports what needs matplotlib or the command line when it is first asked for: it takes longer than the others."""
    if name == "load":
        from pyro_vae.runs import load

        return load
    if name in ("applications", "figures", "plotting", "runs"):
        import importlib

        return importlib.import_module(f"pyro_vae.{name}")
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
