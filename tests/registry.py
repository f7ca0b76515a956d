"""Every system, part and estimator of the package, one row each: how a small one is made, and what it can.

The lists of the tests are made of these rows, so that what is new is one more row and is held to all laws;
``test_registry.py`` finds what has none. :mod:`pairs` has the pairs that are written by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from laws import MADE, VARIANTS
from pairs import BATCH, binary, real
from torch import Tensor, nn

from pyro_vae import MLP, Gaussian, bayesian, likelihoods, networks, posteriors, priors, transforms
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

IMAGE = (1, 8, 8)


def images() -> tuple[Tensor, ...]:
    return (binary(*IMAGE),)


def vectors() -> tuple[Tensor, ...]:
    return (binary(6),)


def gray(*event_shape: int, size: int = BATCH) -> Tensor:
    return torch.rand(size, *event_shape, generator=torch.Generator().manual_seed(4))


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
    "CodePrior": System(code_prior, {"channels": 4, "num_layers": 1}, idle=("levels.1.network",)),
}
BOTH = ("likelihood.network", "posterior.network")
# Options by which a system's programs are others; ``tests/models`` has what else they do.
SYSTEM_VARIANTS: dict[str, System] = {
    "ConvVAE, strided": SYSTEMS["ConvVAE"].but(
        lambda: (gray(*IMAGE),), hidden=None, activation=nn.LeakyReLU, normalization="batch", likelihood=Gaussian
    ),
    "ConvVAE, flow": SYSTEMS["ConvVAE"].but(gated=True, transforms=[transforms.Planar], num_transforms=2),
    "VariationalGP, amortized": SYSTEMS["VariationalGP"].but(amortized_inputs=True, mean=binary(6).mean(0)),
    "SemiSupervisedVAE, alpha": SYSTEMS["SemiSupervisedVAE"].but(alpha=0.1, mean=binary(6).mean(0)),
    "HierarchicalVAE, convolutions": SYSTEMS["HierarchicalVAE"].but(
        images, event_shape=IMAGE, latent_dims=(4, 3), hidden=(16, 8), channels=(4, 8), normalization="batch"
    ),
    "LadderVAE, convolutions": SYSTEMS["LadderVAE"].but(
        images, event_shape=IMAGE, latent_dims=(4, 3), hidden=(16, 8), channels=(4, 8), normalization="layer"
    ),
    "ConvLadderVAE, batch": SYSTEMS["ConvLadderVAE"].but(normalization="batch", mean=binary(*IMAGE).mean(0)),
    "NVAE, flows": SYSTEMS["NVAE"].but(preprocess=1, padding=4, num_flows=1),
    "NVAE, checkpointing": SYSTEMS["NVAE"].but(checkpointing=True),
    "FullBayes, encoder": SYSTEMS["FullBayes"].but(networks=("posterior.network",)),
    "FullBayes, local": SYSTEMS["FullBayes"].but(networks=BOTH, noise="local"),
    "FullBayes, flipout": SYSTEMS["FullBayes"].but(networks=BOTH, noise="flipout"),
    "FullBayes, low rank": SYSTEMS["FullBayes"].but(posterior=bayesian.LowRank, noise="local"),
    "FullBayes, matrix": SYSTEMS["FullBayes"].but(posterior=bayesian.MatrixVariate, noise="local"),
    "FullBayes, spike and slab": SYSTEMS["FullBayes"].but(prior=bayesian.ScaleMixture),
    "FullBayes, learned prior": SYSTEMS["FullBayes"].but(
        prior=functools.partial(bayesian.IsotropicNormal, learned="column")
    ),
    "FullBayes, flow": SYSTEMS["FullBayes"].but(
        pair=functools.partial(SYSTEMS["MLPVAE"], transforms=[transforms.Planar]), networks=BOTH
    ),
    "FullBayes, scale": SYSTEMS["FullBayes"].but(
        lambda: (real(6),),
        pair=functools.partial(SYSTEMS["MLPVAE"], likelihood=functools.partial(Gaussian, scale="shared")),
    ),
    "FullBayes, convolutions": SYSTEMS["FullBayes"].but(images, pair=SYSTEMS["ConvVAE"], networks=("",)),
    "FullBayes, convolutions, flipout": SYSTEMS["FullBayes"].but(
        images, pair=SYSTEMS["ConvVAE"], networks=BOTH, noise="flipout"
    ),
    "FullBayes, ladder": SYSTEMS["FullBayes"].but(
        pair=SYSTEMS["LadderVAE"], networks=("levels.0.conditional.network",)
    ),
    "VQVAE, three levels": SYSTEMS["VQVAE"].but(strides=(1, 2, 2)),
}


# Parts. Each row is a function of shapes that gives one of the part.

FAMILIES = (
    "Beta", "Cauchy", "Dirichlet", "Exponential", "Gamma", "Gumbel", "Kumaraswamy", "Laplace", "LogNormal", "Logistic",
    "StudentT", "Weibull",
)  # fmt: skip


def encoder(latent: Any, kind: type[nn.Module] = posteriors.DiagonalNormal, **options: Any) -> nn.Module:
    """A posterior of ``[*, 6]`` over latents of a shape, with the network that it asks for."""
    posterior: Any = kind(nn.Identity(), **options)
    shape = (latent,) if isinstance(latent, int) else tuple(latent)
    posterior.network = MLP(6, posterior.network_shape(shape), (4,))
    return posterior


# Of the latent's shape.
PRIORS: dict[str, Callable[[Any], nn.Module]] = {
    "StandardNormal": priors.StandardNormal,
    "LearnedNormal": priors.LearnedNormal,
    "MixtureOfNormals": lambda shape: priors.MixtureOfNormals(shape, 4),
    "VampPrior": lambda shape: priors.VampPrior(encoder(shape), 6, 4),
    "Flow": lambda shape: priors.Flow(priors.StandardNormal(shape), [transforms.Radial(shape[-1])], True),
    "Uniform": priors.Uniform,
    "SparseBeta": priors.SparseBeta,
    **{name: getattr(priors, name) for name in FAMILIES},
    **{f"{name}, learned": functools.partial(getattr(priors, name), learned=True) for name in FAMILIES},
}

# Of the latent's shape: q(z | x) of ``x: [*, 6]``, with the network that it asks for.
POSTERIORS: dict[str, Callable[[Any], nn.Module]] = {
    **{
        name: functools.partial(encoder, kind=getattr(posteriors, name))
        for name in ("DiagonalNormal", "FullNormal", "PowerSpherical", "Uniform", "VonMisesFisher", *FAMILIES)
    },
    "LowRankNormal": functools.partial(encoder, kind=posteriors.LowRankNormal, rank=2),
    "Flow": lambda shape: posteriors.Flow(encoder(shape), [transforms.Planar(shape[-1])]),
    "SemiImplicitNormal": lambda shape: posteriors.SemiImplicitNormal(
        MLP(6 + 2, (shape[-1],), (4,)), MLP(6, (shape[-1],), (4,)), 2
    ),
}


@dataclass(frozen=True)
class Pixels:
    """A row of a likelihood: p(x | z) of ``z: [*, 2]`` over data of a shape, and data for it."""

    kind: type[nn.Module]
    data: Callable[..., Tensor]
    options: dict[str, Any]

    def __call__(self, *event_shape: int) -> Any:
        likelihood: Any = self.kind(nn.Identity(), **self.options)
        likelihood.network = MLP(2, likelihood.network_shape(event_shape), (8,))
        return likelihood


def levels(*event_shape: int, size: int = BATCH) -> Tensor:
    """Gray levels k / 255, the lowest and the highest among them."""
    k = torch.randint(256, (size, *event_shape), generator=torch.Generator().manual_seed(5))
    k.view(-1)[:2] = torch.tensor([0, 255])
    return k / 255


def counts(*event_shape: int, size: int = BATCH) -> Tensor:
    return torch.randint(20, (size, *event_shape), generator=torch.Generator().manual_seed(6)).float()


LIKELIHOODS: dict[str, Pixels] = {
    "Bernoulli": Pixels(likelihoods.Bernoulli, binary, {}),
    "Bernoulli, gray": Pixels(likelihoods.Bernoulli, gray, {"support": "unit_interval"}),
    "ContinuousBernoulli": Pixels(likelihoods.ContinuousBernoulli, gray, {}),
    "Categorical": Pixels(likelihoods.Categorical, levels, {}),
    "DiscretizedLogistic": Pixels(likelihoods.DiscretizedLogistic, levels, {}),
    "DiscretizedLogistic, shared": Pixels(
        likelihoods.DiscretizedLogistic, levels, {"scale": "shared", "sigmoid_mean": False}
    ),
    "MixtureOfDiscretizedLogistics": Pixels(likelihoods.MixtureOfDiscretizedLogistics, levels, {}),
    "Normal": Pixels(likelihoods.Normal, real, {}),
    "Normal, scale of each": Pixels(likelihoods.Normal, gray, {"scale": None}),
    "Normal, shared": Pixels(likelihoods.Normal, real, {"scale": "shared", "sigmoid_mean": False}),
    "Normal, optimal": Pixels(likelihoods.Normal, real, {"scale": "optimal", "sigmoid_mean": False}),
    "Laplace": Pixels(likelihoods.Laplace, real, {"scale": 0.5}),
    "Laplace, scale of each": Pixels(likelihoods.Laplace, real, {"sigmoid_mean": False}),
    "Laplace, shared": Pixels(likelihoods.Laplace, real, {"scale": "shared"}),
    "StudentT": Pixels(likelihoods.StudentT, real, {"scale": 0.5}),
    "StudentT, scale of each": Pixels(likelihoods.StudentT, real, {"sigmoid_mean": False, "df": 3.0}),
    "StudentT, shared": Pixels(likelihoods.StudentT, real, {"scale": "shared"}),
    "Poisson": Pixels(likelihoods.Poisson, counts, {}),
    "NegativeBinomial": Pixels(likelihoods.NegativeBinomial, counts, {}),
}

# Of latent_dim and, where they are amortized, context_dim.
STEPS: dict[str, Callable[..., transforms.Step]] = {
    "Planar": transforms.Planar,
    "Radial": transforms.Radial,
    "Householder": transforms.Householder,
    "Householder, 4": functools.partial(transforms.Householder, num_reflections=4),
    "Sylvester": transforms.Sylvester,
    "Sylvester, square": lambda *sizes: transforms.Sylvester(*sizes, num_columns=sizes[0]),
    "Sylvester, householder": functools.partial(transforms.Sylvester, form="householder", num_reflections=3),
    "Sylvester, triangular": functools.partial(transforms.Sylvester, form="triangular"),
    "Sylvester, reversed": functools.partial(transforms.Sylvester, form="triangular", reverse=True),
    "InverseAutoregressive": functools.partial(transforms.InverseAutoregressive, hidden=(16, 8)),
    "InverseAutoregressive, affine": functools.partial(
        transforms.InverseAutoregressive, hidden=(16,), gated=False, reverse=False
    ),
    "MaskedAutoregressive": functools.partial(transforms.MaskedAutoregressive, hidden=(16,)),
    "MaskedAutoregressive, gated": functools.partial(transforms.MaskedAutoregressive, hidden=(16,), gated=True),
    "SplineCoupling": functools.partial(transforms.SplineCoupling, hidden=(16,)),
    "SplineCoupling, narrow": functools.partial(transforms.SplineCoupling, hidden=(16,), num_bins=3, bound=1.0),
}
FIXED_STEPS: dict[str, Callable[..., transforms.Step]] = {  # with nothing to learn
    "Permutation": transforms.Permutation,
    "Permutation, seeded": functools.partial(transforms.Permutation, order=3),
}

MAPS = (2, 5, 7)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "MLP": functools.partial(MLP, (2, 3), (2, 4), (6, 5)),
    "GatedMLP": functools.partial(networks.GatedMLP, (2, 3), (2, 4), (6, 5)),
    "ResidualMLP": functools.partial(networks.ResidualMLP, (2, 3), (2, 4), (6, 6)),
    "ConvEncoder": functools.partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), 6),
    "ConvEncoder, gated": functools.partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), 6, gated=True),
    "ConvEncoder, no hidden layer": functools.partial(networks.ConvEncoder, MAPS, (2, 4), (3, 4), None),
    "ConvDecoder": functools.partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 6),
    "ConvDecoder, gated": functools.partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 6, gated=True),
    "ConvDecoder, no hidden layer": functools.partial(networks.ConvDecoder, 4, (2, *MAPS), (4, 3), 0),
    "ResidualEncoder": functools.partial(networks.ResidualEncoder, MAPS, (2, 4), (3, 4), 6),
    "ResidualEncoder, no hidden layer": functools.partial(networks.ResidualEncoder, MAPS, (2, 4), (3, 4), None),
    "ResidualDecoder": functools.partial(networks.ResidualDecoder, 4, (2, *MAPS), (4, 3), 6),
    "ResidualDecoder, no hidden layer": functools.partial(networks.ResidualDecoder, 4, (2, *MAPS), (4, 3), 0),
}

# Of the mean of the weights, ``[rows, columns]``, and a scale.
WEIGHT_POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "MeanField": bayesian.MeanField,
    "LowRank": functools.partial(bayesian.LowRank, rank=2),
    "MatrixVariate": bayesian.MatrixVariate,
    "FullCovariance": bayesian.FullCovariance,
}


# Estimators


@dataclass(frozen=True)
class Objective:
    """A row of an estimator: how it is made, and see :class:`~pyro_vae.testing.EstimatorLaws`."""

    make: Callable[..., Estimator]
    unbiased: tuple[str, ...] = ("model", "guide")
    side: str | None = "below"


ESTIMATORS = {name: Objective(make) for name, make in {**MADE, **VARIANTS}.items()}
for _name in [name for name in ESTIMATORS if name.startswith(("PIWAE", "WakeSleep", "ReweightedWakeSleep"))]:
    ESTIMATORS[_name] = replace(ESTIMATORS[_name], unbiased=("model",))
ESTIMATORS["Renyi, negative"] = replace(ESTIMATORS["Renyi, negative"], side=None)
