"""Every public system, part and estimator has a row in the registry, so that the laws run over it."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest
import registry

from pyro_vae import estimators, likelihoods, models, networks, posteriors, priors, transforms

# With what is not a part by itself: bases, protocols, and what the parts are made of.
ROOMS: list[tuple[ModuleType, dict[str, Any], set[str]]] = [
    (models, registry.SYSTEMS, set()),
    (priors, registry.PRIORS, {"MaskedAutoregressiveFlow"}),  # a Flow
    (posteriors, registry.POSTERIORS, {"Posterior", "FamilyPosterior"}),
    (likelihoods, registry.LIKELIHOODS, {"Likelihood", "LocationScale"}),
    (transforms, registry.TRANSFORMS, {"Bijection", "NormalizingFlow", "Parameters", "Step"}),
    (
        networks, registry.NETWORKS,
        {"BatchNorm", "Centered", "Convolutional", "Corrupted", "Corruption", "Numbers", "Gated", "GaussianNoise",
         "HasInShape", "HasOutShape", "Joined", "MaskedConv2d", "Masking", "Network", "OneHot", "Residual",
         "SaltAndPepper", "SelfMasking"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("room", "rows", "others"), ROOMS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_part_has_a_row(room: ModuleType, rows: dict[str, Any], others: set[str]) -> None:
    public = {getattr(room, name).__name__ for name in room.__all__ if inspect.isclass(getattr(room, name))}
    assert {name.split(",")[0] for name in rows} == public - others


def test_every_estimator_has_a_row() -> None:
    """But Monte Carlo EM, which has a file of tests of its own: it adapts, so that no two calls are alike."""
    listed = {estimator.__name__ for estimator in estimators.ESTIMATORS} - {"MonteCarloEM"}
    assert {name.split(",")[0] for name in registry.ESTIMATORS} == listed
