"""A buffer of a pair that a schedule moves."""

from __future__ import annotations

import difflib
import math

from torch import Tensor, nn

from pyro_vae.pair.protocols import ChecksBuffer
from pyro_vae.training.schedules import Progress, Schedule


class ScheduledBuffer:
    """A number among the buffers of a pair, and the schedule that it follows.

    Where the buffer's module checks it (:class:`~pyro_vae.pair.protocols.ChecksBuffer`), as a
    :class:`~pyro_vae.networks.Corruption` does, every value goes through that first.

    Args:
        pair: has the buffer.
        name: its dotted name, as in ``named_buffers()``.
        schedule: its values.

    Raises:
        ValueError: if ``name`` is no buffer, a parameter, or more than one floating-point number.
        TypeError: if ``schedule`` is something else.
    """

    def __init__(self, pair: nn.Module, name: str, schedule: Schedule) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedules[{name!r}] has to be a Schedule, such as Linear(0.5, 0.0); got {schedule!r}.")
        if name in dict(pair.named_parameters(remove_duplicate=False)):
            raise ValueError(
                f"schedules names {name!r}, which is a parameter: the optimizer moves it, and no schedule can as well. "
                "Schedules move buffers."
            )
        buffers = dict(pair.named_buffers(remove_duplicate=False))
        if name not in buffers:
            numbers = [key for key, value in buffers.items() if _is_number(value)]
            near = difflib.get_close_matches(name, numbers, n=3, cutoff=0.3) or numbers[:3]
            nearest = f"the nearest are {', '.join(near)}" if near else "it has none that is one number"
            raise ValueError(f"schedules names {name!r}, but {type(pair).__name__} has no such buffer; {nearest}.")
        if not _is_number(buffers[name]):
            raise ValueError(
                f"schedules moves one floating-point number; the buffer {name!r} has shape "
                f"{list(buffers[name].shape)} and dtype {buffers[name].dtype}."
            )
        path, _, self._key = name.rpartition(".")
        self._module = pair.get_submodule(path)
        self._check = self._module if isinstance(self._module, ChecksBuffer) else None
        self.name, self.schedule = name, schedule

    @property
    def buffer(self) -> Tensor:
        """The buffer, which the module may have replaced."""
        return getattr(self._module, self._key)

    def value(self, place: Progress) -> float:
        """What the schedule gives at ``place``.

        Raises:
            ValueError: if that is not finite, or the buffer's module refuses it.
        """
        value = self.schedule(place)
        if not math.isfinite(value):
            raise ValueError(f"the schedule of {self.name} gives {value} after {place.epoch:g} epochs.")
        if self._check is not None:
            try:
                self._check.check_buffer(self._key, value)
            except ValueError as error:
                raise ValueError(f"the schedule of {self.name} after {place.epoch:g} epochs: {error}") from error
        return value

    def move(self, place: Progress) -> None:
        """Sets the buffer to what the schedule gives at ``place``."""
        self.buffer.fill_(self.value(place))


def _is_number(buffer: Tensor) -> bool:
    return buffer.dim() == 0 and buffer.is_floating_point()
