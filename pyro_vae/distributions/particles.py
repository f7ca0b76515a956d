"""K particles of distributions that a program made without a dimension for them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor
from torch.distributions import constraints, kl_divergence, register_kl


@dataclass(frozen=True)
class Layout(ABC):
    """Where particles lie for a program, and where for who asked for them: ``[*left, K, *plates, *event]``.

    Attributes:
        count: K.
        nesting: number of plates.
    """

    count: int
    nesting: int

    @abstractmethod
    def join(self, parts: Sequence[Tensor], event_dim: int = 0) -> Tensor:
        """Tensors of the program -> ``[*left, K or 1, *plates, *event]``."""

    @abstractmethod
    def split(self, value: Tensor, batch_dims: Sequence[int], event_dim: int = 0) -> list[Tensor]:
        """The inverse of :meth:`join`; each with so many dimensions before those of the event, where they suffice."""

    def padded(self, part: Tensor, event_dim: int, dims: int) -> Tensor:
        """With at least ``dims`` dimensions before those of the event."""
        return part.reshape((1,) * (dims + event_dim - part.dim()) + part.shape)


@dataclass(frozen=True)
class Repeated(Layout):
    """The program ran once, on each datum K times: row ``k B + b`` is particle k of datum b."""

    size: int
    data_dim: int = -1

    def join(self, parts: Sequence[Tensor], event_dim: int = 0) -> Tensor:
        value = self.padded(parts[0], event_dim, self.nesting)
        left = value.dim() - event_dim - self.nesting
        at = value.dim() - event_dim + self.data_dim
        if value.shape[at] != self.count * self.size:
            return value.unsqueeze(left)
        return value.unflatten(at, (self.count, self.size)).movedim(at, left)

    def split(self, value: Tensor, batch_dims: Sequence[int], event_dim: int = 0) -> list[Tensor]:
        value = self.padded(value, event_dim, self.nesting + 1)
        left = value.dim() - event_dim - self.nesting - 1
        at = value.dim() - event_dim + self.data_dim
        if value.shape[left] == value.shape[at] == 1:
            return [bare(value.squeeze(left), batch_dims[0] + event_dim)]
        sizes = list(value.shape)
        sizes[left], sizes[at] = self.count, self.size
        return [bare(value.expand(sizes).movedim(left, at - 1).flatten(at - 1, at), batch_dims[0] + event_dim)]


@dataclass(frozen=True)
class Looped(Layout):
    """The program ran K times, once for each particle."""

    def join(self, parts: Sequence[Tensor], event_dim: int = 0) -> Tensor:
        first = self.padded(parts[0], event_dim, self.nesting + 1)
        left = first.dim() - event_dim - self.nesting - 1
        if all(part is parts[0] for part in parts):  # one tensor for all of them, as data are
            return first.expand(*first.shape[:left], self.count, *first.shape[left + 1 :])
        return torch.cat([self.padded(part, event_dim, self.nesting + 1) for part in parts], left)

    def split(self, value: Tensor, batch_dims: Sequence[int], event_dim: int = 0) -> list[Tensor]:
        return [self.one(value, k, dims, event_dim) for k, dims in enumerate(batch_dims)]

    def one(self, value: Tensor, k: int, batch_dims: int, event_dim: int) -> Tensor:
        """Particle k of a value, for a site of so many dimensions."""
        left = value.dim() - event_dim - self.nesting - 1
        if left >= 0 and value.shape[left] > 1:
            value = value.narrow(left, k, 1)
        return bare(value, batch_dims + event_dim)


def bare(value: Tensor, dims: int) -> Tensor:
    """Without dimensions of size 1 on the left, down to ``dims``."""
    surplus = max(value.dim() - dims, 0)
    kept = next((i for i, size in enumerate(value.shape[:surplus]) if size != 1), surplus)
    return value.reshape(value.shape[kept:]) if kept else value


class Particles(TorchDistribution):
    """Distributions of a program as one, ``[*left, K or 1, *plates]``.

    Args:
        parts: the program's own.
        layout: where their particles lie.
        num_units: how many of the batch's dimensions on the right are no plates, as without ``to_event``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parts: Sequence[Any], layout: Layout, num_units: int = 0) -> None:
        self.parts, self.layout, self.num_units = list(parts), layout, num_units
        self._drawn: tuple[Tensor, list[Tensor]] | None = None  # with what a transform knows as its own draw
        meta = [torch.empty(part.batch_shape, device="meta") for part in self.parts]
        if len({part.batch_shape for part in self.parts}) == 1:
            meta = meta[:1] * len(meta)
        shape = layout.join(meta, num_units).shape
        if layout.count > 1 and isinstance(layout, Looped):  # joined ones have a size of their own
            left = len(shape) - num_units - layout.nesting - 1
            shape = Size((*shape[:left], layout.count, *shape[left + 1 :]))
        super().__init__(shape, self.parts[0].event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.parts[0].has_rsample)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self.parts[0].has_enumerate_support)

    @constraints.dependent_property
    def support(self) -> Any:
        return self._support([part.support for part in self.parts])

    def _support(self, supports: list[Any]) -> Any:
        """The first of them, with the bounds of all particles where these are tensors."""
        first, changed = supports[0], {}
        for name, value in vars(first).items():
            values = [vars(one)[name] for one in supports]
            if isinstance(value, constraints.Constraint):
                changed[name] = self._support(values)
            elif isinstance(value, Tensor) and value.dim():
                changed[name] = self.join(values, self.event_dim)
        if all(value is vars(first)[name] for name, value in changed.items()):
            return first  # some are known by identity
        found = copy.copy(first)
        vars(found).update(changed)
        return found

    def over(self, parts: Sequence[Any], num_units: int = 0) -> Particles:
        """Other distributions in the same places; ``num_units`` more dimensions of theirs are no plates."""
        return Particles(parts, self.layout, self.num_units + num_units)

    def join(self, parts: Sequence[Tensor], event_dim: int = 0) -> Tensor:
        """Tensors of the parts' batches as one."""
        return self.layout.join(parts, self.num_units + event_dim)

    def split(self, value: Tensor) -> list[Tensor]:
        """A value for each of the parts."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        dims = [len(part.batch_shape) - self.num_units for part in self.parts]
        return self.layout.split(value, dims, self.num_units + self.event_dim)

    def _draw(self, draws: list[Tensor]) -> Tensor:
        value = self.join(draws, self.event_dim)
        self._drawn = value, draws
        return value

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._draw([part.rsample(sample_shape) for part in self.parts])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._draw([part.sample(sample_shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        values = self.split(value)
        return self.join([part.log_prob(one) for part, one in zip(self.parts, values, strict=True)])

    def score_parts(self, value: Tensor) -> ScoreParts:
        values = self.split(value)
        found = [part.score_parts(one) for part, one in zip(self.parts, values, strict=True)]
        return ScoreParts(*map(self.joined, zip(*found, strict=True)))

    def joined(self, numbers: Sequence[Any]) -> Any:
        """As :meth:`join`; what is no tensor is the same for all."""
        return self.join(numbers) if isinstance(numbers[0], Tensor) else numbers[0]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.parts[0].enumerate_support(False)  # the same of all
        event_shape = values.shape[values.dim() - self.event_dim :]
        values = values.reshape(-1, *(1 for _ in self.batch_shape), *event_shape)
        return values.expand(-1, *self.batch_shape, *event_shape) if expand else values


@register_kl(Particles, Particles)
def _kl(q: Particles, p: Particles) -> Tensor:
    if len(q.parts) != len(p.parts):
        raise NotImplementedError
    return cast(Tensor, q.join([kl_divergence(one, other) for one, other in zip(q.parts, p.parts, strict=True)]))
