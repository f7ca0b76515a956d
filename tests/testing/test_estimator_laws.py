"""Every estimator is held to the laws of estimators."""

from __future__ import annotations

from typing import Any

import pytest
from laws import MADE, VARIANTS
from registry import OTHER_FOR_THE_GUIDE

from pyro_vae.estimators import Estimator
from pyro_vae.testing import EstimatorLaws


class OfRow(EstimatorLaws):
    def take(self, name: str) -> None:
        self.row = {**MADE, **VARIANTS}[name]
        self.unbiased = ("model",) if name.startswith(OTHER_FOR_THE_GUIDE) else ("model", "guide")

    def make(self, **options: Any) -> Estimator:
        return self.row(**options)


class TestEstimators(OfRow):
    @pytest.fixture(autouse=True, params=MADE)
    def _row(self, request: Any) -> None:
        self.take(request.param)


class TestVariants(OfRow):
    """Of the variants the laws that take seconds run with what is slow."""

    @pytest.fixture(autouse=True, params=VARIANTS)
    def _row(self, request: Any) -> None:
        self.take(request.param)

    @pytest.mark.slow
    def test_a_traced_step_is_the_eager_one(self) -> None:
        super().test_a_traced_step_is_the_eager_one()

    @pytest.mark.slow
    def test_learns_under_svi(self) -> None:
        super().test_learns_under_svi()
