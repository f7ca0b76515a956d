"""Units of a log-likelihood: nats, and bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pyro_vae._checks import checked, is_number, is_tensor, number, shown

Nats = TypeVar("Nats", float, Tensor)


@checked(but=("log_prob", "bin_width"))
def bits_per_dim(log_prob: Nats, event_shape: Sequence[int], bin_width: float = 1.0) -> Nats:
    r"""Bits per dimension of a log-likelihood in nats, lower is better:

    .. math:: -\frac{\log p(x)}{D \log 2} - \log_2 w

    The probability of gray levels (:class:`~pyro_vae.likelihoods.Categorical` and the discretized logistics) has
    w = 1. A density has units: it compares only where the data were dequantized, by uniform noise of the width w of
    one level, in the units that the density is over. Level k of 256 becomes (k + u) / 256 with u uniform in [0, 1]:
    w = 1/256, that is 8 bits more. With noise added to data k / 255, of width 1/255, w = 1/255. The bits are then an
    upper bound, on average over u, on those of the levels' probability. For data that were not dequantized a density
    gives no bits: it has no upper bound there.

    Args:
        log_prob: log p(x) of one datum, or a bound on it, in nats; a number or a tensor.
        event_shape: shape of one datum, of which D is the number of elements.
        bin_width: w.

    Raises:
        ValueError: if ``bin_width`` is not positive, or a datum has no elements.

    Source: Theis, van den Oord & Bethge (2016), section 3.1.

    >>> round(bits_per_dim(-1000.0, (1, 28, 28)), 3)
    1.84
    """
    if not isinstance(log_prob, Tensor):
        number(log_prob=log_prob)
    elif log_prob.dtype == torch.bool or not is_tensor(log_prob):
        raise TypeError(f"log_prob is a number, or a dense tensor of numbers, in nats; got {log_prob.dtype}.")
    dim = math.prod(event_shape)
    if dim < 1:
        raise ValueError(f"event_shape has to hold sizes of at least 1, for example (1, 28, 28); got {event_shape!r}.")
    if not is_number(bin_width) or not 0 < bin_width < math.inf:
        raise ValueError(f"bin_width is the width of one level, for example 1 / 256; got {shown(bin_width)}.")
    return -log_prob / (dim * math.log(2)) - math.log2(bin_width)
