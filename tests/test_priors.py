"""Priors against their formulae."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pyro_vae import StandardNormal


@pytest.mark.parametrize("shape", [1, 3, (2, 4), (2, 3, 4)])
def test_standard_normal(shape: Any) -> None:
    p = StandardNormal(shape)()
    event = (shape,) if isinstance(shape, int) else shape
    assert p.event_shape == event
    assert p.batch_shape == ()
    z = torch.randn(7, *event)
    by_hand = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(-1)
    torch.testing.assert_close(p.log_prob(z), by_hand)


def test_standard_normal_follows_its_module() -> None:
    prior = StandardNormal(3).double()
    assert prior().sample().dtype == torch.float64
    assert not prior.state_dict()
    assert not list(prior.parameters())


@pytest.mark.parametrize("size", [0, -1, (), (2, 0), 2.5, "two", None])
def test_sizes_that_cannot_be(size: Any) -> None:
    with pytest.raises(ValueError, match="latent_dim has to hold sizes of at least 1"):
        StandardNormal(size)
