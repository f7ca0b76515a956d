"""How images are degraded, p(y | x), and what follows for p(y | z) and E[x | z, y]."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution
from torch import Tensor, nn
from torch.distributions import Independent, constraints

from pyro_vae._checks import checked, number, shown, whole
from pyro_vae.distributions.wrappers import innermost
from pyro_vae.pair import support_of

_LEAST_VARIANCE = 1e-6  # of an observed value given z, in the units of x squared


class Pixels:
    """p(x | z) pixel by pixel, in the shape of the data: the pixels are independent given z.

    Args:
        fn: p(x | z), of batch shape ``[*, B]`` and any event shape of as many elements.
        shape: of one datum.

    Raises:
        ValueError: if the pixels are not independent, or not as many as the data's.
    """

    @checked
    def __init__(self, fn: Any, shape: Sequence[int]) -> None:
        if not hasattr(fn, "batch_shape"):
            raise TypeError(f"fn has to be a distribution, p(x | z); got {shown(fn)}.")
        self._leading, self._event = fn.batch_shape, fn.event_shape
        self.shape = tuple(shape)
        is_bernoulli = isinstance(innermost(fn), torch.distributions.Bernoulli)
        self.is_density = not (isinstance(support_of(fn), type(constraints.unit_interval)) and is_bernoulli)
        while isinstance(fn, (Independent, ExpandedDistribution)):
            fn = fn.base_dist
        if fn.event_shape or self._event.numel() != math.prod(self.shape):
            raise ValueError(
                f"p(x | z) is a {type(fn).__name__} of event shape {list(self._event)}; a restoration needs pixels "
                f"that are independent given z (to_event of a distribution of one pixel), {list(self.shape)} of them."
            )
        self._fn = fn

    def log_prob(self, x: Tensor) -> Tensor:
        """``[*, B, *shape]``, the log-probability of each pixel of ``x: [B, *shape]``."""
        return self._shaped(self._fn.log_prob(x.reshape(len(x), *self._event)))

    @property
    def mean(self) -> Tensor:
        """``[*, B, *shape]``."""
        return self._shaped(self._fn.mean)

    @property
    def variance(self) -> Tensor:
        """``[*, B, *shape]``; 0 where it is not known, infinite, or p(x | z) a score and no density of the data."""
        try:
            variance = self._fn.variance if self.is_density else torch.zeros_like(self._fn.mean)
        except NotImplementedError:
            variance = torch.zeros_like(self._fn.mean)
        return self._shaped(torch.where(variance.isfinite(), variance, 0.0))

    def sum(self, terms: Tensor) -> Tensor:
        """``[*, B, ...]`` -> ``[*, B]``, over the pixels."""
        return terms.flatten(len(self._leading)).sum(-1)

    def _shaped(self, value: Tensor) -> Tensor:
        return value.expand(*self._leading, *self._event).reshape(*self._leading, *self.shape)


class Observation(nn.Module):
    """How a degraded image comes of an image, p(y | x), and what follows from p(x | z)."""

    @abstractmethod
    def degrade(self, x: Tensor) -> Tensor:
        """y ~ p(y | x), ``[B, ...]`` for ``x: [B, *event]``, by torch's generator."""

    @abstractmethod
    def fill(self, y: Tensor) -> Tensor:
        """A crude image ``[B, *event]``, for the encoder to start from."""

    @abstractmethod
    def log_prob(self, pixels: Pixels, y: Tensor) -> Tensor:
        """log p(y | z) in nats, ``[*, B]``, for the p(x | z) of ``pixels``."""

    @abstractmethod
    def mean(self, pixels: Pixels, y: Tensor) -> Tensor:
        """E[x | z, y], ``[*, B, *event]``."""


class MaskedObservation(Observation):
    r"""Some pixels are not observed, for inpainting: y is x where the mask is true, and NaN elsewhere.

    .. math:: \log p(y \mid z) = \sum_{i \text{ observed}} \log p(x_i = y_i \mid z)

    exactly, for any likelihood of independent pixels. :math:`E[x_i \mid z, y]` is :math:`y_i` where it was observed,
    and :math:`E[x_i \mid z]` elsewhere.

    Args:
        mask: ``[*event]``, one for all data, or ``[B, *event]``; true where a pixel is observed. Only :meth:`degrade`
            needs it: all else sees the NaN in y.
    """

    mask: Tensor

    @checked
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.as_tensor(mask, dtype=torch.bool))

    @checked
    def degrade(self, x: Tensor) -> Tensor:
        if self.mask.shape not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"the mask has shape {list(self.mask.shape)} and the images {list(x.shape)}; a mask has the shape of "
                f"one image, {list(x.shape[1:])}, or of all of them."
            )
        return torch.where(self.mask.to(x.device), x, math.nan)

    @checked
    def fill(self, y: Tensor) -> Tensor:
        """The mean of the observed pixels in the place of the others; 0.5 if there are none."""
        mean = _floats(y).flatten(1).nanmean(1).nan_to_num(0.5)
        return torch.where(y.isnan(), mean.reshape(-1, *[1] * (y.dim() - 1)), y)

    def log_prob(self, pixels: Pixels, y: Tensor) -> Tensor:
        return pixels.sum(torch.where(y.isnan(), 0.0, pixels.log_prob(y.nan_to_num())))

    def mean(self, pixels: Pixels, y: Tensor) -> Tensor:
        return torch.where(y.isnan(), pixels.mean, y)


