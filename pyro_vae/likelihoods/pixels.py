"""Likelihoods of pixels: Bernoulli and Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.likelihoods.base import Likelihood


class _UnitIntervalBernoulli(dist.Bernoulli):
    """A Bernoulli whose score is also asked for at grey values: the cross-entropy, not a density of grey values."""

    support = constraints.unit_interval


class Bernoulli(Likelihood):
    r"""Independent pixels, :math:`\log p(x \mid z) = \sum_d x_d \log m_d + (1 - x_d) \log(1 - m_d)`.

    Args:
        network: ``z: [*, latent_dim] -> [*, *event]``, the logits of the mean m.
        support: ``"binary"``, or ``"unit_interval"`` to take grey pixels on purpose. The value is then the negative
            cross-entropy that papers report for grey MNIST, and no log-probability of the image.

    Raises:
        ValueError: if ``support`` is something else.

    Source: Kingma & Welling (2013), appendix C.1.
    """

    def __init__(self, network: nn.Module, support: Literal["binary", "unit_interval"] = "binary") -> None:
        super().__init__(network)
        if support not in ("binary", "unit_interval"):
            raise ValueError(f"support of a Bernoulli likelihood is 'binary' or 'unit_interval'; got {support!r}.")
        self.support = support

    def extra_repr(self) -> str:
        return f"support={self.support!r}"

    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self._output(z)
        family = dist.Bernoulli if self.support == "binary" else _UnitIntervalBernoulli
        return family(logits=logits).to_event(logits.dim() - (z.dim() - 1))


class Gaussian(Likelihood):
    r"""Independent pixels, :math:`p(x \mid z) = \mathcal N(\mathrm{loc}(z), \mathrm{scale}^2)`.

    Args:
        network: ``z: [*, latent_dim]`` to ``[*, *event]``, the mean; or, where ``scale`` is ``None``, to
            ``[*, 2, *event]``, mean and log variance of each pixel stacked (scale = exp(log variance / 2)).
        scale: the same known scale for all pixels, or ``None`` for a scale a pixel from the network.
        sigmoid_mean: the mean is the sigmoid of the network's output, for data in [0, 1]; otherwise the output itself.

    Raises:
        ValueError: if ``scale`` is not positive, or the network does not give what ``scale`` asks for.

    Source: Kingma & Welling (2013), appendix C.2 (Frey faces: sigmoid mean, a scale a pixel).
    """

    def __init__(self, network: nn.Module, scale: float | None = 1.0, sigmoid_mean: bool = True) -> None:
        super().__init__(network)
        if scale is not None and not scale > 0:
            raise ValueError(
                f"the scale of a Gaussian likelihood has to be positive, or None to learn it; got {scale}."
            )
        self.scale = scale
        self.sigmoid_mean = sigmoid_mean

    def extra_repr(self) -> str:
        return f"scale={self.scale}, sigmoid_mean={self.sigmoid_mean}"

    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *event_shape) if self.scale is None else tuple(event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        if self.scale is None:
            loc, log_variance = self._stacked(z, 2, "a Gaussian with scale=None")
            scale = (log_variance / 2).exp()
        else:
            loc = self._output(z)
            scale = torch.full_like(loc, self.scale)
        if self.sigmoid_mean:
            loc = loc.sigmoid()
        return dist.Normal(loc, scale).to_event(loc.dim() - (z.dim() - 1))
