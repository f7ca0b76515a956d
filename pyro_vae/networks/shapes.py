"""What networks share: shapes, and how a network's output is split into the parameters of a distribution."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def shape_of(name: str, shape: int | Sequence[int]) -> torch.Size:
    """``shape``, one size or several, as a ``torch.Size``; an error calls it ``name``."""
    try:
        sizes = tuple(operator.index(size) for size in (shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} has to hold sizes of at least 1, for example 20 or (1, 28, 28); got {shape!r}.")
    return torch.Size(sizes)


def check_input(network: nn.Module, x: Tensor, in_shape: torch.Size) -> None:
    if x.shape[-len(in_shape) :] != in_shape:
        raise ValueError(
            f"{type(network).__name__} was built for inputs of shape [*, {', '.join(map(str, in_shape))}]; "
            f"got {list(x.shape)}. Build it with in_shape={tuple(x.shape[-len(in_shape) :])}, or reshape the data."
        )


def at_least_float32(parameter: Tensor) -> Tensor:
    """``parameter`` in float32 or better: log-probabilities are never summed in half precision."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def stacked(name: str, output: Tensor, count: int, leading: int, remedy: str = "") -> tuple[Tensor, ...]:
    """Splits a network's output ``[*, count, *event]``, with ``leading`` dimensions in ``*``, into its parameters.

    ``name`` is whose parameters they are and ``remedy`` what else may help, for the message.

    Raises:
        ValueError: if there is no dimension of size ``count`` in that place.
    """
    if output.dim() <= leading or output.shape[leading] != count:
        raise ValueError(
            f"{name} has {count} parameters, so its network has to give [*, {count}, *event], the {count} stacked; "
            f"got {list(output.shape)} for {leading} leading dimension{'s' * (leading != 1)}. "
            f"Build the network with out_shape=({count}, *event){remedy}."
        )
    return at_least_float32(output).unbind(leading)
