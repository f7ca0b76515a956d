"""Coupling flows of rational-quadratic splines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae._checks import checked, whole
from pyro_vae.networks import MLP, at_least_float32, normal_init
from pyro_vae.transforms.base import Step, broadcast

_LEAST = 1e-3  # of the width and height of a bin, as a share of the box, and of a derivative


class SplineCoupling(Step):
    r"""Neural spline flow: one half of the latent, with the context, says how each dimension of the other is bent.

    .. math:: y = (g(z_2; \theta(z_1, \mathrm{context})), z_1)

    with z_1 the first :math:`\lfloor D / 2 \rfloor` dimensions. g is, for each dimension, a monotone
    rational-quadratic spline of K bins on [-bound, bound] and the identity outside. The halves change places, so that
    two steps bend every dimension. Drawing and scoring both take one pass of the network.

    Args:
        latent_dim, context_dim: see :class:`Step`.
        num_bins: K.
        bound: half the length of the interval.
        hidden: width of each hidden layer of the network that gives theta.
        activation: class of the non-linearity.

    Raises:
        ValueError: if D is 1, which has no halves, or an option is out of range.

    Source: Durkan, Bekasov, Murray & Papamakarios (2019), section 3.1, eqs. 4 to 8.
    """

    @checked(but=("latent_dim", "context_dim", "num_bins"))
    def __init__(
        self,
        latent_dim: int,
        context_dim: int | None = None,
        *,
        num_bins: int = 8,
        bound: float = 5.0,
        hidden: Sequence[int] = (128,),
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(latent_dim, context_dim)
        if latent_dim < 2:
            raise ValueError(
                "a SplineCoupling needs two halves, so a latent of at least 2 dimensions; got latent_dim=1. "
                "Take another step, for example Planar or InverseAutoregressive."
            )
        whole(2, num_bins=num_bins)
        self.num_bins = num_bins
        if self.num_bins * _LEAST > 0.5:
            raise ValueError(f"num_bins of a SplineCoupling is at most {round(0.5 / _LEAST)}; got {num_bins}.")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound of a SplineCoupling has to be positive and finite; got {bound}.")
        self.bound = bound
        self._half = latent_dim // 2
        sizes = self._half + (context_dim or 0), (latent_dim - self._half, 3 * num_bins - 1)
        self.network = MLP(*sizes, hidden=hidden, activation=activation)
        normal_init(self.network.layers[-1])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_bins={self.num_bins}, bound={self.bound}"

    def call_and_ladj(self, z: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        first, second = z.split((self._half, self.latent_dim - self._half), -1)
        bent, ladj = rational_quadratic(second, *self._knots(first, theta), self.bound)
        return torch.cat((bent, first.expand(*bent.shape[:-1], -1)), -1), ladj.sum(-1)

    def inverse_and_ladj(self, y: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        bent, first = y.split((self.latent_dim - self._half, self._half), -1)
        second, ladj = rational_quadratic(bent, *self._knots(first, theta), self.bound, inverse=True)
        return torch.cat((first.expand(*second.shape[:-1], -1), second), -1), -ladj.sum(-1)

    def _knots(self, first: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Widths and heights ``[*, K]``, as shares of the box, and derivatives ``[*, K - 1]``."""
        if context is not None:
            first = torch.cat(broadcast(first, context), -1)
        output = at_least_float32(self.network(first))
        widths, heights, derivatives = output.split((self.num_bins, self.num_bins, self.num_bins - 1), -1)
        room = 1 - _LEAST * self.num_bins
        # softplus(offset) + least = 1: the start is nearly the identity.
        offset = math.log(math.expm1(1 - _LEAST))
        return (
            _LEAST + room * widths.softmax(-1),
            _LEAST + room * heights.softmax(-1),
            _LEAST + F.softplus(derivatives + offset),
        )


def rational_quadratic(
    inputs: Tensor, widths: Tensor, heights: Tensor, derivatives: Tensor, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""A monotone rational-quadratic spline through K + 1 knots on [-bound, bound]^2, and the identity outside.

    .. math:: g(x) = y_k + (y_{k+1} - y_k) \frac{s_k \xi^2 + \delta_k \xi (1 - \xi)}
        {s_k + (\delta_{k+1} + \delta_k - 2 s_k) \xi (1 - \xi)}, \quad \xi = \frac{x - x_k}{x_{k+1} - x_k}

    with the slopes :math:`s_k` of the bins and the derivatives :math:`\delta_k` at the knots, 1 at both ends.

    Args:
        inputs: ``[*]``.
        widths, heights: of the bins, ``[*, K]``, as shares of the box (each sums to 1).
        derivatives: at the inner knots, ``[*, K - 1]``.
        bound: half the side of the box.
        inverse: gives x for y.

    Returns:
        The outputs and :math:`\log g'(x)` (of g, also for the inverse), both ``[*]``.

    Source: Durkan et al. (2019), eqs. 4 to 8.
    """
    inside = inputs.abs() <= bound
    value = inputs.clamp(-bound, bound)
    knots_x, knots_y = _knots(widths, bound), _knots(heights, bound)
    derivatives = F.pad(derivatives, (1, 1), value=1.0)
    inner = (knots_y if inverse else knots_x)[..., 1:-1]
    k = (value.unsqueeze(-1) >= inner).sum(-1, keepdim=True)

    def at(knots: Tensor, index: Tensor) -> Tensor:
        return knots.gather(-1, index).squeeze(-1)

    left, bottom, low, high = at(knots_x, k), at(knots_y, k), at(derivatives, k), at(derivatives, k + 1)
    width, height = at(knots_x, k + 1) - left, at(knots_y, k + 1) - bottom
    slope = height / width
    bend = low + high - 2 * slope
    if inverse:
        up = value - bottom
        a = height * (slope - low) + up * bend
        b = height * low - up * bend
        c = -slope * up
        root = (b * b - 4 * a * c).clamp_min(torch.finfo(value.dtype).tiny).sqrt()
        xi = 2 * c / (-b - root)
    else:
        xi = (value - left) / width
    between = xi * (1 - xi)
    denominator = slope + bend * between
    outputs = left + width * xi if inverse else bottom + height * (slope * xi * xi + low * between) / denominator
    numerator = high * xi * xi + 2 * slope * between + low * (1 - xi).square()
    log_derivative = 2 * slope.log() + numerator.log() - 2 * denominator.log()
    return torch.where(inside, outputs, inputs), torch.where(inside, log_derivative, 0.0)


def _knots(shares: Tensor, bound: float) -> Tensor:
    """The K + 1 ends of the bins; the outermost exactly at -bound and bound."""
    inner = 2 * bound * shares[..., :-1].cumsum(-1) - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
