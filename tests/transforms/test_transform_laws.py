"""Every step of a flow is held to the laws of transforms."""

from __future__ import annotations

from typing import Any

import pytest
from registry import TRANSFORMS

from pyro_vae.testing import TransformLaws


class TestSteps(TransformLaws):
    @pytest.fixture(autouse=True, params=TRANSFORMS)
    def _row(self, request: Any) -> None:
        make, options = TRANSFORMS[request.param]
        vars(self).update(options, make=make)
