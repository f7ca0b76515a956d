"""Every estimator is held to the laws of estimators."""

from __future__ import annotations

from typing import Any

import pytest
from registry import ESTIMATORS

from pyro_vae.estimators import Estimator
from pyro_vae.testing import EstimatorLaws


class TestEstimators(EstimatorLaws):
    @pytest.fixture(autouse=True, params=ESTIMATORS)
    def _row(self, request: Any) -> None:
        self.row = ESTIMATORS[request.param]
        self.unbiased, self.side = self.row.unbiased, self.row.side

    def make(self, **options: Any) -> Estimator:
        return self.row.make(**options)
