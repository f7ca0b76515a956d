"""Checks, bounds, evidence and reconstructions of one pair in several threads are those of one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pairs import binary
from registry import SYSTEMS

import pyro_vae as pv
from pyro_vae import diagnostics, evidence


def test_one_pair_in_several_threads() -> None:
    pair, x = SYSTEMS["MLPVAE"](), binary(6)
    asked: list[Callable[[], Any]] = [
        lambda: pv.check(pair, x).num_parameters,
        lambda: pv.IWAE(3).bound(pair, x).shape,
        lambda: evidence.importance(pair, x, 20, compile="eager").nll,
        lambda: diagnostics.reconstruct(pair, x).sum().item(),
    ]
    alone = [ask() for ask in asked]
    with ThreadPoolExecutor(8) as threads:
        assert [found.result() for found in [threads.submit(ask) for ask in asked * 4]] == alone * 4
