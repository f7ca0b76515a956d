"""Every system, part and estimator of the package, one row each: how a small one is made, and what it can.

The lists of the tests are made of these rows, so that what is new is one more row and is held to all laws;
``test_registry.py`` finds what has none. :mod:`pairs` has the pairs that are written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from laws import MADE, VARIANTS
from pairs import binary, real
from scipy import stats
from scipy.special import log_softmax
from torch import Tensor, nn

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    DiagonalNormal,
    Gaussian,
    bayesian,
    distributions,
    likelihoods,
    networks,
    posteriors,
    priors,
    transforms,
)
from pyro_vae.estimators import Estimator
from pyro_vae.models import (
    GRUVAE,
    MLPVAE,
    NVAE,
    VQVAE,
    Autoencoder,
    CodePrior,
    ConditionalVAE,
    ConvLadderVAE,
    ConvVAE,
    DeepMarkovModel,
    FullBayes,
    HierarchicalVAE,
    IncompleteVAE,
    LabeledVAE,
    LadderVAE,
    MultimodalVAE,
    ProbabilisticUNet,
    SemiSupervisedVAE,
    VampVAE,
    VariationalGP,
)
from pyro_vae.models.multimodal import Modality
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


def images() -> tuple[Tensor, ...]:
    return (binary(*IMAGE),)


def vectors() -> tuple[Tensor, ...]:
    return (binary(6),)


def gray(*event_shape: int, size: int = 5) -> torch.Tensor:
    """Gray levels, the lowest and the highest among them."""
    k = torch.randint(256, (size, *event_shape), generator=torch.Generator().manual_seed(5))
    k.view(-1)[:2] = torch.tensor([0, 255])
    return k / 255


def uniform(*event_shape: int, size: int = 5) -> torch.Tensor:
    return torch.rand(size, *event_shape, generator=torch.Generator().manual_seed(4))


def counts(*event_shape: int, size: int = 5) -> torch.Tensor:
    return torch.randint(20, (size, *event_shape), generator=torch.Generator().manual_seed(6)).float()


def classes(*event_shape: int, size: int = 5) -> torch.Tensor:
    return torch.randint(5, (size, *event_shape), generator=torch.Generator().manual_seed(7)).float()


def whole(num: int, *event_shape: int, size: int = 5) -> torch.Tensor:
    """Classes, the whole numbers below ``num``."""
    return torch.randint(num, (size, *event_shape), generator=torch.Generator().manual_seed(7))


# Systems


@dataclass(frozen=True)
class System:
    """A row of a system. ``SYSTEMS["MLPVAE"](mean=x.mean(0))`` makes one with other options of its class.

    Attributes:
        kind: the class, or what makes one.
        options: that make it small.
        batch: gives the arguments of its programs.
        idle: see :class:`~pyro_vae.testing.PairLaws`.
    """

    kind: Callable[..., Any]
    options: dict[str, Any]
    batch: Callable[[], tuple[Any, ...]] = images
    idle: tuple[str, ...] = ()

    def __call__(self, **options: Any) -> Any:
        return self.kind(**{**self.options, **options})

    def but(self, batch: Callable[[], tuple[Any, ...]] | None = None, **options: Any) -> System:
        """The row with other options."""
        return replace(self, options={**self.options, **options}, batch=batch or self.batch)


def full_bayes(pair: Callable[[], Any] | None = None, **options: Any) -> FullBayes:
    return FullBayes(SYSTEMS["MLPVAE"]() if pair is None else pair(), **options)


def code_prior(first: dict[str, Any] | None = None, **options: Any) -> CodePrior:
    """On codes that have met data: a run of the guide in training moves them."""
    codes = SYSTEMS["VQVAE"](**(first or {})).train()
    with torch.no_grad():
        codes.guide(*images())
    return CodePrior(codes, **options)


def several(**options: Any) -> MultimodalVAE:
    """Pixels, a class and counts."""

    def modality(shape: int, likelihood: Any) -> Modality:
        return Modality(DiagonalNormal(MLP(shape, (2, 2), (8,))), likelihood)

    modalities = {
        "image": modality(6, Bernoulli(MLP(2, 6, (8,)))),
        "label": modality(3, likelihoods.Classes(MLP(2, 3, (8,)), 3)),
        "profile": modality(2, likelihoods.Poisson(MLP(2, 2, (8,)))),
    }
    return MultimodalVAE(modalities, priors.StandardNormal(2), **options)


LENGTHS = torch.tensor([4, 1, 3, 2, 4])
_SEQUENCE = {"event_shape": (4, 3), "latent_dim": 2, "transition_dim": 6, "hidden": (8,), "rnn_dim": 6}
SYSTEMS: dict[str, System] = {
    "MLPVAE": System(MLPVAE, {"event_shape": (6,), "latent_dim": 2, "hidden": (8,)}, vectors),
    "ConvVAE": System(ConvVAE, {"event_shape": IMAGE, "latent_dim": 3, "channels": (2, 4), "hidden": 8}),
    "VampVAE": System(VampVAE, {"event_shape": (6,), "latent_dim": 2, "hidden": (8,), "num_components": 4}, vectors),
    "VariationalGP": System(
        VariationalGP,
        {"event_shape": (6,), "latent_dim": 2, "hidden": (8,), "num_inducing": 4, "input_dim": 3},
        vectors,
    ),
    "Autoencoder": System(Autoencoder, {"event_shape": (6,), "latent_dim": 3, "hidden": (8,)}, vectors),
    "SemiSupervisedVAE": System(
        SemiSupervisedVAE,
        {"event_shape": (6,), "num_classes": 3, "latent_dim": 2, "hidden": (8,)},
        lambda: (binary(6), torch.tensor([1, -1, 0, -1, 2])),
    ),
    "FullBayes": System(full_bayes, {"noise": "shared"}, vectors),
    "HierarchicalVAE": System(
        HierarchicalVAE,
        {"event_shape": (6,), "latent_dims": (4, 3), "hidden": (8, 6), "normalization": "layer"},
        vectors,
    ),
    "IncompleteVAE": System(
        IncompleteVAE,
        {"event_shape": (6,), "latent_dim": 2, "hidden": (8,)},
        lambda: (binary(6), uniform(6) < 0.6),
    ),
    "LadderVAE": System(
        LadderVAE,
        {"event_shape": (6,), "latent_dims": (4, 3), "hidden": (8, 6), "normalization": "batch"},
        vectors,
    ),
    "ConvLadderVAE": System(
        ConvLadderVAE, {"event_shape": IMAGE, "latent_dims": (2, 3), "channels": (4, 6), "strides": (2, 4)}
    ),
    "NVAE": System(
        NVAE,
        {"event_shape": IMAGE, "channels": 4, "latent_channels": 2, "groups": (1, 1), "cells": 1, "expansion": 2},
    ),
    "VQVAE": System(
        VQVAE,
        {"event_shape": IMAGE, "num_codes": 6, "code_dim": 4, "channels": 8, "num_blocks": 1, "block_channels": 4},
    ),
    "DeepMarkovModel": System(DeepMarkovModel, _SEQUENCE, lambda: (binary(4, 3), LENGTHS)),
    "GRUVAE": System(GRUVAE, {"event_shape": (4, 3), "latent_dim": 2, "rnn_dim": 6}, lambda: (binary(4, 3), LENGTHS)),
    "LabeledVAE": System(
        LabeledVAE,
        {"event_shape": (6,), "num_classes": 3, "latent_dim": 2, "hidden": (8,)},
        lambda: (binary(6), torch.tensor([1, -1, 0, -1, 2])),
    ),
    "MultimodalVAE": System(several, {}, lambda: (binary(6), torch.tensor([1, -1, 0, -1, 2]), counts(2))),
    "CodePrior": System(code_prior, {"channels": 4, "num_layers": 1}, idle=("levels.1.network",)),
    "ConditionalVAE": System(
        ConditionalVAE,
        {"event_shape": (6,), "condition_shape": 3, "latent_dim": 2, "hidden": (8,)},
        lambda: (binary(6), torch.tensor([1, 2, 0, 1, 2])),
    ),
    "ProbabilisticUNet": System(
        ProbabilisticUNet,
        {"event_shape": (6, 7), "condition_shape": (2, 6, 7), "num_classes": 3, "latent_dim": 2, "channels": (2, 4)},
        lambda: (whole(3, 6, 7), real(2, 6, 7)),
    ),
}
BOTH = ("likelihood.network", "posterior.network")
# Options by which a system's programs are others; ``tests/models`` has what else they do.
SYSTEM_VARIANTS: dict[str, System] = {
    "MLPVAE, corrupted": SYSTEMS["MLPVAE"].but(corruption=networks.Masking(0.3), mean=binary(6).mean(0)),
    "ConvVAE, strided": SYSTEMS["ConvVAE"].but(
        lambda: (uniform(*IMAGE),), hidden=None, activation=nn.LeakyReLU, normalization="batch", likelihood=Gaussian
    ),
    "ConvVAE, flow": SYSTEMS["ConvVAE"].but(gated=True, transforms=[transforms.Planar], num_transforms=2),
    "VariationalGP, amortized": SYSTEMS["VariationalGP"].but(amortized_inputs=True, mean=binary(6).mean(0)),
    "SemiSupervisedVAE, alpha": SYSTEMS["SemiSupervisedVAE"].but(alpha=0.1, mean=binary(6).mean(0)),
    "ConditionalVAE, image": SYSTEMS["ConditionalVAE"].but(
        lambda: (binary(6), uniform(1, 3, 4)),
        condition_shape=(1, 3, 4),
        mean=binary(6).mean(0),
        condition_mean=uniform(1, 3, 4).mean(0),
        condition_scale=0.5 + uniform(1, 3, 4).mean(0),
        transforms=[transforms.Planar],
    ),
    "ConditionalVAE, one prior": SYSTEMS["ConditionalVAE"].but(prior=priors.StandardNormal),
    "ProbabilisticUNet, batch": SYSTEMS["ProbabilisticUNet"].but(normalization="batch"),
    "HierarchicalVAE, convolutions": SYSTEMS["HierarchicalVAE"].but(
        images, event_shape=IMAGE, latent_dims=(4, 3), hidden=(16, 8), channels=(4, 8), normalization="batch"
    ),
    "IncompleteVAE, NaN": SYSTEMS["IncompleteVAE"].but(
        lambda: (torch.where(uniform(6) < 0.6, binary(6), math.nan),),
        imputation="learned",
        see_mask=True,
        mean=binary(6).mean(0),
    ),
    "IncompleteVAE, self-masking": SYSTEMS["IncompleteVAE"].but(
        lambda: (real(6), uniform(6) < 0.6), missingness=networks.SelfMasking, likelihood=likelihoods.Normal
    ),
    "LadderVAE, convolutions": SYSTEMS["LadderVAE"].but(
        images, event_shape=IMAGE, latent_dims=(4, 3), hidden=(16, 8), channels=(4, 8), normalization="layer"
    ),
    "ConvLadderVAE, batch": SYSTEMS["ConvLadderVAE"].but(normalization="batch", mean=binary(*IMAGE).mean(0)),
    "NVAE, flows": SYSTEMS["NVAE"].but(preprocess=1, padding=4, num_flows=1),
    "FullBayes, encoder": SYSTEMS["FullBayes"].but(networks=("posterior.network",)),
    "FullBayes, local": SYSTEMS["FullBayes"].but(networks=BOTH, noise="local"),
    "FullBayes, flipout": SYSTEMS["FullBayes"].but(networks=BOTH, noise="flipout"),
    "FullBayes, low rank": SYSTEMS["FullBayes"].but(posterior=bayesian.LowRank, noise="local"),
    "FullBayes, matrix": SYSTEMS["FullBayes"].but(posterior=bayesian.MatrixVariate, noise="local"),
    "FullBayes, spike and slab": SYSTEMS["FullBayes"].but(prior=bayesian.ScaleMixture),
    "FullBayes, learned prior": SYSTEMS["FullBayes"].but(prior=partial(bayesian.IsotropicNormal, learned="column")),
    "FullBayes, flow": SYSTEMS["FullBayes"].but(
        pair=partial(SYSTEMS["MLPVAE"], transforms=[transforms.Planar]), networks=BOTH
    ),
    "FullBayes, scale": SYSTEMS["FullBayes"].but(
        lambda: (real(6),),
        pair=partial(SYSTEMS["MLPVAE"], likelihood=partial(Gaussian, scale="shared")),
    ),
    "FullBayes, convolutions": SYSTEMS["FullBayes"].but(images, pair=SYSTEMS["ConvVAE"], networks=("",)),
    "FullBayes, convolutions, flipout": SYSTEMS["FullBayes"].but(
        images, pair=SYSTEMS["ConvVAE"], networks=BOTH, noise="flipout"
    ),
    "FullBayes, ladder": SYSTEMS["FullBayes"].but(
        pair=SYSTEMS["LadderVAE"], networks=("levels.0.conditional.network",)
    ),
    "VQVAE, three levels": SYSTEMS["VQVAE"].but(strides=(1, 2, 2)),
    "DeepMarkovModel, mean field": SYSTEMS["DeepMarkovModel"].but(
        images, structured=False, event_shape=IMAGE, likelihood=Gaussian
    ),
    "GRUVAE, dropout": SYSTEMS["GRUVAE"].but(images, event_shape=IMAGE, dropout=0.3, hidden=(8,)),
    "LabeledVAE, mixture": SYSTEMS["LabeledVAE"].but(experts="mixture", mean=binary(6).mean(0)),
    "MultimodalVAE, subsets": SYSTEMS["MultimodalVAE"].but(subsets="all", experts="mixture of independent draws"),
}


# Of the variants those that run with what is slow: the others, and the system itself, have each way in which
# programs are written.
SLOW_VARIANTS = {
    "ConvVAE, strided",
    "LadderVAE, convolutions",
    "ConvLadderVAE, batch",
    "NVAE, flows",
    "VQVAE, three levels",
    *(f"FullBayes, {name}" for name in ("encoder", "low rank", "matrix", "learned prior", "scale", "convolutions")),
}


def marked(names: Iterable[str]) -> list[Any]:
    """Names of rows as parameters of a test."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_VARIANTS else name for name in names]


