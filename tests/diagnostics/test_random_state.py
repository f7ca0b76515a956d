"""What draws nothing leaves the random state as it was: a callback that looks does not change a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pairs import binary
from registry import SYSTEMS

from pyro_vae import diagnostics

LOOKS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "encode": diagnostics.encode,
    "decode": lambda pair, x: diagnostics.decode(pair, torch.zeros(5, 2), x),
    "reconstruct": diagnostics.reconstruct,
    "interpolate": lambda pair, x: diagnostics.interpolate(pair, x, x.flip(0), 3),
    "active_units": lambda pair, x: diagnostics.active_units(pair, [(x,)]),
    "reconstruction_mse": lambda pair, x: diagnostics.reconstruction_mse(pair, [(x,)]),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_what_draws_nothing(look: Any) -> None:
    pair, x = SYSTEMS["MLPVAE"](), binary(6)
    before = torch.get_rng_state()
    look(pair, x)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_new_ones() -> None:
    pair, x = SYSTEMS["MLPVAE"](), binary(6)
    assert not torch.equal(diagnostics.sample(pair, 3, x), diagnostics.sample(pair, 3, x))
