"""Likelihoods of real values with a location and a scale: normal, Laplace and Student's t."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, is_number, number, shown
from pyro_vae.distributions import families, pixels
from pyro_vae.likelihoods.base import Likelihood


class LocationScale(Likelihood):
    r"""Base of the likelihoods :math:`x_d = \mathrm{loc}_d(z) + \mathrm{scale} \cdot \epsilon_d`.

    Args:
        network: ``z: [*, latent_dim]`` to ``[*, *event]``, the location; or, where ``scale`` is ``None``, to
            ``[*, 2, *event]``, location and log scale of each pixel stacked.
        scale: a known scale, the same for all pixels; ``"shared"`` for one that is learned (the parameter
            ``log_scale``, which starts at 0); or ``None``, the default but of :class:`Normal`, for a scale a pixel
            from the network.
        sigmoid_mean: the location is the sigmoid of the network's output, for data in [0, 1]; otherwise the output.
        min_log_scale: a learned scale stays above exp(min_log_scale), so that constant pixels do not let it collapse.
            The floor is soft and moves no log scale that is more than 1 above it
            (:func:`pyro_vae.distributions.pixels.soft_floor`). Lower it for data on a smaller scale than [0, 1].

    A learned log scale a above 15 (a scale of 3.3 million) is read as 15 + log(a - 14): the scale goes on linearly.

    Raises:
        ValueError: if ``scale`` is not positive and finite, ``min_log_scale`` not below 15, or the network gives
            another shape.
    """

    _scales: tuple[str, ...] = ("shared",)

    @checked(but=("network", "scale"))
    def __init__(
        self,
        network: nn.Module,
        scale: float | Literal["shared"] | None = None,
        sigmoid_mean: bool = True,
        min_log_scale: float = -6.0,
    ) -> None:
        super().__init__(network)
        given = not (scale is None or (isinstance(scale, str) and scale in self._scales))
        if given and not (is_number(scale) and 0 < float(scale) < math.inf):  # type: ignore[arg-type]
            words = " or ".join(map(repr, self._scales))
            raise ValueError(
                f"the scale of a {type(self).__name__} likelihood has to be positive and finite, or None to learn it "
                f"for each pixel, or {words} for one scale that is learned; got {shown(scale)}."
            )
        self.scale = scale
        self.sigmoid_mean = sigmoid_mean
        self.min_log_scale = check_floor(min_log_scale)
        if scale == "shared":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}, sigmoid_mean={self.sigmoid_mean}, min_log_scale={self.min_log_scale}"

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *event_shape) if self.scale is None else tuple(event_shape)

    @abstractmethod
    def _pixels(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of each pixel by itself, with batch shape ``[*, *event]``."""

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._event(self._pixels(*self._loc_and_scale(z)), z)

    def doubt(self, x: Tensor) -> str | None:
        if not self.sigmoid_mean or x.is_complex() or not (seen := x[~x.isnan()]).numel():
            return None
        low, high, name = seen.min().item(), seen.max().item(), type(self).__name__
        if low >= 0 and high <= 1:
            return None
        return (
            f"the location of the {name} likelihood is a sigmoid, in [0, 1], and the first batch of x goes from "
            f"{low:.4g} to {high:.4g}, which it cannot reach. Give {name}(..., sigmoid_mean=False)."
        )

    def _loc_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of each pixel, ``[*, *event]``."""
        if self.scale is None:
            loc, output = self._stacked(z, 2, f"a {type(self).__name__} with scale=None")
            return self._loc(loc), self._scale(self._log_scale(output))
        loc = self._loc(self._output(z))
        if self.scale == "shared":
            return loc, self._scale(self.log_scale).expand_as(loc)
        return loc, torch.full_like(loc, float(self.scale))

    def _loc(self, output: Tensor) -> Tensor:
        return output.sigmoid() if self.sigmoid_mean else output

    def _log_scale(self, output: Tensor) -> Tensor:
        """The log scale of what the network gives beside the location."""
        return output

    def _scale(self, log_scale: Tensor) -> Tensor:
        return pixels.learned_scale(log_scale, self.min_log_scale)


class Normal(LocationScale):
    r"""Independent pixels, :math:`p(x \mid z) = \mathcal N(\mathrm{loc}(z), \mathrm{scale}^2)`.

    With ``scale="optimal"`` the scale is that of the greatest likelihood: in training mode its square is the mean
    square error of the batch, over all pixels, data and particles
    (:class:`~pyro_vae.distributions.pixels.OptimalNormal`), and the gradient of the summed log-likelihood is that of
    :math:`-\frac{N D}{2} \log \mathrm{MSE}`. Such a scale depends on the data that it scores. In evaluation mode it is
    therefore fixed, and p(x | z) a density: its square is the buffer ``mean_square``, a running mean of the batches'
    errors in training, from 1 on. The first ten batches count equally; then each new one counts 1/10.

    Args:
        network: ``z: [*, latent_dim]`` to ``[*, *event]``, the mean; or, where ``scale`` is ``None``, to
            ``[*, 2, *event]``, mean and log variance of each pixel stacked (scale = exp(log variance / 2)).
        scale: the same known scale for all pixels, by default 1.0, where the other likelihoods of this kind learn a
            scale a pixel; ``"shared"`` for one that is learned (the parameter ``log_scale``, which starts at 0);
            ``"optimal"``; or ``None`` for a scale a pixel from the network.
        sigmoid_mean: the mean is the sigmoid of the network's output, for data in [0, 1]; otherwise the output itself.
        min_log_scale: see :class:`LocationScale`; in effect for every scale that is not known.

    Raises:
        ValueError: as :class:`LocationScale`.

    Source: Kingma & Welling (2013), appendix C.2 (Frey faces: sigmoid mean, a scale a pixel); Rybkin et al. (2021)
    (shared and optimal scale), whose softer clip at -6 adds 0.0025 to every scale.
    """

    _scales = ("shared", "optimal")
    _momentum = 0.1

    @checked(but=("scale", "network"))
    def __init__(
        self,
        network: nn.Module,
        scale: float | Literal["shared", "optimal"] | None = 1.0,
        sigmoid_mean: bool = True,
        min_log_scale: float = -6.0,
    ) -> None:
        super().__init__(network, scale, sigmoid_mean, min_log_scale)  # type: ignore[arg-type]
        if scale == "optimal":
            self.register_buffer("mean_square", torch.ones(()))
            self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    mean_square: Tensor
    num_batches: Tensor

    def _log_scale(self, output: Tensor) -> Tensor:
        return output / 2

    def _pixels(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)

    def forward(self, z: Tensor) -> dist.Distribution:
        if self.scale != "optimal":
            return super().forward(z)
        loc = self._loc(self._output(z))
        scale = pixels.soft_floor(pixels.log_root(self.mean_square), self.min_log_scale).exp()
        if not self.training:
            return self._event(self._pixels(loc, scale), z)
        return pixels.OptimalNormal(loc, scale, loc.dim() - self._leading(z), self.min_log_scale, self._remember)

    def _remember(self, mean_square: Tensor) -> None:
        # In place, as batch norm does it: the traced training step writes the buffer so.
        with torch.no_grad():
            self.num_batches.add_(1)
            weight = (1 / self.num_batches).clamp(min=self._momentum)
            self.mean_square.lerp_(mean_square.to(self.mean_square), weight.to(self.mean_square))


#: The name that the papers give it.
Gaussian = Normal


class Laplace(LocationScale):
    r"""Independent pixels, :math:`\log p(x \mid z) = -\sum_d \big( |x_d - \mathrm{loc}_d| / \mathrm{scale}_d
    + \log(2 \, \mathrm{scale}_d) \big)`: the absolute error, which outliers pull less than the square.

    Args:
        network, scale, sigmoid_mean, min_log_scale: see :class:`LocationScale`.

    Raises:
        ValueError: as :class:`LocationScale`.
    """

    def _pixels(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)


class StudentT(LocationScale):
    r"""Independent pixels, Student's t with ``df`` degrees of freedom: Gaussian near loc, with heavy tails.

    .. math:: p(x_d \mid z) \propto \Big(1 + \frac{(x_d - \mathrm{loc}_d)^2}{\mathrm{df} \, \mathrm{scale}_d^2}
        \Big)^{-(\mathrm{df} + 1) / 2}

    Args:
        network, scale, sigmoid_mean, min_log_scale: see :class:`LocationScale`. The standard deviation is
            scale * sqrt(df / (df - 2)), for df above 2.
        df: degrees of freedom, above 1, so that there is a mean.

    Raises:
        ValueError: as :class:`LocationScale`, and if ``df`` is not above 1 and finite.

    Source: Lange, Little & Taylor (1989); Takahashi et al. (2018), with a VAE.
    """

    @checked(but=("scale", "network"))
    def __init__(
        self,
        network: nn.Module,
        scale: float | Literal["shared"] | None = None,
        sigmoid_mean: bool = True,
        min_log_scale: float = -6.0,
        *,
        df: float = 4.0,
    ) -> None:
        super().__init__(network, scale, sigmoid_mean, min_log_scale)
        number(above=1, df=df)
        self.df = float(df)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, df={self.df}"

    def _pixels(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return families.StudentT(self.df, loc, scale)


def check_floor(min_log_scale: float) -> float:
    """``min_log_scale``, if it can be one; minus infinity is none."""
    if min_log_scale != -math.inf:
        number(below=pixels.LARGEST_LOG_SCALE, min_log_scale=min_log_scale)
    return min_log_scale