# Networks

MAPS = (2, 5, 7)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "MLP": partial(MLP, (2, 3), (2, 4), (6, 5)),
    "GatedMLP": partial(networks.GatedMLP, (2, 3), (2, 4), (6, 5)),
    "ResidualMLP": partial(networks.ResidualMLP, (2, 3), (2, 4), (6, 6)),
    "ConvEncoder": partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), 6),
    "ConvEncoder, gated": partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), 6, gated=True),
    "ConvEncoder, no hidden layer": partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), None),
    "ConvDecoder": partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 6),
    "ConvDecoder, gated": partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 6, gated=True),
    "ConvDecoder, no hidden layer": partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 0),
    "ResidualEncoder": partial(networks.ResidualEncoder, MAPS, (2, 4), (3, 4), 6),
    "ResidualEncoder, no hidden layer": partial(networks.ResidualEncoder, MAPS, (2, 4), (3, 4), None),
    "ResidualDecoder": partial(networks.ResidualDecoder, 4, (2, *MAPS), (4, 3), 6),
    "ResidualDecoder, no hidden layer": partial(networks.ResidualDecoder, 4, (2, *MAPS), (4, 3), 0),
    "UNet": partial(networks.UNet, MAPS, (2, *MAPS[1:]), (3, 4)),
}


