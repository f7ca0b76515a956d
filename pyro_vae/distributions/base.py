"""What the distributions share: their parameters expand, and values are looked at while validation is on."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all


class Parametrized(TorchDistribution):
    """Base of the distributions whose parameters are the attributes that ``arg_constraints`` names.

    What else an instance holds goes with it when it expands.
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new: Any = self.__new__(type(self)) if _instance is None else _instance
        vars(new).update(vars(self))
        batch_shape = torch.Size(batch_shape)
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


def validated(fn: Any, value: Tensor) -> Tensor:
    """``value``, which has to be in the support of ``fn`` while validation is on.

    Raises:
        ValueError: if it is not.
    """
    if fn._validate_args:
        fn._validate_sample(value)
    return value
