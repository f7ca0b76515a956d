"""How the systems put their parts together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn


def with_network(
    make: Callable[[nn.Module], nn.Module],
    shape: Sequence[int],
    network: Callable[[tuple[int, ...]], nn.Module],
    default: Sequence[int],
) -> Any:
    """What ``make`` gives of a network with the output that it asks for.

    Args:
        make: a class of :mod:`pyro_vae.posteriors` or :mod:`pyro_vae.likelihoods`, or a function of a network.
        shape: event shape of the variable, of which ``network_shape`` makes that of the network's output.
        network: makes the network of an output shape.
        default: the output shape where ``make`` gives something without ``network_shape``.
    """
    part = make(nn.Identity())
    asked = getattr(part, "network_shape", None)
    if asked is None:
        return make(network(tuple(default)))
    part.network = network(tuple(asked(shape)))
    return part
