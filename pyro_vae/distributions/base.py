"""What the distributions share: their parameters expand, and values are looked at while validation is on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae._checks import held, is_tensor, shown


class Sized:
    """Refuses what is no shape of draws."""

    def _extended_shape(self, sample_shape: Any = ()) -> torch.Size:
        return super()._extended_shape(size_of(sample_shape))  # type: ignore[misc]


def size_of(shape: Any, name: str = "sample_shape") -> torch.Size:
    """A shape, which may be empty.

    Raises:
        ValueError: if it is none, or of more numbers than there is memory for.
    """
    if type(shape) is torch.Size:
        return shape
    try:
        size = torch.Size(itertools.islice(iter(shape), 65))  # torch has 64 dimensions
    except (TypeError, ValueError, RuntimeError, OverflowError):
        size = torch.Size((-1,))
    if min(size, default=0) < 0 or len(size) > 64:
        raise ValueError(
            f"{name} is a shape, such as () or (10,), each a whole number of at least 0; got {shown(shape)}."
        )
    held(f"draws of {name} {tuple(size)}", math.prod(size))
    return size


class Parametrized(Sized, TorchDistribution):
    """Base of the distributions whose parameters are the attributes that ``arg_constraints`` names.

    What else an instance holds goes with it when it expands.
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new: Any = self.__new__(type(self)) if _instance is None else _instance
        vars(new).update(vars(self))
        batch_shape = expandable(self, batch_shape)
        for name, constraint in self.arg_constraints.items():
            value = getattr(self, name)
            setattr(new, name, value.expand(batch_shape + value.shape[value.dim() - constraint.event_dim :]))
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def broadcast(**parameters: Any) -> tuple[Tensor, ...]:
    """Parameters, numbers or tensors, as tensors of one shape.

    Raises:
        ValueError: if they have no common shape.
        TypeError: if they are of 8 bits, of which torch can do little.
    """
    for name, value in parameters.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 2:
            raise TypeError(f"{name} is of {value.dtype}; floats of 16, 32 or 64 bits were expected.")
    try:
        return tuple(broadcast_all(*parameters.values()))
    except (RuntimeError, ValueError) as error:
        shapes = ", ".join(str(list(torch.as_tensor(value).shape)) for value in parameters.values())
        raise ValueError(f"{', '.join(parameters)} have to have shapes that broadcast; got {shapes}.") from error


def expandable(fn: Any, batch_shape: Any) -> torch.Size:
    """The shape to which ``fn`` is expanded.

    Raises:
        ValueError: if it does not expand to that.
    """
    shape, own = size_of(batch_shape, "batch_shape"), fn.batch_shape
    if len(shape) < len(own) or any(
        there not in (1, size) for there, size in zip(own[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(f"a {type(fn).__name__} of batch shape {list(own)} does not expand to {list(shape)}.")
    return shape


def validated(fn: Any, value: Tensor) -> Tensor:
    """``value``, which has to be in the support of ``fn`` while validation is on; of truth values the numbers.

    Raises:
        ValueError: if it is not.
        TypeError: if it is no tensor of real numbers.
    """
    if fn._validate_args:
        if not is_tensor(value):
            raise TypeError(f"a {type(fn).__name__} scores a dense tensor of real numbers; got {shown(value)}.")
        fn._validate_sample(value)
    return value.to(torch.get_default_dtype()) if value.dtype == torch.bool else value


def chosen(logits: Tensor, size: torch.Size) -> Tensor:
    """Draws ``[*size, *]`` of classes by their ``logits: [*, K]``, of which there may be none."""
    if not size.numel():
        return torch.empty((*size, *logits.shape[:-1]), dtype=torch.long, device=logits.device)
    return torch.distributions.Categorical(logits=logits).sample(size)
