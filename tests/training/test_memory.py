"""What a long training holds does not grow with its steps."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vae as pv
from pyro_vae.models import MLPVAE

STATM = Path("/proc/self/statm")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell the resident memory of a process")
@pytest.mark.parametrize(("mode", "steps"), [("eager", 4_000), ("traced", 16_000), ("inductor", 50_000)])
def test_resident_memory_is_flat(mode: Any, steps: int) -> None:
    """Over the last nine tenths of the steps it grows by less than 100 bytes a step."""
    epochs, resident = 20, []

    def look(*_: Any) -> None:
        resident.append(int(STATM.read_text().split()[1]) * resource.getpagesize())

    x = (torch.rand(2 * steps // epochs, 6) < 0.5).float()
    torch.manual_seed(0)
    pair = MLPVAE((6,), 2, (8,))
    pv.fit(pair, x, epochs=epochs, batch_size=2, compile=mode, callbacks=[look], progress=False)
    assert len(resident) == epochs
    assert resident[-1] - resident[1] < 90 * steps
