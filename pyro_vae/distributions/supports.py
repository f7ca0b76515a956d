"""What a distribution's support is under what is wrapped around it, and some value of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints


def bare(support: Any) -> Any:
    """The constraint on single numbers under ``to_event`` and mixtures."""
    while isinstance(support, (constraints.independent, constraints.MixtureSameFamilyConstraint)):
        support = support.base_constraint
    return support


def some_value(fn: Any, like: Tensor) -> Tensor:
    """A value of the support of a distribution, in the dtype of ``like``: one number for all, or ``[*event_shape]``.

    Where none is known it is 0.
    """
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    support = bare(fn.support)
    try:
        if support.is_discrete:
            return zero + getattr(support, "lower_bound", 0)
        transform: Any = biject_to(support)
        shape = transform.inverse_shape(fn.event_shape) if support.event_dim else ()
        return transform(torch.zeros(shape, device=like.device)).to(like.dtype)
    except NotImplementedError:
        return zero
