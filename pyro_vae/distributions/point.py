"""All mass at one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor


class Point(dist.Delta):
    """All mass at one value, of which the log-density counts as 0, as in Pyro; KL(point || p) = -log p(value).

    Of a discrete variable that is exact: the value has the probability 1.

    Args:
        v: the value, ``[*, *event]``; a draw is this tensor, with its gradient.
        event_dim: number of event dimensions.
    """

    def __init__(self, v: Tensor, event_dim: int = 0) -> None:
        super().__init__(v, event_dim=event_dim)
        self.log_density = 0.0  # a number: a tensor would stand for a transformed variable

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Point:
        return Point(self.v.expand(*batch_shape, *self.event_shape), self.event_dim)