# Posteriors of random weights, of their mean ``[rows, columns]`` and a scale
WEIGHT_POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "MeanField": bayesian.MeanField,
    "LowRank": partial(bayesian.LowRank, rank=2),
    "MatrixVariate": bayesian.MatrixVariate,
    "FullCovariance": bayesian.FullCovariance,
}


# Estimators, and those whose guide learns by another objective than the bound

ESTIMATORS: dict[str, Callable[..., Estimator]] = {**MADE, **VARIANTS}
OTHER_FOR_THE_GUIDE = ("PIWAE", "WakeSleep", "ReweightedWakeSleep")


# Distributions: what differs of each from pyro_vae.testing.DistributionLaws


def _family(make: Any, names: str, values: Any, other: Any, reference: Any = None, **options: Any) -> dict[str, Any]:
    """A row; ``reference`` takes the parameters by position, as scipy does."""
    parameters, others = (dict(zip(names.split(), given, strict=False)) for given in (values, other))
    if reference is not None:
        options["reference"] = lambda **parameters: reference(*parameters.values())
    return {"make": make, "parameters": parameters, "other": others, **options}


def _levels(p: Any) -> Points:
    values = torch.arange(p.num_levels, dtype=torch.float64) / (p.num_levels - 1)
    return Points(values, torch.ones_like(values))


