"""Every distribution is held to the laws of distributions."""

from __future__ import annotations

from typing import Any

import pytest
from registry import DISTRIBUTIONS

from pyro_vae.testing import DistributionLaws


class TestDistributions(DistributionLaws):
    @pytest.fixture(autouse=True, params=DISTRIBUTIONS)
    def _row(self, request: Any) -> None:
        vars(self).update(DISTRIBUTIONS[request.param])
