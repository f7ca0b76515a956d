"""Every system and every part of the package, one row each: how a small one is made, and what it can.

The lists of the tests are made of these rows, so that a new system or part is a new row and is held to all laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro.distributions as dist
import scipy.special
import scipy.stats
import torch
from laws import MADE, VARIANTS
from pairs import binary
from torch import nn

from pyro_vae import MLP, VAE, Bernoulli, DiagonalNormal, distributions, posteriors, priors
from pyro_vae.estimators import Estimator
from pyro_vae.models import (
    MLPVAE,
    NVAE,
    VQVAE,
    Autoencoder,
    CodePrior,
    ConvLadderVAE,
    ConvVAE,
    FullBayes,
    HierarchicalVAE,
    LadderVAE,
    SemiSupervisedVAE,
    VampVAE,
    VariationalGP,
)
from pyro_vae.testing.distributions import Points
from pyro_vae.transforms import (
    Householder,
    InverseAutoregressive,
    MaskedAutoregressive,
    Permutation,
    Planar,
    Radial,
    SplineCoupling,
    Step,
    Sylvester,
)

IMAGE = (1, 8, 8)


@dataclass(frozen=True)
class System:
    """A row of a system.

    Attributes:
        kind: the class.
        make: a small one, with ``options`` of the class; random by torch's generator.
        batch: arguments of its programs.
        discrete: whether a latent is discrete, so that no Hamiltonian Monte Carlo takes it.
        prior: whether it has a prior to draw from.
        closed_form: whether SGVB_B takes it.
    """

    kind: type[nn.Module]
    make: Callable[..., Any]
    batch: Callable[[], tuple[Any, ...]] = lambda: (binary(*IMAGE),)
    discrete: bool = False
    prior: bool = True
    closed_form: bool = True

    def __call__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.make(), self.batch()


def vq_vae(**options: Any) -> VQVAE:
    sizes = {"num_codes": 6, "code_dim": 4, "channels": 8, "num_blocks": 1, "block_channels": 4}
    return VQVAE(IMAGE, **{**sizes, **options})


def code_prior(**options: Any) -> CodePrior:
    """On codes that have seen data: a run of the guide in training mode moves them."""
    first = vq_vae().train()
    with torch.no_grad():
        first.guide(binary(*IMAGE, size=8))
    return CodePrior(first, **{"channels": 4, "num_layers": 1, **options})


SYSTEMS: dict[str, System] = {
    "MLPVAE": System(MLPVAE, lambda **o: MLPVAE(IMAGE, **{"latent_dim": 3, "hidden": (16,), **o})),
    "ConvVAE": System(ConvVAE, lambda **o: ConvVAE(IMAGE, **{"latent_dim": 3, "channels": (2, 4), "hidden": 8, **o})),
    "VampVAE": System(
        VampVAE,
        lambda **o: VampVAE((6,), **{"latent_dim": 2, "hidden": (8,), "num_components": 4, **o}),
        lambda: (binary(6),),
    ),
    "VariationalGP": System(
        VariationalGP,
        lambda **o: VariationalGP((6,), 2, **{"hidden": (8,), "num_inducing": 4, "input_dim": 3, **o}),
        lambda: (binary(6),),
        closed_form=False,
    ),
    "Autoencoder": System(
        Autoencoder,
        lambda **o: Autoencoder((6,), **{"latent_dim": 3, "hidden": (8,), **o}),
        lambda: (binary(6),),
        prior=False,
    ),
    "SemiSupervisedVAE": System(
        SemiSupervisedVAE,
        lambda **o: SemiSupervisedVAE((6,), **{"num_classes": 3, "latent_dim": 2, "hidden": (8,), **o}),
        lambda: (binary(6), torch.tensor([1, -1, 0, -1, 2])),
        discrete=True,
        closed_form=False,
    ),
    "FullBayes": System(
        FullBayes,
        lambda **o: FullBayes(MLPVAE((6,), 2, (8,)), **o),
        lambda: (binary(6),),
    ),
    "HierarchicalVAE": System(
        HierarchicalVAE,
        lambda **o: HierarchicalVAE(IMAGE, **{"latent_dims": (4, 3), "hidden": (16, 8), **o}),
        closed_form=False,
    ),
    "LadderVAE": System(LadderVAE, lambda **o: LadderVAE(IMAGE, **{"latent_dims": (4, 3), "hidden": (16, 8), **o})),
    "ConvLadderVAE": System(
        ConvLadderVAE,
        lambda **o: ConvLadderVAE(IMAGE, **{"latent_dims": (2, 3), "channels": (4, 8), "strides": (2, 4), **o}),
    ),
    "NVAE": System(
        NVAE,
        lambda **o: NVAE(
            IMAGE, **{"channels": 4, "latent_channels": 2, "groups": (1, 1), "cells": 1, "expansion": 2, **o}
        ),
    ),
    "VQVAE": System(VQVAE, vq_vae, discrete=True),
    "CodePrior": System(CodePrior, code_prior, discrete=True),
}


@dataclass(frozen=True)
class Objective:
    """A row of an estimator: how it is made, and see :class:`~pyro_vae.testing.EstimatorLaws`."""

    make: Callable[..., Estimator]
    unbiased: tuple[str, ...] = ("model", "guide")
    side: str | None = "below"


def _objectives() -> dict[str, Objective]:
    rows = {name: Objective(make) for name, make in {**MADE, **VARIANTS}.items()}
    for name in rows:
        if name.startswith(("PIWAE", "WakeSleep", "ReweightedWakeSleep")):
            rows[name] = replace(rows[name], unbiased=("model",))
    rows["Renyi, negative"] = replace(rows["Renyi, negative"], side=None)
    return rows


ESTIMATORS = _objectives()


# Distributions: what differs of each from pyro_vae.testing.DistributionLaws


def _negative_binomial(total_count: Any, logits: Any) -> Any:
    # scipy's p is the probability of what stops the count.
    return scipy.stats.nbinom(total_count, 1 / (1 + np.exp(logits)))


def _levels(p: Any) -> Points:
    values = torch.arange(p.num_levels, dtype=torch.float64) / (p.num_levels - 1)
    return Points(values, torch.ones_like(values))


class Kumaraswamy:
    """By hand: scipy has none."""

    def __init__(self, concentration1: Any, concentration0: Any) -> None:
        self.a, self.b = concentration1, concentration0

    def logpdf(self, z: Any) -> Any:
        return np.log(self.a * self.b) + (self.a - 1) * np.log(z) + (self.b - 1) * np.log1p(-(z**self.a))


def _to_sphere(family: Any) -> Callable[..., Any]:
    return lambda loc, concentration: family(loc / loc.norm(dim=-1, keepdim=True), concentration)


_LOC_SCALE = {"parameters": {"loc": 0.4, "scale": 1.7}, "other": {"loc": -0.3, "scale": 0.9}}
_BAD_SCALE = {"bad": {"scale": -1.0, "loc": math.nan}}
_MIXTURE = {"logits": [0.3, -0.5], "loc": [0.2, 0.9], "scale": [0.07, 0.5]}
_MATRIX = {
    "loc": [[0.3, -0.2], [0.1, 0.5]],
    "row_tril": [[0.7, 0.0], [0.3, 1.1]],
    "column_tril": [[0.9, 0], [-0.4, 0.6]],
}
_CORRELATED = {"loc": [0.4, -0.3, 0.1], "scale": [0.7, 1.2, 0.9], "factor": [[0.5, 0.1], [-0.3, 0.4], [0.2, 0.6]]}
_TRIL = [[0.7, 0.0], [-0.4, 1.2]]
_SPHERE = {
    "parameters": {"loc": [0.6, -0.48, 0.64], "concentration": 2.0},
    "other": {"concentration": 0.7},
    "proposal": lambda p: distributions.SphereUniform(3, dtype=torch.float64),
    "priors": (lambda: distributions.SphereUniform(3, dtype=torch.float64),),
    "num_draws": 10_000,
    "bad": {"concentration": -1.0, "loc": [0.0, 0.0, 0.0]},
}


def _normal(*shape: int) -> Callable[[], Any]:
    return lambda: dist.Normal(torch.full(shape, 0.2).double(), 1.3).to_event(len(shape))


DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "Exponential": {
        "make": distributions.Exponential,
        "parameters": {"rate": 1.7},
        "other": {"rate": 0.6},
        "reference": lambda rate: scipy.stats.expon(scale=1 / rate),
        "bad": {"rate": 0.0},
    },
    "Cauchy": {"make": distributions.Cauchy, "reference": scipy.stats.cauchy, **_LOC_SCALE, **_BAD_SCALE},
    "Logistic": {"make": distributions.Logistic, "reference": scipy.stats.logistic, **_LOC_SCALE},
    "Gumbel": {"make": distributions.Gumbel, "reference": scipy.stats.gumbel_r, **_LOC_SCALE, **_BAD_SCALE},
    "Laplace": {"make": distributions.Laplace, "reference": scipy.stats.laplace, **_LOC_SCALE, **_BAD_SCALE},
    "LogNormal": {
        "make": distributions.LogNormal,
        "reference": lambda loc, scale: scipy.stats.lognorm(scale, scale=np.exp(loc)),
        "parameters": {"loc": 0.4, "scale": 0.7},
        "other": {"loc": -0.3, "scale": 0.9},
    },
    "Weibull": {
        "make": distributions.Weibull,
        "parameters": {"scale": 1.7, "concentration": 0.8},
        "other": {"scale": 0.4, "concentration": 1.8},
        "reference": lambda scale, concentration: scipy.stats.weibull_min(concentration, scale=scale),
        "extremes": [{"scale": 0.02, "concentration": 0.02}],
    },
    "Kumaraswamy": {
        "make": distributions.Kumaraswamy,
        "parameters": {"concentration1": 0.8, "concentration0": 1.7},
        "other": {"concentration1": 1.3},
        "reference": Kumaraswamy,
        "extremes": [{"concentration1": 0.02, "concentration0": 0.02}],
    },
    "StudentT": {
        "make": distributions.StudentT,
        "parameters": {"df": 2.6, "loc": 0.4, "scale": 1.7},
        "other": {"df": 5.0},
        "reference": scipy.stats.t,
    },
    "Uniform": {
        "make": distributions.Uniform,
        "parameters": {"low": 0.3, "high": 0.8},
        "other": {"low": 0.1, "high": 1.3},
        "reference": lambda low, high: scipy.stats.uniform(low, high - low),
        "extremes": [{"low": 1.0, "high": 1 + 4e-7}, {"low": -1.0, "high": -1 + 4e-7}],
    },
    "Gamma": {
        "make": distributions.Gamma,
        "parameters": {"concentration": 0.6, "rate": 1.7},
        "other": {"concentration": 1.4, "rate": 0.9},
        "reference": lambda concentration, rate: scipy.stats.gamma(concentration, scale=1 / rate),
    },
    "Beta": {
        "make": distributions.Beta,
        "parameters": {"concentration1": 0.6, "concentration0": 1.7},
        "other": {"concentration1": 1.3, "concentration0": 1.1},
        "reference": lambda concentration1, concentration0: scipy.stats.beta(concentration1, concentration0),
    },
    "Dirichlet": {
        "make": distributions.Dirichlet,
        "parameters": {"concentration": [0.6, 1.7, 2.5]},
        "other": {"concentration": [1.1, 0.9, 1.4]},
        "reference": lambda concentration: SimpleNamespace(
            logpdf=lambda x: scipy.stats.dirichlet(concentration).logpdf((x / x.sum(-1, keepdims=True)).T)
        ),
        "proposal": lambda p: dist.Dirichlet(torch.tensor([0.8, 1.0, 1.0]).double()),
    },
    "PowerSpherical": {"make": _to_sphere(distributions.PowerSpherical), **_SPHERE},
    "VonMisesFisher": {
        "make": _to_sphere(distributions.VonMisesFisher),
        **_SPHERE,
        "parameters": {"loc": [-0.8, 0.0, -0.6], "concentration": 2.0},
    },
    "MultivariateNormal": {
        "make": lambda loc, scale_tril: distributions.MultivariateNormal(loc, scale_tril=scale_tril),
        "parameters": {"loc": [0.4, -0.3], "scale_tril": _TRIL},
        "other": {"loc": [0.1, 0.2]},
        "reference": lambda loc, scale_tril: scipy.stats.multivariate_normal(loc, scale_tril @ scale_tril.T),
        "priors": (_normal(2),),
    },
    "LowRankNormal": {
        "make": distributions.LowRankNormal,
        "parameters": _CORRELATED,
        "other": {"loc": [0.1, 0.2, 0.3]},
        "reference": lambda loc, scale, factor: scipy.stats.multivariate_normal(
            loc, (np.eye(3) + factor @ factor.T) * scale * scale[:, None]
        ),
        "priors": (_normal(3),),
    },
    "MatrixNormal": {
        "make": distributions.MatrixNormal,
        "parameters": _MATRIX,
        "other": {"loc": [[0.1, 0.2], [0.3, 0.4]]},
        "reference": lambda loc, row_tril, column_tril: scipy.stats.matrix_normal(
            loc, row_tril @ row_tril.T, column_tril @ column_tril.T
        ),
        "priors": (_normal(2, 2),),
    },
    "Rows": {
        "make": lambda loc, scale_tril: distributions.Rows(
            distributions.MultivariateNormal(loc, scale_tril=scale_tril), (1, 2)
        ),
        "parameters": {"loc": [0.4, -0.3], "scale_tril": _TRIL},
        "other": {"loc": [0.1, 0.2]},
        "priors": (_normal(1, 2),),
    },
    "ContinuousBernoulli": {
        "make": lambda logits: distributions.ContinuousBernoulli(logits=logits),
        "parameters": {"logits": 0.7},
        "other": {"logits": -3.0},
        "extremes": [{"logits": sign * value} for sign in (-1, 1) for value in (0.0, 1e-8, 0.999, 17.0, 1e4, 1e30)],
    },
    "Poisson": {
        "make": distributions.Poisson,
        "parameters": {"log_rate": 1.1},
        "other": {"log_rate": 0.3},
        "reference": lambda log_rate: scipy.stats.poisson(np.exp(log_rate)),
        "extremes": [{"log_rate": value} for value in (-200.0, 15.0)],
        "reparameterized": False,
    },
    "NegativeBinomial": {
        "make": lambda total_count, logits: distributions.NegativeBinomial(total_count, logits=logits),
        "parameters": {"total_count": 7.0, "logits": 0.3},
        "other": {"total_count": 19.0},
        "reference": _negative_binomial,
        "reparameterized": False,
    },
    "QuantizedCategorical": {
        "make": distributions.QuantizedCategorical,
        "parameters": {"logits": [0.3, -0.5, 1.0, 0.0, 0.7]},
        "other": {"logits": [0.0, 0.1, 0.2, 0.3, 0.4]},
        "points": _levels,
        "reference": lambda logits: SimpleNamespace(
            logpmf=lambda x: scipy.special.log_softmax(logits)[np.rint(4 * x).astype(int)]
        ),
        "reparameterized": False,
    },
    "DiscretizedLogistic": {
        "make": lambda loc, scale: distributions.DiscretizedLogistic(loc, scale, 8),
        "parameters": {"loc": 0.4, "scale": 0.07},
        "other": {"loc": 0.9, "scale": 0.5},
        "points": _levels,
        "reparameterized": False,
    },
    "DiscretizedLogisticMixture": {
        "make": lambda logits, loc, scale: distributions.DiscretizedLogisticMixture(logits, loc, scale, 8),
        "parameters": _MIXTURE,
        "other": {"loc": [0.5, 0.6]},
        "points": _levels,
        "reparameterized": False,
    },
}
for _name in (
    *("Exponential", "Cauchy", "Gumbel", "Laplace", "LogNormal", "Weibull", "Uniform", "Gamma", "Beta", "Dirichlet"),
    *("MultivariateNormal", "ContinuousBernoulli"),
):
    DISTRIBUTIONS[_name] = {**DISTRIBUTIONS[_name], "closed_form": True}


# Steps of flows: (make, what differs from pyro_vae.testing.TransformLaws)

_AUTOREGRESSIVE = {"network": True, "in_order": True}
TRANSFORMS: dict[str, tuple[Callable[..., Step], dict[str, Any]]] = {
    "Planar": (Planar, {}),
    "Radial": (Radial, {}),
    "Householder": (Householder, {}),
    "Householder, 4": (partial(Householder, num_reflections=4), {}),
    "Sylvester": (Sylvester, {}),
    "Sylvester, square": (lambda *sizes: Sylvester(*sizes, num_columns=sizes[0]), {}),
    "Sylvester, householder": (partial(Sylvester, form="householder", num_reflections=3), {}),
    "Sylvester, triangular": (partial(Sylvester, form="triangular"), {}),
    "Sylvester, reversed": (partial(Sylvester, form="triangular", reverse=True), {}),
    "InverseAutoregressive": (partial(InverseAutoregressive, hidden=(16, 8)), _AUTOREGRESSIVE),
    "InverseAutoregressive, affine": (
        partial(InverseAutoregressive, hidden=(16,), gated=False, reverse=False),
        _AUTOREGRESSIVE,
    ),
    "MaskedAutoregressive": (partial(MaskedAutoregressive, hidden=(16,)), _AUTOREGRESSIVE),
    "MaskedAutoregressive, gated": (partial(MaskedAutoregressive, hidden=(16,), gated=True), _AUTOREGRESSIVE),
    "SplineCoupling": (partial(SplineCoupling, hidden=(16,)), {"least_dim": 2, "network": True}),
    "SplineCoupling, narrow": (
        partial(SplineCoupling, hidden=(16,), num_bins=3, bound=1.0),
        {"least_dim": 2, "network": True},
    ),
    "Permutation": (Permutation, {"learned": False}),
    "Permutation, seeded": (partial(Permutation, order=3), {"learned": False}),
}


# Latents


@dataclass(frozen=True)
class Latent:
    """A row of a prior with a posterior of its support.

    Attributes:
        make: both, for the latent's shape and data of 6 numbers.
        closed_form: whether a KL from the posterior to the prior is registered.
        learned: whether the prior has parameters.
        shapes: of latents that they take.
    """

    make: Callable[[tuple[int, ...]], tuple[Any, Any]]
    closed_form: bool = True
    learned: bool = False
    shapes: tuple[tuple[int, ...], ...] = ((3,), (2, 4))

    def prior(self, shape: tuple[int, ...] = (3,)) -> Any:
        return self.make(shape)[0]

    def posterior(self, shape: tuple[int, ...] = (3,)) -> Any:
        return self.make(shape)[1]

    def pair(self) -> VAE:
        return VAE(*self.make((3,)), Bernoulli(MLP(3, 6, ())))


def encoder(kind: Any = DiagonalNormal, shape: tuple[int, ...] = (3,), **options: Any) -> Any:
    """A posterior of a class, for data of 6 numbers, with the linear network that it asks for."""
    return kind(MLP(6, kind(nn.Identity(), **options).network_shape(shape), ()), **options)


def _both(prior: Any, kind: Any = DiagonalNormal, **options: Any) -> Callable[..., Any]:
    return lambda shape: (prior(shape), encoder(kind, shape, **options))


def _vamp(shape: tuple[int, ...]) -> tuple[Any, Any]:
    posterior = encoder(shape=shape)
    return priors.VampPrior(posterior, 6, 4), posterior


def _flow_prior(shape: tuple[int, ...]) -> Any:
    return priors.Flow(priors.LearnedNormal(shape, 0.4, 1.3), [Radial(shape[-1])], invert=True)


def _flow_posterior(shape: tuple[int, ...]) -> tuple[Any, Any]:
    steps = [Planar(shape[-1]), Planar(shape[-1], 6)]
    return priors.StandardNormal(shape), posteriors.Flow(encoder(shape=shape), steps)


def _semi_implicit(shape: tuple[int, ...]) -> tuple[Any, Any]:
    q = posteriors.SemiImplicitNormal(MLP(6, 4, (4,)), MLP(4 + 2, (2, *shape), (4,)), noise_dim=2, num_mixtures=2)
    return priors.StandardNormal(shape), q


_VECTOR: dict[str, Any] = {"shapes": ((3,),)}
# The families whose prior and posterior are of one name, and whether the KL between them is in closed form.
FAMILIES = {
    "Exponential": True,
    "Cauchy": True,
    "Logistic": False,
    "Gumbel": True,
    "Weibull": True,
    "Kumaraswamy": False,
    "Laplace": True,
    "StudentT": False,
    "LogNormal": True,
    "Gamma": True,
    "Beta": True,
    "Dirichlet": True,
}


def _of_families(**options: Any) -> dict[str, Latent]:
    suffix = ", learned" if options else ""
    return {
        f"{name}{suffix}": Latent(
            _both(partial(getattr(priors, name), **options), getattr(posteriors.families, name)), closed, bool(options)
        )
        for name, closed in FAMILIES.items()
    }


PRIORS: dict[str, Latent] = {
    "StandardNormal": Latent(_both(priors.StandardNormal)),
    "LearnedNormal": Latent(_both(priors.LearnedNormal), learned=True),
    "MixtureOfNormals": Latent(_both(partial(priors.MixtureOfNormals, num_components=4)), False, True),
    "VampPrior": Latent(_vamp, False, True),
    "Flow": Latent(lambda shape: (_flow_prior(shape), encoder(shape=shape)), False, True),
    "Uniform": Latent(_both(priors.Uniform, posteriors.families.Uniform)),
    "SparseBeta": Latent(_both(priors.SparseBeta, posteriors.Beta)),
    **_of_families(),
    **_of_families(learned=True),
    "SphereUniform": Latent(_both(priors.SphereUniform, posteriors.PowerSpherical), **_VECTOR),
}
POSTERIORS: dict[str, Latent] = {
    "DiagonalNormal": PRIORS["StandardNormal"],
    "Uniform": PRIORS["Uniform"],
    **_of_families(),
    "FullNormal": Latent(_both(priors.StandardNormal, posteriors.FullNormal), **_VECTOR),
    "LowRankNormal": Latent(_both(priors.StandardNormal, posteriors.LowRankNormal, rank=2), **_VECTOR),
    "PowerSpherical": PRIORS["SphereUniform"],
    "VonMisesFisher": Latent(_both(priors.SphereUniform, posteriors.VonMisesFisher), **_VECTOR),
    "Flow": Latent(_flow_posterior, False, **_VECTOR),
    "SemiImplicitNormal": Latent(_semi_implicit, False),
}
