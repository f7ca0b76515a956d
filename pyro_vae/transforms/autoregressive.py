"""Autoregressive flows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.nn import functional as F

from pyro_vae.networks import at_least_float32, normal_init, shape_of
from pyro_vae.transforms.base import Bijection, Step, broadcast
from pyro_vae.transforms.permutation import _Permute


class InverseAutoregressive(Step):
    r"""Inverse autoregressive flow: a masked network scales and shifts each dimension, given those before it.

    .. math:: y_d = \sigma_d z_d + (1 - \sigma_d) m_d, \quad \sigma = \mathrm{sigmoid}(s + \mathrm{bias}), \quad
        (m_d, s_d) = \mathrm{MADE}(z_{<d}, \mathrm{context})

    or, not gated, :math:`y_d = e^{s_d} z_d + m_d`, with s held in [-5, 3], as is :math:`\log \sigma` in [-5, 0];
    beyond, the gradient is that of a bound that is not there. Drawing takes one pass of the network,
    scoring a given value D passes. The step ends with a reversal of the dimensions, so that the next one sees the
    opposite order.

    Args:
        latent_dim, context_dim: see :class:`Step`. With D = 1 the network sees the context alone.
        hidden: width of each hidden layer, at least D.
        gated: the numerically stable form.
        sigmoid_bias: where the gate starts: sigmoid(2) = 0.88.
        reverse: that the step ends with the reversal.
        activation: class of the non-linearity.

    Raises:
        ValueError: if a hidden layer is narrower than D, which leaves a dimension without a unit.

    Source: Kingma, Salimans, Jozefowicz et al. (2016), eqs. 10 to 14 and algorithm 1; Germain et al. (2015) for MADE;
    Pyro's ``AffineAutoregressive``.
    """

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
        self.gated = gated
        self.sigmoid_bias = sigmoid_bias
        self.reverse = reverse
        self.network: ConditionalAutoRegressiveNN
        order: Any = torch.arange(latent_dim)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input_dim = 1")
            if context_dim is None:
                self.network = AutoRegressiveNN(latent_dim, widths, permutation=order, nonlinearity=activation())
            else:
                self.network = ConditionalAutoRegressiveNN(
                    latent_dim, context_dim, widths, permutation=order, nonlinearity=activation()
                )
        normal_init(self.network.layers[-1])
        self.register_buffer("_reversal", order.flip(0), persistent=False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gated={self.gated}, reverse={self.reverse}"

    def _transform(self, context: Tensor | None) -> Transform:
        def network(z: Tensor) -> tuple[Tensor, ...]:
            m, s = self.network(z) if context is None else self.network(*broadcast(z, context))
            return at_least_float32(m), at_least_float32(s)

        affine = _Affine(self.latent_dim, network, self.sigmoid_bias if self.gated else None)
        if not self.reverse:
            return affine
        return ComposeTransform([affine, _Permute(self.latent_dim, self._reversal)])


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

    def __init__(
        self,
        latent_dim: int,
        context_dim: int | None = None,
        *,
        gated: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(latent_dim, context_dim, gated=gated, **options)

    def _transform(self, context: Tensor | None) -> Transform:
        return super()._transform(context).inv


class _Affine(Bijection):
    """The affine map of each dimension, gated where there is a bias of the gate."""

    sign = 1

    def __init__(
        self, latent_dim: int, network: Callable[[Tensor], tuple[Tensor, ...]], sigmoid_bias: float | None
    ) -> None:
        super().__init__(latent_dim, cache_size=1)
        self._network, self._sigmoid_bias = network, sigmoid_bias

    def _log_scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self._network(x)
        if self._sigmoid_bias is None:
            return _held(s), m
        log_scale = _held(F.logsigmoid(s + self._sigmoid_bias))
        return log_scale, -torch.expm1(log_scale) * m

    def _call(self, x: Tensor) -> Tensor:
        log_scale, shift = self._log_scale_and_shift(x)
        self._cached_logDetJ = log_scale.sum(-1)
        return log_scale.exp() * x + shift

    def _inverse(self, y: Tensor) -> Tensor:
        dimension = torch.arange(self.latent_dim, device=y.device)
        x = torch.zeros_like(y)
        for d in range(self.latent_dim):
            log_scale, shift = self._log_scale_and_shift(x)
            x = torch.where(dimension == d, (y - shift) * (-log_scale).exp(), x)
        self._cached_logDetJ = log_scale.sum(-1)  # of the last pass, which saw all dimensions that it depends on
        return x


def _held(log_scale: Tensor) -> Tensor:
    """``log_scale`` in [-5, 3], with the gradient of ``log_scale``."""
    return log_scale.detach().clamp(-5.0, 3.0) + (log_scale - log_scale.detach())
