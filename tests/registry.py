"""Every system and every part of the package, one row each: how a small one is made, and what it can.

The lists of the tests are made of these rows, so that a new system or part is a new row and is held to all laws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from laws import MADE, VARIANTS
from pairs import binary
from torch import nn

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