class Kumaraswamy:
    """By hand: scipy has none."""

    def __init__(self, concentration1: Any, concentration0: Any) -> None:
        self.a, self.b = concentration1, concentration0

    def logpdf(self, z: Any) -> Any:
        return np.log(self.a * self.b) + (self.a - 1) * np.log(z) + (self.b - 1) * np.log1p(-(z**self.a))


def _dirichlet(concentration: Any) -> Any:
    scipys = stats.dirichlet(concentration)
    return SimpleNamespace(logpdf=lambda x: scipys.logpdf((x / x.sum(-1, keepdims=True)).T))


def _softmax(logits: Any) -> Any:
    return SimpleNamespace(logpmf=lambda x: log_softmax(logits)[np.rint(4 * x).astype(int)])


def _low_rank(loc: Any, scale: Any, factor: Any) -> Any:
    return stats.multivariate_normal(loc, (np.eye(3) + factor @ factor.T) * scale * scale[:, None])


def _on_sphere(family: Any, loc: list[float]) -> dict[str, Any]:
    def make(loc: Any, concentration: Any) -> Any:
        return family(loc / loc.norm(dim=-1, keepdim=True), concentration)

    def uniform(p: Any = None) -> Any:
        return distributions.SphereUniform(3, dtype=torch.float64)

    options: dict[str, Any] = {"proposal": uniform, "priors": (uniform,), "num_draws": 10_000}
    bad = {"concentration": -1.0, "loc": [0.0, 0.0, 0.0]}
    return _family(make, "loc concentration", (loc, 2.0), (loc, 0.7), bad=bad, **options)


