"""Distributions and supports seen through what is wrapped around them."""

from __future__ import annotations

from typing import Any

from pyro.distributions import (
    ExpandedDistribution,
    MaskedDistribution,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
    ZeroInflatedDistribution,
)
from torch.distributions import Independent, TransformedDistribution

from pyro_vae.distributions.particles import Particles
from pyro_vae.distributions.steps import Autoregressive, Present, Steps

_ONE_FAMILY = (Independent, ExpandedDistribution, MaskedDistribution, Present, Steps)


def without_events(fn: Any) -> Any:
    """The distribution under ``to_event``: that of the single units where they are independent."""
    if isinstance(fn, Particles):
        bases = [without_events(part) for part in fn.parts]
        return fn.over(bases, len(bases[0].batch_shape) - len(fn.parts[0].batch_shape))
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def innermost(fn: Any) -> Any:
    """The distribution under all that wraps it: ``to_event``, ``expand``, a mask, transforms; of particles one."""
    while isinstance(fn, (*_ONE_FAMILY, TransformedDistribution, ZeroInflatedDistribution, Particles)):
        fn = _under(fn)
    return fn


def unwrapped(fn: Any) -> Any:
    """The distribution under ``to_event``, ``expand`` and a mask, which leave the family as it is."""
    while isinstance(fn, (*_ONE_FAMILY, Particles)):
        fn = _under(fn)
    return fn


def _under(fn: Any) -> Any:
    return fn.parts[0] if isinstance(fn, Particles) else fn.base_dist


def unmasked(fn: Any) -> Any:
    """The distribution without masks, also under ``to_event`` and ``expand``; itself where there are none."""
    if isinstance(fn, Particles):
        return fn.over([unmasked(part) for part in fn.parts])
    if isinstance(fn, MaskedDistribution):
        return unmasked(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, (Independent, ExpandedDistribution)):
        base = unmasked(fn.base_dist)
        if base is not fn.base_dist and isinstance(fn, Independent):
            return base.to_event(fn.reinterpreted_batch_ndims)
        if base is not fn.base_dist:
            return base.expand(fn.batch_shape)
    return fn


def whole(fn: Any) -> Any:
    """A distribution as it is where all is there."""
    return fn.whole if isinstance(fn, (Present, Steps, Autoregressive)) else fn


def is_rounded(fn: Any) -> bool:
    """Whether draws are rounded, and carry with them what they are scored by, which other tensors lack."""
    return isinstance(unwrapped(fn), (RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough))


def family(fn: Any) -> str:
    """The name of a distribution's family, as a user writes it: under ``to_event``, ``expand`` and a mask.

    A class of a private name is called by the public one that it is derived from.

    >>> import pyro.distributions as dist
    >>> family(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    'Normal'
    """
    return next(kind.__name__ for kind in type(unwrapped(fn)).__mro__ if not kind.__name__.startswith("_"))
