"""The weights of a run: those that training moves, their moving average, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._torch import lerp_


class Weights:
    r"""What training moves in a pair, and what validation and the trained pair have in its place.

    With ``average`` d that is a moving average, by whose form the initial weights are soon forgotten:

    .. math:: \bar\theta_t = d_t \, \bar\theta_{t-1} + (1 - d_t) \, \theta_t, \quad d_t = \min(d, (1 + t) / (10 + t))

    The statistics of a batch norm belong to the weights under which they were taken; buffers in ``fixed`` do not.

    Attributes:
        moving: what training moves.
        averaged: its moving average, or nothing.
    """

    def __init__(self, pair: nn.Module, fixed: Iterable[Tensor], average: float | None) -> None:
        left_out = {id(buffer) for buffer in fixed}
        self.moving: list[Tensor] = [p for p in pair.parameters() if p.requires_grad]
        self.moving += [b for b in pair.buffers() if b.is_floating_point() and id(b) not in left_out]
        self._decay = average
        self.averaged = [] if average is None else self._copied()
        self._best: list[Tensor] = []
        self._best_bound: float | None = None

    def share(self, step: int) -> float:
        """That of the weights after a step in the average."""
        return 1 - min(self._decay or 0.0, (1 + step) / (10 + step))

    def follow(self, step: int) -> None:
        """Takes the weights after a step into the average."""
        if self.averaged:
            lerp_(self.averaged, [value.detach() for value in self.moving], self.share(step))

    def averages_of(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The moving averages of some of what moves, where there are such."""
        chosen = {id(value) for value in values}
        return [mean for value, mean in zip(self.moving, self.averaged, strict=False) if id(value) in chosen]

    def is_best(self, bound: float) -> bool:
        """Whether the weights have the greatest bound so far, a finite one; they are then kept."""
        if not math.isfinite(bound) or (self._best_bound is not None and bound <= self._best_bound):
            return False
        self._best_bound = bound
        self._best = [weight.clone() for weight in self.averaged] or self._copied()
        return True

    def for_use(self, ended: bool) -> list[Tensor]:
        """The average, and when training has ended the best; nothing where that is what training moves."""
        return (self._best if ended else []) or self.averaged

    @contextmanager
    def in_use(self, ended: bool = False) -> Iterator[list[Tensor]]:
        """Puts in :meth:`for_use` for a while; gives what stands there before, where that is something else."""
        weights = self.for_use(ended)
        trained = self._copied() if weights else []
        self.put(weights)
        try:
            yield trained
        finally:
            self.put(trained)

    def put(self, weights: Sequence[Tensor]) -> None:
        """Gives the pair these values, if there are some."""
        with torch.no_grad():
            for value, weight in zip(self.moving if weights else (), weights, strict=True):
                value.copy_(weight)

    def state(self) -> dict[str, Any]:
        """All but what training moves, for a checkpoint."""
        return {"averaged": self.averaged, "best": self._best, "best_bound": self._best_bound}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up :meth:`state`."""
        device = self.moving[0].device
        self.averaged, self._best = ([w.to(device) for w in state[kind]] for kind in ("averaged", "best"))
        self._best_bound = state["best_bound"]

    def _copied(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.moving]