def _to_normal(*shape: int) -> dict[str, Any]:
    return {"priors": (lambda: dist.Normal(torch.full(shape, 0.2).double(), 1.3).to_event(len(shape)),)}


def _multivariate(loc: Any, scale_tril: Any) -> Any:
    return distributions.MultivariateNormal(loc, scale_tril=scale_tril)


def _path(loc: Any, scale: Any) -> Any:
    """Of two steps."""
    return distributions.MarkovNormal(loc, scale, 2, lambda z, t: (z.sin(), 0.4 + 0.1 * z.square()))


def _experts(loc: Any, scale: Any) -> Any:
    """The first one of weight 0.3."""
    experts = [dist.Normal(loc[..., m, :], scale[..., m, :]).to_event(1) for m in range(2)]
    return distributions.MixtureOfExperts(experts, loc.new_tensor([0.3, 0.7]))


_LOC_SCALE: tuple[Any, ...] = ("loc scale", (0.4, 1.7), (-0.3, 0.9))
_AB: tuple[Any, ...] = ("concentration1 concentration0", (0.7, 1.7), (1.3, 1.1))
_BAD: dict[str, Any] = {"bad": {"scale": -1.0, "loc": math.nan}}
_DISCRETE: dict[str, Any] = {"reparameterized": False}
_TRIL: tuple[Any, ...] = ("loc scale_tril", ([0.4, -0.3], [[0.7, 0.0], [-0.4, 1.2]]), ([0.1, 0.2],))
_FACTOR = ([0.4, -0.3, 0.1], [0.7, 1.2, 0.9], [[0.5, 0.1], [-0.3, 0.4], [0.2, 0.6]])
_MATRIX = ([[0.3, -0.2], [0.1, 0.5]], [[0.7, 0], [0.3, 1.1]], [[0.9, 0], [-0.4, 0.6]])
_LOGITS = [sign * value for sign in (-1, 1) for value in (0.0, 1e-8, 0.999, 17.0, 1e4, 1e30)]
_NARROW = [{"low": 1.0, "high": 1 + 4e-7}, {"low": -1.0, "high": -1 + 4e-7}]
_of = distributions

DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "Exponential": _family(_of.Exponential, "rate", (1.7,), (0.6,), lambda r: stats.expon(0, 1 / r), bad={"rate": 0}),
    "Cauchy": _family(_of.Cauchy, *_LOC_SCALE, stats.cauchy, **_BAD),
    "Logistic": _family(_of.Logistic, *_LOC_SCALE, stats.logistic),
    "Gumbel": _family(_of.Gumbel, *_LOC_SCALE, stats.gumbel_r, **_BAD),
    "Laplace": _family(_of.Laplace, *_LOC_SCALE, stats.laplace, **_BAD),
    "LogNormal": _family(
        _of.LogNormal, "loc scale", (0.4, 0.7), (-0.3, 0.9), lambda loc, scale: stats.lognorm(scale, 0, np.exp(loc))
    ),
    # At 0.02 torch's own draws of the next two leave the support.
    "Weibull": _family(
        *(_of.Weibull, "scale concentration", (1.7, 0.8), (0.4, 1.8), lambda a, c: stats.weibull_min(c, 0, a)),
        extremes=[{"scale": 0.02, "concentration": 0.02}],
    ),
    "Kumaraswamy": _family(
        _of.Kumaraswamy, *_AB, Kumaraswamy, extremes=[{"concentration1": 0.02, "concentration0": 0.02}]
    ),
    "StudentT": _family(_of.StudentT, "df loc scale", (2.6, 0.4, 1.7), (5.0,), stats.t),
    "Uniform": _family(
        _of.Uniform, "low high", (0.3, 0.8), (0.1, 1.3), lambda a, b: stats.uniform(a, b - a), extremes=_NARROW
    ),
    "Gamma": _family(_of.Gamma, "concentration rate", (0.6, 1.7), (1.4, 0.9), lambda c, r: stats.gamma(c, 0, 1 / r)),
    "Beta": _family(_of.Beta, *_AB, stats.beta),
    "Dirichlet": _family(
        *(_of.Dirichlet, "concentration", ([0.6, 1.7, 2.5],), ([1.1, 0.9, 1.4],), _dirichlet),
        proposal=lambda p: dist.Dirichlet(torch.tensor([0.8, 1.0, 1.0]).double()),
    ),
    "PowerSpherical": _on_sphere(_of.PowerSpherical, [0.6, -0.48, 0.64]),
    "VonMisesFisher": _on_sphere(_of.VonMisesFisher, [-0.8, 0.0, -0.6]),
    "MultivariateNormal": _family(
        _multivariate, *_TRIL, lambda loc, tril: stats.multivariate_normal(loc, tril @ tril.T), **_to_normal(2)
    ),
    "LowRankNormal": _family(
        _of.LowRankNormal, "loc scale factor", _FACTOR, ([0.1, 0.2, 0.3],), _low_rank, **_to_normal(3)
    ),
    "MatrixNormal": _family(
        *(_of.MatrixNormal, "loc row_tril column_tril", _MATRIX, ([[0.1, 0.2], [0.3, 0.4]],)),
        lambda loc, a, b: stats.matrix_normal(loc, a @ a.T, b @ b.T),
        **_to_normal(2, 2),
    ),
    "Rows": _family(lambda **of: _of.Rows(_multivariate(**of), (1, 2)), *_TRIL, **_to_normal(1, 2)),
    "MarkovNormal": _family(_path, "loc scale", ([0.4, -0.3], [0.7, 0.4]), ([0.1, 0.2],)),
    "MixtureOfExperts": _family(
        _experts, "loc scale", ([[0.4, -0.3], [1.1, 0.9]], [[0.7, 0.4], [0.5, 0.9]]), ([[0.1, 0.2], [0.3, 0.4]],)
    ),
    "ContinuousBernoulli": _family(
        *(lambda logits: _of.ContinuousBernoulli(logits=logits), "logits", (0.7,), (-3.0,)),
        extremes=[{"logits": value} for value in _LOGITS],
    ),
    "Poisson": _family(
        *(_of.Poisson, "log_rate", (1.1,), (0.3,), lambda log_rate: stats.poisson(np.exp(log_rate))),
        extremes=[{"log_rate": -200.0}, {"log_rate": 15.0}],
        **_DISCRETE,
    ),
    "NegativeBinomial": _family(  # scipy asks for the probability of what stops the count
        *(lambda total_count, logits: _of.NegativeBinomial(total_count, logits=logits), "total_count logits"),
        *((7.0, 0.3), (19.0, 0.3), lambda count, logits: stats.nbinom(count, 1 / (1 + np.exp(logits)))),
        **_DISCRETE,
    ),
    "QuantizedCategorical": _family(
        *(_of.QuantizedCategorical, "logits", ([0.3, -0.5, 1.0, 0.0, 0.7],), ([0.0, 0.1, 0.2, 0.3, 0.4],), _softmax),
        points=_levels,
        **_DISCRETE,
    ),
    "DiscretizedLogistic": _family(
        *(partial(_of.DiscretizedLogistic, num_levels=8), "loc scale", (0.4, 0.07), (0.9, 0.5)),
        points=_levels,
        **_DISCRETE,
    ),
    "DiscretizedLogisticMixture": _family(
        *(partial(_of.DiscretizedLogisticMixture, num_levels=8), "logits loc scale"),
        *(([0.3, -0.5], [0.2, 0.9], [0.07, 0.5]), ([0.3, -0.5], [0.5, 0.6])),
        points=_levels,
        **_DISCRETE,
    ),
}
# The families, and whether a KL from one of them to another is in closed form.
FAMILIES = {
    **dict.fromkeys(("Exponential", "Cauchy", "Gumbel", "Weibull", "Laplace", "LogNormal", "Gamma", "Beta"), True),
    **{"Dirichlet": True, "Logistic": False, "Kumaraswamy": False, "StudentT": False},
}
for _name, _row in DISTRIBUTIONS.items():
    others = ("Uniform", "MultivariateNormal", "ContinuousBernoulli")
    _row["closed_form"] = FAMILIES.get(_name, _name in others)


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


