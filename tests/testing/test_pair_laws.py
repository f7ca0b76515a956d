"""Every system and every hand-written pair is held to the laws of pairs."""

from __future__ import annotations

from typing import Any

import pytest
from pairs import PAIRS, SAMPLED
from pyro.infer import Trace_ELBO
from registry import SYSTEM_VARIANTS, SYSTEMS, System, marked

from pyro_vae.testing import PairLaws


class OfSystem(PairLaws):
    system: System

    def make(self) -> tuple[Any, tuple[Any, ...]]:
        return self.system(), self.system.batch()


class TestSystems(OfSystem):
    @pytest.fixture(autouse=True, params=SYSTEMS)
    def _row(self, request: Any) -> None:
        self.system = SYSTEMS[request.param]
        self.idle = self.system.idle

    test_resumed_is_the_same_bits = None  # type: ignore[assignment]  # training/test_resume.py stops each at more places


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestVariants(OfSystem):
    """The laws that depend on how programs are written."""

    @pytest.fixture(autouse=True, params=marked(SYSTEM_VARIANTS))
    def _row(self, request: Any) -> None:
        self.system = SYSTEM_VARIANTS[request.param]

    def test_trains_under_svi(self) -> None:  # type: ignore[override]
        super().test_trains_under_svi(Trace_ELBO)

    def test_equals_pyros_elbos(self) -> None:  # type: ignore[override]
        super().test_equals_pyros_elbos(3)

    test_hamiltonian_monte_carlo = test_relations_of_the_model = test_predictive = None  # type: ignore[assignment]
    test_same_seed_same_bits = test_pairs_do_not_meet = test_pyros_store_is_left_as_it_was = None  # type: ignore
    test_a_copy_is_independent = test_resumed_is_the_same_bits = None  # type: ignore[assignment]


class TestHandWritten(PairLaws):
    @pytest.fixture(autouse=True, params=[*PAIRS[2:], *SAMPLED])
    def _row(self, request: Any) -> None:
        self.make = request.param
        self.isolated = request.param.__name__ not in ("pyro_module", "plain_module", "plain_object", "hierarchy")
