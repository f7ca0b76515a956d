"""Distributions of values of which some are missing."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor
from torch.distributions import Independent

from pyro_vae._pyro import mask_of
from pyro_vae.distributions.particles import Particles
from pyro_vae.distributions.steps import Autoregressive, Present, Steps
from pyro_vae.distributions.supports import some_value


class Incomplete(MaskedDistribution):
    """Single values, of which those count where a mask is true.

    It is Pyro's ``fn.mask(mask)``, where besides whatever stands at a missing place, NaN too, changes neither the
    log-probability nor its gradient.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(known(self, value))

    def score_parts(self, value: Tensor) -> ScoreParts:
        return super().score_parts(known(self, value))


def observing(fn: Any, mask: Tensor) -> Any:
    """A distribution of independent entries, ``[*batch, *event]``, of which those count where ``mask`` is true.

    Args:
        fn: of the entries, by ``to_event`` of a distribution of one of them.
        mask: ``[*batch, *event]``, or what expands to it.

    Raises:
        ValueError: if the entries are not independent.
    """
    if isinstance(fn, Independent):
        return observing(fn.base_dist, mask).to_event(fn.reinterpreted_batch_ndims)
    if fn.event_shape:
        raise ValueError(
            f"some entries of a {type(fn).__name__} of event shape {list(fn.event_shape)} cannot be left out: data "
            "with missing entries need a likelihood of entries that are independent given z, by to_event of a "
            "distribution of one entry."
        )
    return Incomplete(fn, mask)


def known(fn: Any, value: Tensor) -> Tensor:
    """``value`` with some value of the support wherever a distribution does not look, which may hold anything."""
    if isinstance(fn, Particles):
        values = [known(part, one) for part, one in zip(fn.parts, fn.split(value), strict=True)]
        return fn.join(values, fn.event_dim)
    if isinstance(fn, (Present, Steps, Autoregressive)):
        return fn.filled(value)
    if isinstance(fn, (Independent, ExpandedDistribution)):
        return known(fn.base_dist, value)
    mask = mask_of(fn) if isinstance(fn, MaskedDistribution) else True
    if isinstance(mask, bool):
        return value if mask else some_value(fn, value).expand_as(value)
    return torch.where(mask.reshape(mask.shape + (1,) * fn.event_dim), value, some_value(fn, value))
