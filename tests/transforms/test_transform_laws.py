"""Every step of a flow is held to the laws of transforms."""

from __future__ import annotations

from typing import Any

import pytest
from registry import TRANSFORMS

from pyro_vae.testing import TransformLaws


class TestSteps(TransformLaws):
    @pytest.fixture(autouse=True, params=[name for name in TRANSFORMS if "," not in name])
    def _row(self, request: Any) -> None:
        make, options = TRANSFORMS[request.param]
        vars(self).update(options, make=make)


class TestVariants(TestSteps):
    @pytest.fixture(autouse=True, params=[name for name in TRANSFORMS if "," in name])
    def _row(self, request: Any) -> None:
        make, options = TRANSFORMS[request.param]
        vars(self).update(options, make=make)

    @pytest.mark.slow
    def test_trains_in_a_posterior_and_a_prior(self) -> None:
        super().test_trains_in_a_posterior_and_a_prior()
