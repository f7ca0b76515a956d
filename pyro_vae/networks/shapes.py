"""What networks share: shapes, and how a network's output is split into the parameters of a distribution."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_vae._checks import is_dense, shown
from pyro_vae._torch import uncompiled


@runtime_checkable
class HasInShape(Protocol):
    """A network that says what it takes; that of a posterior or likelihood, of which then no ``event_dim`` is asked."""

    @property
    def in_shape(self) -> Sequence[int]:
        """Event shape of the input."""


@runtime_checkable
class HasOutShape(Protocol):
    """A network that says what it gives; a posterior that is built of it then checks the size of its latent."""

    @property
    def out_shape(self) -> Sequence[int]:
        """Event shape of the output."""


def in_shape_of(network: nn.Module) -> torch.Size | None:
    """The ``in_shape`` of a network, also of a compiled one; ``None`` where it does not say.

    >>> import pyro_vae as pv
    >>> from pyro_vae import networks
    >>> networks.in_shape_of(pv.MLP((1, 28, 28), 2, hidden=(8,)))
    torch.Size([1, 28, 28])
    """
    network = uncompiled(network)
    return torch.Size(network.in_shape) if isinstance(network, HasInShape) else None


def out_shape_of(network: nn.Module) -> torch.Size | None:
    """The ``out_shape`` of a network, as :func:`in_shape_of`.

    >>> import pyro_vae as pv
    >>> from pyro_vae import networks
    >>> networks.out_shape_of(pv.MLP((1, 28, 28), (2, 8), hidden=(8,)))
    torch.Size([2, 8])
    """
    network = uncompiled(network)
    return torch.Size(network.out_shape) if isinstance(network, HasOutShape) else None


def event_dim_of(network: nn.Module) -> int:
    """The number of dimensions of one input of a network: what its ``in_shape`` says, or 1.

    >>> import pyro_vae as pv
    >>> from pyro_vae import networks
    >>> networks.event_dim_of(pv.MLP((1, 28, 28), 2, hidden=(8,)))
    3
    """
    in_shape = in_shape_of(network)
    return 1 if in_shape is None else len(in_shape)


def shape_of(name: str, shape: int | Sequence[int]) -> torch.Size:
    """``shape``, one size or several, as a ``torch.Size``; an error calls it ``name``.

    >>> from pyro_vae import networks
    >>> networks.shape_of("in_shape", 784), networks.shape_of("in_shape", (1, 28, 28))
    (torch.Size([784]), torch.Size([1, 28, 28]))
    """
    try:
        given = itertools.islice(shape, 65) if isinstance(shape, Iterable) else (shape,)  # torch has 64 dimensions
        sizes = tuple(operator.index(size) for size in given)
    except (TypeError, ValueError, RuntimeError):
        sizes = ()
    if not 0 < len(sizes) < 65 or not 1 <= min(sizes) <= max(sizes) < 2**31:
        raise ValueError(
            f"{name} has to hold sizes of at least 1 and below 2**31, such as 20 or (1, 28, 28); got {shown(shape)}."
        )
    return torch.Size(sizes)


def check_input(network: nn.Module, x: Tensor, in_shape: torch.Size) -> None:
    """Refuses what is no dense tensor ``[*, *in_shape]``, which the network was built for.

    Raises:
        TypeError: if x is no dense tensor.
        ValueError: if its last dimensions are others.
    """
    if not is_dense(x):
        raise TypeError(
            f"{type(network).__name__} takes a dense tensor [*, {', '.join(map(str, in_shape))}]; got {shown(x)}."
        )
    check_has_values(x, network)
    if x.shape[-len(in_shape) :] != in_shape:
        raise ValueError(
            f"{type(network).__name__} was built for inputs of shape [*, {', '.join(map(str, in_shape))}]; "
            f"got {list(x.shape)}. Build it with in_shape={tuple(x.shape[-len(in_shape) :])}, or reshape the data."
        )


def check_has_values(x: Tensor, module: nn.Module) -> None:
    """Refuses an x of no values, on the meta device, for a module that has some.

    Raises:
        ValueError: if it is one.
    """
    if x.is_meta and any(not value.is_meta for value in itertools.chain(module.parameters(), module.buffers())):
        raise ValueError(
            f"a {type(module).__name__} was given a tensor on the meta device, which has a shape and no values. Give "
            "data, or move the module there: .to('meta')."
        )


def applied(network: Callable[..., Tensor], x: Tensor, whose: str | None = None) -> Tensor:
    """``network(x)``; where x is nothing that the network could take, an error says so, of ``whose`` network it is.

    >>> import torch
    >>> from pyro_vae import networks
    >>> networks.applied(torch.nn.Linear(4, 2), torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """
    if not is_dense(x):
        raise TypeError(f"a {whose or type(network).__name__} takes a dense tensor of real numbers; got {shown(x)}.")
    try:
        return network(x)
    except RuntimeError as error:
        check_fits(network, x, error, whose)
        raise


def check_fits(network: Any, x: Tensor, error: Exception, whose: str | None = None) -> None:
    """Says of an ``error`` of a network, or another module, that it comes of an x that the network cannot take.

    Raises:
        ValueError: if it has another dtype, or is at another place, than the parameters, is of another size than a
            linear network takes, or empty.
    """
    name = whose or type(network).__name__
    if not x.numel():
        raise ValueError(f"there are no data: a {name} was given a tensor of shape {list(x.shape)}.") from error
    first = next(iter(network.parameters()), None) if isinstance(network, nn.Module) else None
    if first is not None and (x.dtype, x.device) != (first.dtype, first.device):
        raise ValueError(
            f"the parameters of a {name} are of {first.dtype} on {first.device}; got a tensor of {x.dtype} on "
            f"{x.device}. Convert the one or the other: x.to({first.dtype}), or the module's .to(...)."
        ) from error
    if isinstance(network, nn.Linear) and x.shape[-1:] != (network.in_features,):
        raise ValueError(
            f"the network of a {name} takes [*, {network.in_features}]; got the shape {list(x.shape)}."
        ) from error


def at_least_float32(parameter: Tensor) -> Tensor:
    """``parameter`` in float32 or better: log-probabilities are never summed in half precision.

    >>> import torch
    >>> from pyro_vae import networks
    >>> networks.at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def stacked(name: str, output: Tensor, count: int, leading: int, remedy: str = "") -> tuple[Tensor, ...]:
    """Splits a network's output ``[*, count, *event]``, with ``leading`` dimensions in ``*``, into its parameters.

    ``name`` is whose parameters they are and ``remedy`` what else may help, for the message.

    Raises:
        ValueError: if there is no dimension of size ``count`` in that place.

    >>> import torch
    >>> from pyro_vae import networks
    >>> loc, scale = networks.stacked("my posterior", torch.zeros(3, 2, 8), 2, leading=1)
    >>> loc.shape, scale.shape
    (torch.Size([3, 8]), torch.Size([3, 8]))
    """
    return check_output(name, output, (count,), leading, remedy).unbind(leading)


def check_output(name: str, output: Tensor, sizes: Sequence[int], leading: int, remedy: str = "") -> Tensor:
    """A network's output ``[*, *sizes, *event]`` in float32 or better; the other arguments as in :func:`stacked`.

    Raises:
        ValueError: if it has other dimensions in the place of ``sizes``.
    """
    if output.shape[leading : leading + len(sizes)] != tuple(sizes):
        wanted = ", ".join(map(str, sizes))
        raise ValueError(
            f"{name} has {math.prod(sizes)} parameters, so its network has to give them stacked, [*, {wanted}, *event]"
            f"; got {list(output.shape)} for {leading} leading dimension{'s' * (leading != 1)}. Build the network with "
            f"out_shape=({wanted}, *event){remedy}."
        )
    return at_least_float32(output)
