"""The arguments of fit() as one value, which checks itself and says what it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pyro_vae._checks import callable_, number, one_of, whole
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, Stream
from pyro_vae.estimators import Estimator
from pyro_vae.training.run import Run
from pyro_vae.training.schedules import Schedule
from pyro_vae.training.weight_priors import WeightPenalty, WeightPrior

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of :func:`pyro_vae.fit`, which tells what each of them is.

    Raises:
        ValueError: if a number is outside of its range, or ``device`` is not there.
        TypeError: if something is of another kind.
    """

    estimator: Estimator | None
    optimizer: OptimizerFactory
    scheduler: Schedule | SchedulerFactory | None
    epochs: int
    batch_size: int
    weight_prior: WeightPrior | WeightPenalty | None
    beta: float | Schedule | None
    schedules: Mapping[str, Schedule] | None
    seed: int
    out: str | Path | None
    resume: bool
    compile: Compile
    precision: Precision
    device: torch.device | str | None
    clip_norm: float | None
    average: float | None
    patience: int | None
    checkpoint_every: float
    progress: bool
    callbacks: Sequence[Callable[[Run], Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.estimator, Estimator | None):
            kind = self.estimator if isinstance(self.estimator, type) else type(self.estimator)
            ...
