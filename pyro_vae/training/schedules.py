"""Schedules: what moves while a pair is trained (beta, the learning rate), as functions of the progress."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where training is.

    Attributes:
        step: optimiser steps taken.
        epoch: epochs passed, with the part of the current one.
        fraction: epochs passed over epochs planned, in [0, 1].
    """

    step: int
    epoch: float
    fraction: float


class Schedule(ABC):
    """A number for each place of training; as a learning-rate schedule it multiplies the optimiser's own rate."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The number at ``progress``."""


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end`` over the first ``duration`` (a fraction of the epochs), then ``end``.

    With the defaults it is the usual warm-up of beta over the first tenth.

    Raises:
        ValueError: if ``duration`` is not in (0, 1].
    """

    start: float = 0.0
    end: float = 1.0
    duration: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.duration <= 1:
            raise ValueError(f"duration is a fraction of the epochs in (0, 1]; got {self.duration}.")

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * min(progress.fraction / self.duration, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """A linear rise from 0 to 1 over ``warmup`` (a fraction of the epochs), then half a cosine down to ``final``.

    Raises:
        ValueError: if ``warmup`` is not in [0, 1).

    Source: Loshchilov & Hutter (2017), without restarts.
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of the epochs in [0, 1); got {self.warmup}.")

    def __call__(self, progress: Progress) -> float:
        if progress.fraction < self.warmup:
            # The very first step must move something, however short the warm-up.
            return max(progress.fraction / self.warmup, 1e-3)
        done = (progress.fraction - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
