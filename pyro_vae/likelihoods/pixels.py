"""Likelihoods of pixels in [0, 1]: Bernoulli and continuous Bernoulli."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import one_of
from pyro_vae.distributions import pixels
from pyro_vae.likelihoods.base import Likelihood


class _UnitIntervalBernoulli(dist.Bernoulli):
    """A Bernoulli whose score is also asked for at gray values: the cross-entropy, not a density of gray values."""

    support = constraints.unit_interval


class Bernoulli(Likelihood):
    r"""Independent pixels, :math:`\log p(x \mid z) = \sum_d x_d \log m_d + (1 - x_d) \log(1 - m_d)`.

    Args:
        network: ``z: [*, latent_dim] -> [*, *event]``, the logits of the mean m.
        support: ``"binary"``, or ``"unit_interval"`` to take gray pixels on purpose. The value is then the negative
            cross-entropy that papers report for gray MNIST; :class:`ContinuousBernoulli` is a density of the image.

    Raises:
        ValueError: if ``support`` is something else.

    Source: Kingma & Welling (2013), appendix C.1.
    """

    def __init__(self, network: nn.Module, support: Literal["binary", "unit_interval"] = "binary") -> None:
        super().__init__(network)
        one_of(("binary", "unit_interval"), support=support)
        self.support = support

    def extra_repr(self) -> str:
        return f"support={self.support!r}"

    def forward(self, z: Tensor) -> dist.Distribution:
        family = dist.Bernoulli if self.support == "binary" else _UnitIntervalBernoulli
        return self._event(family(logits=self._output(z)), z)


class ContinuousBernoulli(Likelihood):
    r"""Independent gray pixels in [0, 1], with a density: the Bernoulli's score and the constant that it lacks there,

    .. math:: \log p(x \mid z) = \sum_d x_d \log \lambda_d + (1 - x_d) \log(1 - \lambda_d) + \log C(\lambda_d)

    The mean of a pixel is not :math:`\lambda`, but nearer to 1/2.

    Args:
        network: ``z: [*, latent_dim] -> [*, *event]``, the logits of :math:`\lambda`.

    Source: Loaiza-Ganem & Cunningham (2019), section 3.
    """

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._event(pixels.ContinuousBernoulli(logits=self._output(z)), z)
