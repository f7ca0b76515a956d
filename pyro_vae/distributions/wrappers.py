"""Distributions seen through what is wrapped around them."""

from __future__ import annotations

from typing import Any

from torch.distributions import Independent


def without_events(fn: Any) -> Any:
    """The distribution under ``to_event``: that of the single units where they are independent."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def innermost(fn: Any) -> Any:
    """The distribution under all that wraps it: ``to_event``, ``expand``, a mask, transforms."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def family(fn: Any) -> str:
    """The name of a distribution's family, as a user writes it: under ``to_event``, ``expand`` and a mask.

    A class of a private name is called by the public one that it is derived from.

    >>> import pyro.distributions as dist
    >>> family(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    'Normal'
    """
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
    return next(kind.__name__ for kind in type(fn).__mro__ if not kind.__name__.startswith("_"))
