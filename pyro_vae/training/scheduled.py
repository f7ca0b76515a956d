"""What schedules move while a pair is trained: numbers of the estimator, and buffers of the pair."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae._checks import counted
from pyro_vae.data import draws
from pyro_vae.estimators import Estimator
from pyro_vae.pair import device_of
from pyro_vae.pair.protocols import ChecksBuffer
from pyro_vae.training.schedules import Progress, Schedule


class _Moved(NamedTuple):
    """A tensor of no dimension, which its module may replace, its schedule, and what refuses a value."""

    tensor: Callable[[], Tensor]
    schedule: Callable[[Progress], float]
    check: Callable[[float], Any]


class Schedules:
    """All that moves in a run, by one mechanism.

    A buffer goes by its dotted name, as in ``named_buffers()``. Where its module checks it
    (:class:`~pyro_vae.pair.protocols.ChecksBuffer`), every value goes through that first.

    Args:
        pair: has the buffers.
        estimator: has numbers of its own (:attr:`Estimator.scheduled`).
        given: schedules by name; beta may also be a value.
        seed: of what schedules of the user's own draw, see :func:`value_at`.

    Attributes:
        given: schedule or value of each of the estimator's numbers and of the buffers that are moved.
        at: the estimator's numbers, as they are now.

    Raises:
        ValueError: if a name is nowhere, of a parameter, of more than one number, or of a buffer that another name has,
            or the estimator refuses a value.
    """

    def __init__(self, pair: nn.Module, estimator: Estimator, given: Mapping[str, Any], seed: int = 0) -> None:
        self._seed = seed
        own, buffers = estimator.scheduled, dict(pair.named_buffers(remove_duplicate=False))
        self.given = {**own, **estimator.schedules, **given}
        self.at: dict[str, Tensor] = {}
        self._moved: dict[str, _Moved] = {}
        for name, value in self.given.items():
            check = functools.partial(estimator.check_scheduled, name)
            if name in own and name in buffers and name in given:
                raise ValueError(f"{name!r} is a number of the estimator and a buffer of the pair. Rename the buffer.")
            if name not in own and (name in buffers or name != "beta"):
                self._moved[name] = _buffer(pair, name, value, [*own])
            elif callable(value):
                self.at[name] = torch.zeros((), device=device_of(pair))
                self._moved[name] = _Moved(functools.partial(self.at.__getitem__, name), value, check)
            else:
                check(float(value))
                self.at[name] = torch.as_tensor(value, dtype=torch.get_default_dtype(), device=device_of(pair))
        if len({id(buffer) for buffer in self.buffers.values()}) < len(self.buffers):
            names = ", ".join(self.buffers)
            raise ValueError(f"two of schedules name the same buffer, of {names}. Keep one name of each buffer.")

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers that are moved, by name."""
        return {name: moved.tensor() for name, moved in self._moved.items() if name not in self.at}

    def values(self, place: Progress) -> dict[str, float]:
        """What all are to be at ``place``.

        Raises:
            ValueError: if a value is not finite, or refused.
        """
        values = {}
        for name, moved in self._moved.items():
            values[name] = value = value_at(moved.schedule, place, self._seed)
            if not math.isfinite(value):
                raise ValueError(f"the schedule of {name} gives {value} after {counted(place.epoch, 'epoch')}.")
            try:
                moved.check(value)
            except ValueError as error:
                raise ValueError(f"the schedule of {name} after {counted(place.epoch, 'epoch')}: {error}") from error
        return values

    def move(self, place: Progress) -> None:
        """Sets all to their :meth:`values` at ``place``."""
        for name, value in self.values(place).items():
            self._moved[name].tensor().fill_(value)


def value_at(schedule: Callable[[Progress], float], place: Progress, seed: int) -> float:
    """The number of a schedule at a place; what one of the user's own draws is fixed by seed and step."""
    if type(schedule).__module__ == Schedule.__module__:
        return schedule(place)
    with draws.Apart(draws.SCHEDULE, seed, place.step):
        return schedule(place)


def _buffer(pair: nn.Module, name: str, schedule: Callable[[Progress], float], others: list[str]) -> _Moved:
    if name in dict(pair.named_parameters(remove_duplicate=False)):
        raise ValueError(
            f"schedules names {name!r}, which is a parameter: the optimizer moves it, and no schedule can as well. "
            "Schedules move buffers."
        )
    buffers = dict(pair.named_buffers(remove_duplicate=False))
    numbers = [key for key, buffer in buffers.items() if buffer.dim() == 0 and buffer.is_floating_point()]
    if name not in buffers:
        near = difflib.get_close_matches(name, [*numbers, *others], n=3, cutoff=0.3) or numbers[:3]
        nearest = f"the nearest are {', '.join(near)}" if near else "it has none that is one number"
        raise ValueError(f"schedules names {name!r}, but {type(pair).__name__} has no such buffer; {nearest}.")
    if name not in numbers:
        raise ValueError(
            f"schedules moves one floating-point number; the buffer {name!r} has shape {list(buffers[name].shape)} and "
            f"dtype {buffers[name].dtype}."
        )
    path, _, key = name.rpartition(".")
    module = pair.get_submodule(path)
    check = functools.partial(module.check_buffer, key) if isinstance(module, ChecksBuffer) else float
    return _Moved(functools.partial(getattr, module, key), schedule, check)
