"""Autoregressive flows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae._checks import checked, made, number
from pyro_vae.networks import at_least_float32, normal_init, shape_of
from pyro_vae.transforms.base import Step, broadcast


class InverseAutoregressive(Step):
    r"""Inverse autoregressive flow: a masked network scales and shifts each dimension, given those before it.

    .. math:: y_d = \sigma_d z_d + (1 - \sigma_d) m_d, \quad \sigma = \mathrm{sigmoid}(s + \mathrm{bias}), \quad
        (m_d, s_d) = \mathrm{MADE}(z_{<d}, \mathrm{context})

    or, not gated, :math:`y_d = e^{s_d} z_d + m_d`, with s held in [-5, 3], as is :math:`\log \sigma` in [-5, 0];
    beyond, the gradient is that of a bound that is not there. Drawing takes one pass of the network, scoring a given
    value D. The step ends with a reversal of the dimensions, so that the next one sees the opposite order.

    Args:
        latent_dim, context_dim: see :class:`Step`. With D = 1 the network sees the context alone.
        hidden: width of each hidden layer, at least D.
        gated: the numerically stable form.
        sigmoid_bias: where the gate starts: sigmoid(2) = 0.88.
        reverse: that the step ends with the reversal.
        activation: class of the non-linearity.

    Raises:
        ValueError: if a hidden layer is narrower than D, which leaves a dimension without a unit.

    Source: Kingma, Salimans, Jozefowicz et al. (2016), eqs. 10 to 14 and algorithm 1; Germain et al. (2015) for MADE.
    """

    _reversal: Tensor

    @checked(but=("latent_dim", "context_dim", "sigmoid_bias"))
    def __init__(
        self,
        latent_dim: int,
        context_dim: int | None = None,
        *,
        hidden: Sequence[int] = (128,),
        gated: bool = True,
        sigmoid_bias: float = 2.0,
        reverse: bool = True,
        activation: type[nn.Module] = nn.ELU,
    ) -> None:
        super().__init__(latent_dim, context_dim)
        widths = list(shape_of("hidden", hidden))
        if min(widths) < latent_dim:
            raise ValueError(
                f"every hidden layer of an autoregressive network has to be at least as wide as the latent, "
                f"{latent_dim}; got hidden={tuple(widths)}. Give hidden=({latent_dim}, ...) or wider."
            )
        number(sigmoid_bias=sigmoid_bias)
        self.gated = gated
        self.sigmoid_bias = sigmoid_bias
        self.reverse = reverse
        self.network: ConditionalAutoRegressiveNN
        order: Any = torch.arange(latent_dim)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input_dim = 1")
            options: Any = {"hidden_dims": widths, "permutation": order, "nonlinearity": made("activation", activation)}
            if context_dim is None:
                self.network = AutoRegressiveNN(latent_dim, **options)
            else:
                self.network = ConditionalAutoRegressiveNN(latent_dim, context_dim, **options)
        normal_init(self.network.layers[-1])
        self.register_buffer("_reversal", order.flip(0), persistent=False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gated={self.gated}, reverse={self.reverse}"

    def call_and_ladj(self, z: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(z, theta)
        ladj = log_scale.sum(-1)
        y = log_scale.exp() * z + shift
        return self._turned(y), ladj

    def inverse_and_ladj(self, y: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        order = torch.arange(self.latent_dim, device=y.device)
        z, log_scale = solved_in_order(lambda z: self._log_scale_and_shift(z, theta), self._turned(y), order)
        return z, -log_scale.sum(-1)

    def _turned(self, y: Tensor) -> Tensor:
        return y.index_select(-1, self._reversal) if self.reverse else y

    def _log_scale_and_shift(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        m, s = map(at_least_float32, self.network(z) if context is None else self.network(*broadcast(z, context)))
        if not self.gated:
            return _held(s), m
        log_scale = _held(F.logsigmoid(s + self.sigmoid_bias))
        return log_scale, -torch.expm1(log_scale) * m


class MaskedAutoregressive(InverseAutoregressive):
    r"""Masked autoregressive flow: the inverse direction, which scores a given value in one pass and draws in D.

    .. math:: z_d = e^{s_d} y_d + m_d, \quad (m_d, s_d) = \mathrm{MADE}(y_{<d}, \mathrm{context})

    or, gated, :math:`z_d = \sigma_d y_d + (1 - \sigma_d) m_d`. With ``reverse`` it begins with the reversal.

    Args:
        latent_dim, context_dim, gated, options: see :class:`InverseAutoregressive`; not gated by default.

    Raises:
        ValueError: as :class:`InverseAutoregressive`.

    Source: Papamakarios, Pavlakou & Murray (2017), eqs. 3 to 5.
    """

    @checked
    def __init__(
        self,
        latent_dim: int,
        context_dim: int | None = None,
        *,
        gated: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(latent_dim, context_dim, gated=gated, **options)

    def call_and_ladj(self, z: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        return super().inverse_and_ladj(z, theta)

    def inverse_and_ladj(self, y: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
        return super().call_and_ladj(y, theta)


def solved_in_order(
    log_scale_and_shift: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, order: Tensor
) -> tuple[Tensor, Tensor]:
    """The z with exp(log_scale) z + shift = y, and the log scale there, of ``y: [*, *event]``.

    A number's own scale and shift depend on those before it in ``order``, their places from 0, which broadcasts to
    ``[*event]``.
    """
    z = torch.zeros_like(y)
    for place in range(order.numel()):
        log_scale, shift = log_scale_and_shift(z)
        z = torch.where(order == place, (y - shift) * (-log_scale).exp(), z)
    return z, log_scale  # of the last pass, which saw all numbers that it depends on


def _held(log_scale: Tensor) -> Tensor:
    """``log_scale`` in [-5, 3], with the gradient of ``log_scale``."""
    return log_scale.detach().clamp(-5.0, 3.0) + (log_scale - log_scale.detach())
