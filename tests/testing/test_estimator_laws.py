"""Every estimator is held to the laws of estimators."""

from __future__ import annotations

from typing import Any

import pytest
from registry import ESTIMATORS, OTHER_FOR_THE_GUIDE

from pyro_vae.estimators import Estimator
from pyro_vae.testing import EstimatorLaws


class TestEstimators(EstimatorLaws):
    @pytest.fixture(autouse=True, params=ESTIMATORS)
    def _row(self, request: Any) -> None:
        self.row = ESTIMATORS[request.param]
        self.unbiased = ("model",) if request.param.startswith(OTHER_FOR_THE_GUIDE) else ("model", "guide")

    def make(self, **options: Any) -> Estimator:
        return self.row(**options)
