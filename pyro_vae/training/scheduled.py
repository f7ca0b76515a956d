"""What schedules move while a pair is trained: numbers of the estimator, and buffers of the pair."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.estimators import Estimator
from pyro_vae.pair import device_of
from pyro_vae.pair.protocols import ChecksBuffer
from pyro_vae.training.schedules import Progress, Schedule


class Scheduled:
    """A tensor of no dimension that follows a schedule; ``check`` refuses a value by a ``ValueError``."""

    def __init__(self, name: str, schedule: Schedule, tensor: Callable[[], Tensor], check: Callable[[float], Any]):
        self.name, self.schedule, self.tensor, self._check = name, schedule, tensor, check

    def value(self, place: Progress) -> float:
        """What the schedule gives at ``place``.

        Raises:
            ValueError: if that is not finite, or refused.
        """
        value = self.schedule(place)
        if not math.isfinite(value):
            raise ValueError(f"the schedule of {self.name} gives {value} after {place.epoch:g} epochs.")
        try:
            self._check(value)
        except ValueError as error:
            raise ValueError(f"the schedule of {self.name} after {place.epoch:g} epochs: {error}") from error
        return value

    def move(self, place: Progress) -> None:
        """Sets the tensor to what the schedule gives at ``place``."""
        self.tensor().fill_(self.value(place))


class Schedules:
    """All that moves in a run.

    A buffer goes by its dotted name, as in ``named_buffers()``. Where its module checks it
    (:class:`~pyro_vae.pair.protocols.ChecksBuffer`), as a :class:`~pyro_vae.networks.Corruption` does, every value goes
    through that first.

    Args:
        pair: has the buffers.
        estimator: has numbers of its own (:attr:`Estimator.scheduled`).
        given: by name a schedule; or a value, of the estimator's beta.
        ends: the first and the last place, at which all values are looked at.

    Attributes:
        given: of all numbers of the estimator, and of the buffers that are moved.
        at: the estimator's numbers, as they are now.
        buffers: those that are moved.

    Raises:
        ValueError: if a name is nowhere, of a parameter, or of more than one number, two names are of one buffer, or a
            value is refused.
        TypeError: if what was given is no schedule.
    """

    def __init__(
        self, pair: nn.Module, estimator: Estimator, given: Mapping[str, Any], ends: tuple[Progress, Progress]
    ) -> None:
        own, buffers = estimator.scheduled, dict(pair.named_buffers(remove_duplicate=False))
        self.given = {**own, **estimator.schedules, **given}
        self.at: dict[str, Tensor] = {}
        self.buffers: list[Scheduled] = []
        self._own: list[Scheduled] = []
        for name, value in self.given.items():
            if name in own and name in buffers and name in given:
                raise ValueError(f"{name!r} is a number of the estimator and a buffer of the pair. Rename the buffer.")
            if name in own:
                self._add_own(estimator, name, value, device_of(pair))
            elif name == "beta" and name not in buffers:
                estimator.check_scheduled(name, 1.0)  # says why it has none
            else:
                self.buffers.append(_buffer(pair, name, value, own))
        if len({id(moved.tensor()) for moved in self.buffers}) < len(self.buffers):
            names = ", ".join(moved.name for moved in self.buffers)
            raise ValueError(f"two of schedules name the same buffer, of {names}. Keep one name of each buffer.")
        for moved, place in itertools.product((*self._own, *self.buffers), ends):
            moved.value(place)

    def _add_own(self, estimator: Estimator, name: str, value: Any, device: torch.device) -> None:
        check = functools.partial(estimator.check_scheduled, name)
        if callable(value):
            tensor = self.at[name] = torch.zeros((), device=device)
            self._own.append(Scheduled(name, value, lambda: tensor, check))
        else:
            check(float(value))
            self.at[name] = torch.as_tensor(value, dtype=torch.get_default_dtype(), device=device)

    def move(self, place: Progress) -> None:
        """Sets all to their values at ``place``."""
        for moved in (*self._own, *self.buffers):
            moved.move(place)


def _buffer(pair: nn.Module, name: str, schedule: Schedule, others: Iterable[str]) -> Scheduled:
    if name in dict(pair.named_parameters(remove_duplicate=False)):
        raise ValueError(
            f"schedules names {name!r}, which is a parameter: the optimizer moves it, and no schedule can as well. "
            "Schedules move buffers."
        )
    buffers = dict(pair.named_buffers(remove_duplicate=False))
    if name not in buffers:
        numbers = [*(key for key, buffer in buffers.items() if _is_number(buffer)), *others]
        near = difflib.get_close_matches(name, numbers, n=3, cutoff=0.3) or numbers[:3]
        nearest = f"the nearest are {', '.join(near)}" if near else "it has none that is one number"
        raise ValueError(f"schedules names {name!r}, but {type(pair).__name__} has no such buffer; {nearest}.")
    buffer = buffers[name]
    if not _is_number(buffer):
        raise ValueError(
            f"schedules moves one floating-point number; the buffer {name!r} has shape {list(buffer.shape)} and dtype "
            f"{buffer.dtype}."
        )
    path, _, key = name.rpartition(".")
    module = pair.get_submodule(path)
    check = functools.partial(module.check_buffer, key) if isinstance(module, ChecksBuffer) else float
    return Scheduled(name, schedule, functools.partial(getattr, module, key), check)


def _is_number(buffer: Tensor) -> bool:
    return buffer.dim() == 0 and buffer.is_floating_point()