# Likelihoods


@dataclass(frozen=True)
class Pixels:
    """A row of a likelihood.

    Attributes:
        kind: the class.
        data: of an event shape, in the support.
        options: of the class.
        off: data that leave the support.
    """

    kind: Any
    data: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    off: Callable[[Tensor], Tensor] | None = None

    def __call__(self, network: nn.Module | None = None, event: tuple[int, ...] = (6,), **options: Any) -> Any:
        """With the network given, or with the one that it asks for, from a latent of 2."""
        options = {**self.options, **options}
        shape = self.kind(nn.Identity(), **options).network_shape(event)
        return self.kind(MLP(2, shape, (8,)) if network is None else network, **options)

    def pair(self, event: tuple[int, ...] = (6,)) -> VAE:
        return VAE(priors.StandardNormal(2), DiagonalNormal(MLP(event, (2, 2), (8,))), self(event=event))


def _half_a_level(x: Tensor) -> Tensor:
    return x + 0.5 / 255


LIKELIHOODS: dict[str, Pixels] = {
    "Bernoulli": Pixels(likelihoods.Bernoulli, binary),
    "Bernoulli, gray": Pixels(likelihoods.Bernoulli, uniform, {"support": "unit_interval"}, lambda x: x + 1),
    "ContinuousBernoulli": Pixels(likelihoods.ContinuousBernoulli, uniform, off=lambda x: x + 1),
    "Categorical": Pixels(likelihoods.Categorical, gray, off=_half_a_level),
    "DiscretizedLogistic": Pixels(likelihoods.DiscretizedLogistic, gray, off=_half_a_level),
    "DiscretizedLogistic, shared": Pixels(
        likelihoods.DiscretizedLogistic, gray, {"scale": "shared", "sigmoid_mean": False}
    ),
    "MixtureOfDiscretizedLogistics": Pixels(likelihoods.MixtureOfDiscretizedLogistics, gray, off=lambda x: 255 * x),
    "Normal": Pixels(likelihoods.Normal, real),
    "Normal, a scale a pixel": Pixels(likelihoods.Normal, uniform, {"scale": None}),
    "Normal, shared": Pixels(likelihoods.Normal, real, {"scale": "shared", "sigmoid_mean": False}),
    "Normal, optimal": Pixels(likelihoods.Normal, real, {"scale": "optimal", "sigmoid_mean": False}),
    "Laplace": Pixels(likelihoods.Laplace, real, {"scale": 0.5}),
    "Laplace, a scale a pixel": Pixels(likelihoods.Laplace, real, {"sigmoid_mean": False}),
    "Laplace, shared": Pixels(likelihoods.Laplace, real, {"scale": "shared"}),
    "StudentT": Pixels(likelihoods.StudentT, real, {"scale": 0.5}),
    "StudentT, a scale a pixel": Pixels(likelihoods.StudentT, real, {"sigmoid_mean": False, "df": 3.0}),
    "StudentT, shared": Pixels(likelihoods.StudentT, real, {"scale": "shared"}),
    "Classes": Pixels(likelihoods.Classes, classes, {"num_classes": 5}, off=lambda x: x + 0.5),
    "Poisson": Pixels(likelihoods.Poisson, counts, off=lambda x: x + 0.5),
    "NegativeBinomial": Pixels(likelihoods.NegativeBinomial, counts, off=lambda x: x + 0.5),
}