class GaussianObservation(Observation):
    r"""Means of square blocks of pixels, with Gaussian noise: :math:`y = A x + s \epsilon`.

    A block of one pixel is denoising; a larger one super-resolution. With the mean m and the variances V of the pixels
    under :math:`p(x \mid z)`

    .. math::
        p(y \mid z) \approx \mathcal N(A m, C), \quad C = A V A^\top + s^2 I, \qquad
        E[x \mid z, y] \approx m + V A^\top C^{-1} (y - A m)

    exactly where p(x | z) is Gaussian, and otherwise the Gaussian of the same mean and variance, and the best linear
    estimate. V counts as 0, so that a pixel is its mean, where the variance is not known or not finite (discretized
    logistics; Student's t of few degrees of freedom), and where p(x | z) is no density of the data (a Bernoulli that
    scores gray pixels). C is at least 1e-6.

    Args:
        scale: s, in units of x, at least 0.
        factor: the side of a block, in pixels; with more than 1 the data are ``[*, H, W]``.

    Raises:
        ValueError: if a number is out of its range; in :meth:`degrade`, if the factor does not divide height and width.
    """

    def __init__(self, scale: float, factor: int = 1) -> None:
        super().__init__()
        number(0, scale=scale)
        whole(factor=factor)
        self.scale, self.factor = float(scale), factor

    def extra_repr(self) -> str:
        return f"scale={self.scale}, factor={self.factor}"

    @checked
    def degrade(self, x: Tensor) -> Tensor:
        if self.factor > 1 and (x.dim() < 3 or any(size % self.factor for size in x.shape[-2:])):
            raise ValueError(
                f"data of shape {list(x.shape[1:])} cannot be cut into blocks of {self.factor} x {self.factor} "
                "pixels; give a factor that divides height and width."
            )
        averages = self._averages(_floats(x))
        return averages + self.scale * torch.randn_like(averages)

    @checked
    def fill(self, y: Tensor) -> Tensor:
        """Each value over all of its block."""
        return self._spread(y)

    def log_prob(self, pixels: Pixels, y: Tensor) -> Tensor:
        variance = self._variance(pixels.variance)
        square = (y - self._averages(pixels.mean)).square()
        return pixels.sum(-0.5 * (square / variance + variance.log() + math.log(2 * math.pi)))

    def mean(self, pixels: Pixels, y: Tensor) -> Tensor:
        mean, variance = pixels.mean, pixels.variance
        error = (y - self._averages(mean)) / self._variance(variance)
        return mean + variance / self.factor**2 * self._spread(error)

    def _variance(self, variance: Tensor) -> Tensor:
        """C, which is diagonal."""
        return (self._averages(variance) / self.factor**2 + self.scale**2).clamp(min=_LEAST_VARIANCE)

    def _averages(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return x
        return x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor)).mean((-3, -1))

    def _spread(self, y: Tensor) -> Tensor:
        if self.factor == 1:
            return y
        if y.dim() < 3:
            raise ValueError(f"blocks of pixels are [*, H, W]; got the shape {list(y.shape)}.")
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


class SaltAndPepperObservation(Observation):
    r"""Each pixel becomes 0 or 1 with probability l / 2 each, and stays with probability 1 - l.

    .. math:: p(y_i \mid z) = (1 - l) \, p(x_i = y_i \mid z) + \tfrac l 2 [y_i \in \{0, 1\}], \qquad
        E[x_i \mid z, y] = k_i y_i + (1 - k_i) E[x_i \mid z]

    with the probability :math:`k_i` that the pixel stayed, the share of the first term. That is exact where
    p(x | z) is a probability (binary pixels, gray levels). Where it is a density, the two atoms would outweigh it at
    every 0 and 1, also at those of the image itself; there the second term is read as a density, as if salt and pepper
    were spread over a unit of x each.

    Args:
        level: l.

    Raises:
        ValueError: if ``level`` is outside [0, 1].
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        number(0, 1, level=level)
        self.level = float(level)

    def extra_repr(self) -> str:
        return f"level={self.level}"

    @checked
    def degrade(self, x: Tensor) -> Tensor:
        hit, white = torch.rand_like(_floats(x)) < self.level, torch.rand_like(x) < 0.5
        return torch.where(hit, white.to(x.dtype), x)

    @checked
    def fill(self, y: Tensor) -> Tensor:
        return y

    def log_prob(self, pixels: Pixels, y: Tensor) -> Tensor:
        return pixels.sum(torch.logaddexp(*self._terms(pixels, y)))

    def mean(self, pixels: Pixels, y: Tensor) -> Tensor:
        stayed, hit = self._terms(pixels, y)
        return torch.lerp(pixels.mean, y.expand_as(stayed), (stayed - hit).sigmoid())

    def _terms(self, pixels: Pixels, y: Tensor) -> tuple[Tensor, Tensor]:
        least = -1e4  # finite, so that no difference of two is NaN
        stayed = pixels.log_prob(y).clamp(min=least) + (math.log1p(-self.level) if self.level < 1 else 2 * least)
        atom = math.log(self.level / 2) if self.level > 0 else 3 * least
        return stayed, torch.where((y == 0) | (y == 1), atom, 3 * least).to(stayed).expand_as(stayed)


def _floats(x: Tensor) -> Tensor:
    """Images ``[B, *event]`` of floats."""
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(f"images are floats, [B, *event]; got {x.dtype} of shape {list(x.shape)}. Convert: x.float().")
    return x
