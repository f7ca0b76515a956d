"""The arguments of fit() as one value, which checks itself."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.optim.multi import MultiOptimizer
from torch import Tensor, nn

from pyro_vae._checks import callable_, number, one_of, shown, whole
from pyro_vae._tensors import device_
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, Split
from pyro_vae.estimators import Estimator, as_estimator
from pyro_vae.training.run import Run
from pyro_vae.training.schedules import Cosine, Schedule
from pyro_vae.training.weight_priors import WeightPenalty, WeightPrior

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]

#: What the command line trains with, chosen for the test NLL of dynamically binarized MNIST after eight minutes on two
#: cores with ``pyro_vae.models.MLPVAE``. ``fit`` itself keeps to what a reader of the papers expects (Adam, 1e-3).
CLI_DEFAULTS: dict[str, Any] = {
    "optimizer": functools.partial(torch.optim.Adam, lr=5e-3, betas=(0.9, 0.99), fused=True),
    "scheduler": Cosine(warmup=0.02),
    "average": 0.999,
    "batch_size": 512,
    "epochs": 220,
    "precision": "auto",
}


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of :func:`pyro_vae.fit`, which tells what each of them is.

    Raises:
        ValueError: if a number is outside of its range, or ``device`` is not there.
        TypeError: if something is of another kind.
    """

    estimator: Estimator | None
    optimizer: OptimizerFactory | PyroOptim
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
    num_data: int | None
    checkpoint_every: float
    progress: bool
    callbacks: Sequence[Callable[[Run], Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimator", as_estimator(self.estimator))
        schedules = self.schedules
        if not isinstance(schedules, Mapping | None):
            raise TypeError(
                "schedules is a mapping of names to their schedules, such as "
                f"{{'posterior.network.corruption.level': Linear(0.5, 0.0)}}; got {shown(schedules)}."
            )
        for name, schedule in (schedules or {}).items():
            if not isinstance(schedule, Schedule):
                raise TypeError(
                    f"schedules[{name!r}] has to be a Schedule, such as Linear(0.5, 0.0); got {shown(schedule)}."
                )
        if self.beta is not None and "beta" in (schedules or {}):
            raise ValueError("beta=... is short for schedules={'beta': ...}. Give one of the two.")
        self._check_optimizer()
        if not isinstance(self.callbacks, Sequence) or isinstance(self.callbacks, str):
            raise TypeError(f"callbacks is a list of functions of the run; got {shown(self.callbacks)}.")
        callable_(optimizer=self.optimizer, **{f"callbacks[{i}]": call for i, call in enumerate(self.callbacks)})
        if self.scheduler is not None:
            callable_(scheduler=self.scheduler)
        whole(1, epochs=self.epochs, batch_size=self.batch_size)
        whole(0, seed=self.seed, **({} if self.patience is None else {"patience": self.patience}))
        object.__setattr__(self, "seed", operator.index(self.seed))
        if self.num_data is not None:
            whole(1, num_data=self.num_data)
        number(0, checkpoint_every=self.checkpoint_every)
        if self.clip_norm is not None:
            number(above=0, clip_norm=self.clip_norm)
        if self.average is not None:
            number(above=0, below=1, average=self.average)
        if not isinstance(self.beta, Schedule | None):
            number(beta=self.beta)
        one_of((True, False), resume=self.resume, progress=self.progress)
        one_of(get_args(Compile), compile=self.compile)
        one_of(get_args(Precision), precision=self.precision)
        if self.device is not None:
            device_(device=self.device)
        if not isinstance(self.weight_prior, WeightPenalty | None):
            raise TypeError(f"weight_prior has to be such as WeightPrior(), or None; got {shown(self.weight_prior)}.")
        if not isinstance(self.out, str | os.PathLike | None) or "\0" in str(self.out):
            raise TypeError(f"out has to be the path of a folder; got {shown(self.out)}.")

    def _check_optimizer(self) -> None:
        optimizer, scheduler = self.optimizer, self.scheduler
        if isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(
                f"optimizer is a torch optimizer of parameters that it was given, {kind}(...). The pair's may be more, "
                f"since programs make some when they first run: give what makes one of them, optimizer=lambda "
                f"parameters: torch.optim.{kind}(parameters, lr=1e-3)."
            )
        if isinstance(optimizer, MultiOptimizer):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__} of pyro.optim.multi, which takes its steps from losses "
                "itself. Give a class of torch.optim, or a PyroOptim such as pyro.optim.Adam({'lr': 1e-3})."
            )
        if getattr(optimizer, "__module__", "").startswith("pyro.optim") and not isinstance(optimizer, PyroOptim):
            name = getattr(optimizer, "__name__", type(optimizer).__name__)
            raise TypeError(
                f"optimizer is {name} of pyro.optim without its options; give them: pyro.optim.{name}({{'lr': 1e-3}})."
            )
        if isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
            kind = type(scheduler).__name__
            raise TypeError(
                f"scheduler is a {kind} of an optimizer that it was given; fit makes its own. Give what makes one of "
                f"that, scheduler=lambda optimizer: torch.optim.lr_scheduler.{kind}(optimizer, ...)."
            )
        if isinstance(optimizer, PyroLRScheduler) and scheduler is not None:
            raise ValueError(
                "optimizer is a scheduler of pyro.optim, and scheduler= is another one. Give one of the two."
            )

    def check_data(self, data: Data) -> None:
        """Raises a ``ValueError`` if these data do not go with the settings."""
        if isinstance(data.train, Split) and self.batch_size > len(data.train):
            raise ValueError(
                f"batch_size={self.batch_size} is larger than the training set of {len(data.train)}. "
                f"Use a batch size of at most {len(data.train)}."
            )
        if self.patience is not None and data.valid is None:
            raise ValueError("patience needs a validation set; give data=(train, valid), or leave patience out.")

    @property
    def moved(self) -> dict[str, Any]:
        """What is to be moved, by name: ``schedules``, and beta where it was given."""
        return dict(sorted({**(self.schedules or {}), **({} if self.beta is None else {"beta": self.beta})}.items()))


def described(value: Any) -> str:
    """A description without addresses, so that it is the same in another process."""
    if isinstance(value, Tensor):
        return repr(value.tolist())
    if isinstance(value, functools.partial):
        inner = ", ".join([described(a) for a in value.args] + [described(value.keywords)])
        return f"{described(value.func)}({inner})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={described(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(described, value))}]"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is object.__repr__:
        return f"{type(value).__module__}.{type(value).__qualname__}({described(vars(value))})"
    return repr(value)
