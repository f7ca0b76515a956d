"""Schedules: what moves while a pair is trained, as functions of the progress."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from pyro_vae._checks import is_number, number, shown, whole


@dataclass(frozen=True)
class Progress:
    """Where training is.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs passed, with the part of the current one.
        fraction: of the epochs planned, in [0, 1].
    """

    step: int
    epoch: float
    fraction: float


class Schedule(ABC):
    """A number for each place of training; as ``fit(scheduler=...)`` it multiplies the optimizer's own rate."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The number at ``progress``."""


@dataclass(frozen=True)
class Linear(Schedule):
    r"""A straight line from ``start`` to ``end`` over the first ``duration`` (a fraction of the epochs), then ``end``.

    With the defaults it is the usual warm-up of beta. ``Linear(0.01, steps=9_900)`` is that of Rezende & Mohamed
    (2015), :math:`\beta_t = \min(1, 0.01 + t / 10\,000)`; they weigh log p(x, z) by it
    (:class:`~pyro_vae.estimators.Annealed`), and not the KL. With ``steps`` the line has that length in optimizer
    steps, in place of ``duration``.

    Raises:
        ValueError: if ``duration`` is not in (0, 1], or ``steps`` is below 1.

    >>> beta = Linear(0.0, 1.0, duration=0.5)
    >>> [beta(Progress(step=0, epoch=0.0, fraction=f)) for f in (0.0, 0.25, 1.0)]
    [0.0, 0.5, 1.0]
    """

    start: float = 0.0
    end: float = 1.0
    duration: float = 0.1
    steps: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        number(start=self.start, end=self.end)
        if not is_number(self.duration) or not 0 < self.duration <= 1:
            raise ValueError(
                f"duration is a fraction of the epochs in (0, 1]; got {shown(self.duration)}. A number of steps is "
                "steps=..."
            )
        if self.steps is not None:
            whole(1, steps=self.steps)

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction / self.duration if self.steps is None else progress.step / self.steps
        return self.start + (self.end - self.start) * min(done, 1.0)


@dataclass(frozen=True)
class Cyclical(Schedule):
    """``num_cycles`` equal parts of training; in each a straight line from ``start`` to ``end``, then ``end``.

    The line takes the share ``ratio`` of its cycle (M and R in the paper).

    Raises:
        ValueError: if ``num_cycles`` is below 1, or ``ratio`` is not in (0, 1].

    Source: Fu et al. (2019), eq. 6 and 7.

    >>> beta = Cyclical(num_cycles=2, ratio=0.5)
    >>> [beta(Progress(step=0, epoch=0.0, fraction=f)) for f in (0.0, 0.125, 0.4, 0.625)]
    [0.0, 0.5, 1.0, 0.5]
    """

    num_cycles: int = 4
    ratio: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        whole(1, num_cycles=self.num_cycles)
        number(above=0, most=1, ratio=self.ratio)
        number(start=self.start, end=self.end)

    def __call__(self, progress: Progress) -> float:
        place = self.num_cycles * progress.fraction
        in_cycle = place - min(int(place), self.num_cycles - 1)  # the end belongs to the last cycle
        return self.start + (self.end - self.start) * min(in_cycle / self.ratio, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """A linear rise from 0 to 1 over ``warmup`` (a fraction of the epochs), then half a cosine down to ``final``.

    Raises:
        ValueError: if ``warmup`` is not in [0, 1).

    Source: Loshchilov & Hutter (2017), without restarts.

    >>> rate = Cosine(warmup=0.1)
    >>> [round(rate(Progress(step=0, epoch=0.0, fraction=f)), 3) for f in (0.05, 0.1, 1.0)]
    [0.5, 1.0, 0.0]
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        number(0, below=1, warmup=self.warmup)
        number(0, final=self.final)

    def __call__(self, progress: Progress) -> float:
        if progress.fraction < self.warmup:
            # The very first step must move something, however short the warm-up.
            return max(progress.fraction / self.warmup, 1e-3)
        done = (progress.fraction - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
