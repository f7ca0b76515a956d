"""Every system and every hand-written pair is held to the laws of pairs."""

from __future__ import annotations

from typing import Any

import pytest
from pairs import PAIRS, SAMPLED
from registry import SYSTEMS

from pyro_vae.testing import PairLaws


class TestSystems(PairLaws):
    @pytest.fixture(autouse=True, params=SYSTEMS)
    def _row(self, request: Any) -> None:
        self.make = SYSTEMS[request.param]  # type: ignore[method-assign]
        if request.param == "CodePrior":
            self.idle = ("levels.1.network",)


class TestHandWritten(PairLaws):
    @pytest.fixture(autouse=True, params=[*PAIRS[2:], *SAMPLED])
    def _row(self, request: Any) -> None:
        self.make = request.param
        self.isolated = request.param.__name__ not in ("pyro_module", "plain_module", "plain_object", "hierarchy")
