"""The one equation that planar and Sylvester flows need for their inverses."""

from __future__ import annotations

import torch
from torch import Tensor


def tanh_root(slope: Tensor, value: Tensor, iterations: int = 10) -> Tensor:
    r"""The p with :math:`p + (s - 1) \tanh p = v`, for a slope s > 0 at 0.

    The equation is odd and monotone, and for p > 0 concave (s > 1) or convex (s < 1), so Newton's method started at a
    bound of the right side, made of the asymptotes, goes to the root without ever passing it. A last Newton step is
    differentiable in s and v: by the implicit function theorem its first derivatives are those of the root.

    Args:
        slope, value: s and v, which broadcast.
        iterations: 5 are enough for s <= 2, and 10 for s <= 1000, in float64.
    """
    with torch.no_grad():
        p = _newton(slope, value, iterations)
        t = p.tanh()
        derivative = _derivative(slope, t)
    return p - (p + (slope - 1) * t - value) / derivative


def _derivative(slope: Tensor, t: Tensor) -> Tensor:
    """s + (1 - s) tanh(p)^2 without the cancellation of 1 + (s - 1) (1 - tanh(p)^2)."""
    return (slope * (1 - t * t) + t * t).clamp_min(torch.finfo(t.dtype).tiny)


def _newton(slope: Tensor, value: Tensor, iterations: int) -> Tensor:
    slope, value = torch.broadcast_tensors(slope, value)
    tiny = torch.finfo(value.dtype).tiny
    size = value.abs()
    linear = size / slope.clamp_min(tiny)  # tanh p <= p
    flat = size + (1 - slope)  # tanh p <= 1
    # tanh p <= p - p^3 / 5 for p <= 1, which tells where slope 0 lets the root be.
    cubic = (5 * size / (1 - slope).clamp_min(tiny)).pow(1 / 3)
    above = torch.minimum(linear, torch.where(cubic <= 1, torch.minimum(cubic, flat), flat))
    below = torch.maximum(linear, flat)
    steep = slope >= 1
    p = torch.where(steep, below, above)
    least, most = torch.where(steep, p, size), torch.where(steep, size, p)
    for _ in range(iterations):
        t = p.tanh()
        p = p - (p + (slope - 1) * t - size) / _derivative(slope, t)
        p = torch.minimum(torch.maximum(p, least), most)
    return torch.where(value < 0, -p, p)
