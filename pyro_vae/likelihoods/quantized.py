"""Likelihoods of gray levels, k / (num_levels - 1) in [0, 1]: probabilities, not densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._checks import checked, whole
from pyro_vae.distributions import pixels
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.real import LocationScale, check_floor


class Categorical(Likelihood):
    r"""Independent pixels, each with a probability for every gray level:
    :math:`P(x_d = k / (L - 1) \mid z) = \mathrm{softmax}(\mathrm{logits}_d(z))_k`.

    Args:
        network: ``z: [*, latent_dim] -> [*, L, *event]``, the logits.
        num_levels: L, at least 2. Data are floats in [0, 1] on the levels k / (L - 1), as 8-bit images are with 256.

    Raises:
        ValueError: if ``num_levels`` is no whole number of at least 2, or the network does not give the logits.

    Source: van den Oord et al. (2016), section 2.2.
    """

    def __init__(self, network: nn.Module, num_levels: int = 256) -> None:
        super().__init__(network)
        whole(2, num_levels=num_levels)
        self.num_levels = int(num_levels)

    def extra_repr(self) -> str:
        return f"num_levels={self.num_levels}"

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (self.num_levels, *event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._event(pixels.QuantizedCategorical(self._last(z, self.num_levels)), z)


class DiscretizedLogistic(LocationScale):
    r"""Independent pixels; the mass of a gray level is that of a logistic distribution in the bin around it,

    .. math:: P(x_d \mid z) = \sigma\Big(\frac{x_d + h - \mathrm{loc}_d}{\mathrm{scale}_d}\Big)
        - \sigma\Big(\frac{x_d - h - \mathrm{loc}_d}{\mathrm{scale}_d}\Big), \qquad h = \frac{1}{2 (L - 1)}

    where the bins of the lowest and the highest level are open.

    Args:
        network, scale, sigmoid_mean: see :class:`~pyro_vae.likelihoods.LocationScale`.
        min_log_scale: as there; the default leaves a level all but certain.
        num_levels: L, see :class:`Categorical`.

    Raises:
        ValueError: as :class:`~pyro_vae.likelihoods.LocationScale`, and if ``num_levels`` is below 2.

    Source: Kingma et al. (2016), appendix (one learned scale a channel; here one for all, ``scale="shared"``).
    """

    @checked(but=("scale", "network", "num_levels"))
    def __init__(
        self,
        network: nn.Module,
        scale: float | Literal["shared"] | None = None,
        sigmoid_mean: bool = True,
        min_log_scale: float = -8.0,
        *,
        num_levels: int = 256,
    ) -> None:
        super().__init__(network, scale, sigmoid_mean, min_log_scale)
        whole(2, num_levels=num_levels)
        self.num_levels = int(num_levels)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_levels={self.num_levels}"

    def _pixels(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return pixels.DiscretizedLogistic(loc, scale, self.num_levels)


class MixtureOfDiscretizedLogistics(Likelihood):
    r"""Independent pixels, each a mixture of M discretized logistics,
    :math:`P(x_d \mid z) = \sum_m w_{dm} P(x_d; \mathrm{loc}_{dm}, \mathrm{scale}_{dm})`.

    The colors of a pixel are independent given z: the coupling of PixelCNN++, where the mean of green depends on the
    red of the same pixel, is left out.

    Args:
        network: ``z: [*, latent_dim] -> [*, 3, M, *event]``: logits of the weights, location and log scale.
        num_components: M.
        num_levels: L, see :class:`Categorical`.
        sigmoid_mean: the locations are the sigmoids of the network's output; otherwise the output itself.
        min_log_scale: see :class:`~pyro_vae.likelihoods.LocationScale`.

    Raises:
        ValueError: if a count is too small, ``min_log_scale`` is not below 15, or the network gives another shape.

    Source: Salimans et al. (2017), section 2.1.
    """

    @checked(but=("network", "num_components", "num_levels"))
    def __init__(
        self,
        network: nn.Module,
        num_components: int = 5,
        num_levels: int = 256,
        sigmoid_mean: bool = True,
        min_log_scale: float = -8.0,
    ) -> None:
        super().__init__(network)
        whole(num_components=num_components)
        whole(2, num_levels=num_levels)
        self.num_components, self.num_levels = int(num_components), int(num_levels)
        self.sigmoid_mean = sigmoid_mean
        self.min_log_scale = check_floor(min_log_scale)

    def extra_repr(self) -> str:
        return (
            f"num_components={self.num_components}, num_levels={self.num_levels}, sigmoid_mean={self.sigmoid_mean}, "
            f"min_log_scale={self.min_log_scale}"
        )

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (3, self.num_components, *event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits, loc, log_scale = self._last(z, 3, self.num_components).unbind(-2)
        loc = loc.sigmoid() if self.sigmoid_mean else loc
        scale = pixels.learned_scale(log_scale, self.min_log_scale)
        return self._event(pixels.DiscretizedLogisticMixture(logits, loc, scale, self.num_levels), z)
