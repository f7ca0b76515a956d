r"""Denoising, inpainting and super-resolution by inference in a fitted pair.

A degraded image y comes of an image x by a known :class:`Observation` p(y | x). With the pair's p(z) and p(x | z)

.. math:: p(z \mid y) \propto p(z) \, p(y \mid z), \qquad p(y \mid z) = \int p(x \mid z) \, p(y \mid x) \, dx

and the restoration is :math:`E[x \mid z, y]` at the z of the greatest density, or its mean over draws of
:math:`p(z \mid y)`, that is :math:`E[x \mid y]`, which has the least expected squared error under the model.
:class:`Observed` is the pair of p(z), p(y | z) and q(z | crude restoration of y), for all that takes pairs.
"""

from __future__ import annotations

import math
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, constraints
from torch.nn.functional import interpolate
from tqdm import tqdm

from pyro_vae._checks import batch_of, one_of, whole
from pyro_vae.applications import report
from pyro_vae.compiled import Compile
from pyro_vae.data import Data, Split
from pyro_vae.diagnostics import encode
from pyro_vae.distributions.wrappers import innermost
from pyro_vae.pair import as_pair, programs, support_of, vectorized
from pyro_vae.plotting import restorations
from pyro_vae.sampling.chains import Chunk, over_chunks, r_hat
from pyro_vae.sampling.hamiltonian import Density, run_chains
from pyro_vae.sampling.joint import Joint

Task = Literal["denoising", "inpainting", "super-resolution", "all"]
Method = Literal["map", "sample"]

_LEAST_VARIANCE = 1e-6  # of an observed value given z, in the units of x squared


class Pixels:
    """p(x | z) pixel by pixel, in the shape of the data: the pixels are independent given z.

    Args:
        fn: p(x | z), of batch shape ``[*, B]`` and any event shape of as many elements.
        shape: of one datum.

    Raises:
        ValueError: if the pixels are not independent, or not as many as the data's.
    """

    def __init__(self, fn: Any, shape: Sequence[int]) -> None:
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


class Missing(Observation):
    r"""Pixels that are not observed, for inpainting: y is x where the mask is true, and NaN elsewhere.

    .. math:: \log p(y \mid z) = \sum_{i \text{ observed}} \log p(x_i = y_i \mid z)

    exactly, for any likelihood of independent pixels. :math:`E[x_i \mid z, y]` is :math:`y_i` where it was observed,
    and :math:`E[x_i \mid z]` elsewhere.

    Args:
        mask: ``[*event]``, one for all data, or ``[B, *event]``; true where a pixel is observed. Only :meth:`degrade`
            needs it: all else sees the NaN in y.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.as_tensor(mask, dtype=torch.bool))

    mask: Tensor

    def degrade(self, x: Tensor) -> Tensor:
        if self.mask.shape not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"the mask has shape {list(self.mask.shape)} and the images {list(x.shape)}; a mask has the shape of "
                f"one image, {list(x.shape[1:])}, or of all of them."
            )
        return torch.where(self.mask.to(x.device), x, math.nan)

    def fill(self, y: Tensor) -> Tensor:
        """The mean of the observed pixels in the place of the others; 0.5 if there are none."""
        mean = y.flatten(1).nanmean(1).nan_to_num(0.5)
        return torch.where(y.isnan(), mean.reshape(-1, *[1] * (y.dim() - 1)), y)

    def log_prob(self, pixels: Pixels, y: Tensor) -> Tensor:
        return pixels.sum(torch.where(y.isnan(), 0.0, pixels.log_prob(y.nan_to_num())))

    def mean(self, pixels: Pixels, y: Tensor) -> Tensor:
        return torch.where(y.isnan(), pixels.mean, y)


class GaussianNoise(Observation):
    r"""Means of square blocks of pixels, with Gaussian noise: :math:`y = A x + s \epsilon`.

    A block of one pixel is denoising; a larger one super-resolution. With the mean m and the variances V of the pixels
    under :math:`p(x \mid z)`

    .. math::
        p(y \mid z) \approx \mathcal N(A m, C), \quad C = A V A^\top + s^2 I, \qquad
        E[x \mid z, y] \approx m + V A^\top C^{-1} (y - A m)

    exactly where p(x | z) is Gaussian, and otherwise the Gaussian of the same mean and variance, and the best linear
    estimate. V is 0, the pixels are taken to be their means, where the variance is not known or not finite (discretized
    logistics; Student's t of few degrees of freedom), and where p(x | z) is no density of the data (a Bernoulli that
    scores gray pixels). C is at least 1e-6.

    Args:
        scale: s, in units of x.
        factor: the side of a block, in pixels; with more than 1 the data are ``[*, H, W]``.

    Raises:
        ValueError: if ``scale`` is negative, or ``factor`` no whole number of at least 1; in :meth:`degrade`, if the
            factor does not divide height and width.
    """

    def __init__(self, scale: float, factor: int = 1) -> None:
        super().__init__()
        if not 0 <= scale < math.inf:
            raise ValueError(f"the scale of the noise is a number of at least 0, in units of the pixels; got {scale}.")
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
            raise ValueError(f"the factor is the side of a block of pixels, a whole number from 1 on; got {factor!r}.")
        self.scale, self.factor = float(scale), factor

    def extra_repr(self) -> str:
        return f"scale={self.scale}, factor={self.factor}"

    def degrade(self, x: Tensor) -> Tensor:
        if self.factor > 1 and (x.dim() < 3 or any(size % self.factor for size in x.shape[-2:])):
            raise ValueError(
                f"data of shape {list(x.shape[1:])} cannot be cut into blocks of {self.factor} x {self.factor} "
                "pixels; give a factor that divides height and width."
            )
        averages = self._averages(x)
        return averages + self.scale * torch.randn_like(averages)

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
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


class SaltAndPepper(Observation):
    r"""Each pixel becomes 0 or 1 with probability l / 2 each, and stays with probability 1 - l.

    .. math:: p(y_i \mid z) = (1 - l) \, p(x_i = y_i \mid z) + \tfrac l 2 [y_i \in \{0, 1\}], \qquad
        E[x_i \mid z, y] = k_i y_i + (1 - k_i) E[x_i \mid z]

    with the probability :math:`k_i` that the pixel stayed, the share of the first term. That is exact where
    p(x | z) is a probability (binary pixels, gray levels). Where it is a density, the two atoms would beat it at
    every 0 and 1, also at those of the image; there the second term is read as a density, as if salt and pepper were
    spread over a unit of x each.

    Args:
        level: l, between 0 and 1.

    Raises:
        ValueError: if ``level`` is outside [0, 1].
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = check_share("level", level)

    def extra_repr(self) -> str:
        return f"level={self.level}"

    def degrade(self, x: Tensor) -> Tensor:
        hit, white = torch.rand_like(x) < self.level, torch.rand_like(x) < 0.5
        return torch.where(hit, white.to(x.dtype), x)

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


class Observed(nn.Module):
    """The pair of a degraded image: z ~ p(z), y ~ p(y | z), with the guide q(z | crude image of y).

    Whatever takes a pair of continuous latents takes it, with y in the place of x: ``evidence.ais(observed, y)`` is
    log p(y), ``evidence.posterior_draws(observed, y, start="prior")`` draws of p(z | y). The model returns
    E[x | z, y], ``[*, B, *event]``.

    Args:
        pair: the pair of x.
        observation: p(y | x).
    """

    def __init__(self, pair: Any, observation: Observation) -> None:
        super().__init__()
        self.pair, self.observation = as_pair(pair), observation

    def model(self, y: Tensor, *others: Any) -> Tensor:
        """z ~ p(z), y ~ p(y | z); ``others`` are what the pair takes besides x.

        Raises:
            ValueError: if the pair observes several sites, or none.
        """
        model, _ = programs(self.pair)
        x = self.observation.fill(y)
        with _Degraded(self.observation, y, x.shape[1:]) as degraded:
            model(x, *others)
        if len(degraded.restored) != 1:
            raise ValueError(
                f"the model observes {len(degraded.restored)} sites; a restoration needs a pair that observes one."
            )
        return degraded.restored[0]

    def guide(self, y: Tensor, *others: Any) -> Any:
        """z ~ q(z | crude image of y)."""
        _, guide = programs(self.pair)
        return guide(self.observation.fill(y), *others)

    def reachable(self) -> list[nn.Module]:
        """Modules that the pair's programs have yet to announce."""
        return getattr(self.pair, "reachable", list)()


class _Degraded(Messenger):
    """Puts log p(y | z) in the place of log p(x | z), and keeps E[x | z, y]."""

    def __init__(self, observation: Observation, y: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.observation, self.y, self.shape = observation, y, shape
        self.restored: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or (msg["infer"] or {}).get("_deterministic"):
            return
        pixels = Pixels(msg["fn"], self.shape)
        self.restored.append(self.observation.mean(pixels, self.y))
        msg["fn"] = dist.Unit(self.observation.log_prob(pixels, self.y), has_rsample=False, validate_args=False)
        msg["value"] = msg["fn"].sample()


@dataclass(frozen=True)
class Restored:
    """Restorations of degraded images by a pair.

    Attributes:
        maximum: ``[N, *event]``, E[x | z, y] at the greatest p(z | y) that was found.
        log_prob: ``[N]``, log p(y, z) there, in nats; the density is that of the unconstrained z.
        mean: ``[N, *event]``, E[x | y], the mean of E[x | z, y] over draws of p(z | y), if they were asked for.
        acceptance: ``[N]``, the mean probability of acceptance of those.
        r_hat: ``[N]``, split R-hat of their chains, the largest of all coordinates; 1 where they agree.
    """

    maximum: Tensor
    log_prob: Tensor
    mean: Tensor | None = None
    acceptance: Tensor | None = None
    r_hat: Tensor | None = None


def infer(
    pair: Any,
    observation: Observation,
    y: Tensor | Sequence[Tensor],
    *,
    num_samples: int = 0,
    num_chains: int = 4,
    num_steps: int = 200,
    learning_rate: float = 0.1,
    num_warmup: int = 60,
    num_leapfrog: int = 8,
    chunk: int = 4096,
    seed: int = 0,
    compile: Compile = "traced",
    progress: bool = False,
) -> Restored:
    r"""Restores degraded images by a fitted pair: at the most probable z, and by the mean over draws of p(z | y).

    :math:`\log p(y, z)` is ascended by Adam from the encoder's code of a crude image and from draws of the prior, in
    the unconstrained space of the latents; the best of these is ``maximum``. The chains of Hamiltonian Monte Carlo
    start at the ends of those ascents, each at one drawn in proportion to p(y, z) there: one that ended in a poor local
    maximum is left.

    Args:
        pair: the pair; its latents are continuous.
        observation: p(y | x).
        y: the degraded images ``[N, ...]``, or a tuple of them and of what the pair takes besides x.
        num_samples: draws of each chain; 0 for the most probable z alone.
        num_chains: chains, and ascents, for each datum.
        num_steps: steps of Adam, whose rate falls to 0 by a cosine.
        learning_rate: the first rate, in units of the latents.
        num_warmup: steps of each chain before the draws.
        num_leapfrog: leapfrog steps of each.
        chunk: chains (over data) that are held in memory at once.
        seed: of all draws; the caller's random state is left as it was.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        progress: show a progress bar.

    Raises:
        ValueError: if there are no data, a count is too small, the pixels are not independent given z, a latent is
            discrete or shared by the data, or log p(y, z) is not finite.
    """
    batch = batch_of(y)
    whole(1, num_chains=num_chains, num_steps=num_steps, num_warmup=num_warmup, num_leapfrog=num_leapfrog)
    whole(0, num_samples=num_samples)
    observed = Observed(pair, observation)

    def restored(part: Chunk) -> dict[str, Tensor]:
        starts = _starts(observed, part.joint, num_chains, *part.batch)
        u, log_prob = _ascended(part.posterior, starts, num_steps, learning_rate)
        best = _picked(u, log_prob.argmax(0)[None])
        found = {"maximum": _restored(observed, part.joint, best, *part.batch)[0], "log_prob": log_prob.amax(0)}
        if num_samples:
            chosen = torch.multinomial(log_prob.T.softmax(-1), num_chains, replacement=True).T
            chains, sampler = part.warmed_up(_picked(u, chosen), num_warmup, num_leapfrog)
            draws = run_chains(sampler, chains, num_samples)
            means = [_restored(observed, part.joint, draw, *part.batch).mean(0) for draw in draws.u]
            found |= {"mean": torch.stack(means).mean(0), "acceptance": draws.acceptance.mean(0), "r_hat": r_hat(draws)}
        return found

    steps = num_steps + (num_warmup + num_samples) * num_leapfrog * (num_samples > 0)
    options = (chunk, seed, 1, compile, progress)
    parts, _ = over_chunks(restored, observed, batch, num_chains, steps, *options, title="restoring")
    return Restored(**{name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]})


def _starts(observed: Observed, joint: Joint, num_starts: int, *batch: Tensor) -> Tensor:
    """``u: [C, N, D]``: the encoder's code of the crude image, if it is one of the model's, and draws of the prior."""
    starts = joint.draw("prior", num_starts, *batch)
    codes = encode(observed, *batch)
    if set(codes) == set(joint.shapes):
        code = joint.unconstrained({name: value[None] for name, value in codes.items()}, *batch)
        starts = torch.cat([torch.where(code.isfinite(), code, starts[:1]), starts[1:]])
    return starts


def _ascended(density: Density, u: Tensor, num_steps: int, learning_rate: float) -> tuple[Tensor, Tensor]:
    """``(u [C, N, D], log density [C, N])`` after ``num_steps`` steps of Adam from ``u``."""
    u = u.clone()
    optimizer = torch.optim.Adam([u], lr=learning_rate, maximize=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        u.grad = density(u)[1]
        optimizer.step()
        scheduler.step()
    log_prob = density(u)[0].nan_to_num(-math.inf, posinf=-math.inf)
    if (log_prob.amax(0) == -math.inf).any():
        bad = int((log_prob.amax(0) == -math.inf).sum())
        raise ValueError(
            f"log p(y, z) is not finite for {bad} of {u.shape[1]} data, from any start. Look for NaN in the data and "
            "the parameters, or take a lower learning_rate."
        )
    return u.detach(), log_prob


def _picked(u: Tensor, index: Tensor) -> Tensor:
    """``[C, N, D]``: of ``u: [S, N, D]`` those that ``index: [C, N]`` names for each datum."""
    return u.gather(0, index[..., None].expand(*index.shape, u.shape[-1]))


def _restored(observed: Observed, joint: Joint, u: Tensor, *batch: Tensor) -> Tensor:
    """E[x | z, y] at ``u: [C, N, D]``: ``[C, N, *event]``."""
    model, _ = vectorized(observed, len(u))
    return poutine.condition(model, data=joint.latents(u, *batch))(*batch)


def psnr(images: Tensor, originals: Tensor) -> float:
    r"""Peak signal-to-noise ratio in decibels, of images in [0, 1]:
    :math:`-10 \log_{10} \frac{1}{N D} \sum_{nd} (\hat x_{nd} - x_{nd})^2`.

    The mean square error is over all images, so that a single perfect one does not make the ratio infinite.
    """
    error = (images - originals).double().square().mean().item()
    return -10 * math.log10(error) if error > 0 else math.inf


def check_share(name: str, share: float) -> float:
    """``share`` if it lies in [0, 1].

    Raises:
        ValueError: if it does not.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is between 0 and 1; got {share}.")
    return float(share)


def filtered(y: Tensor, scale: float | None = None) -> dict[str, Tensor]:
    """Noisy images ``[N, C, H, W]`` smoothed: median of 3 x 3 pixels, Gaussian of scale 1 pixel, and Wiener's filter.

    Args:
        y: the images.
        scale: of Gaussian noise; with it Wiener's filter (of 3 x 3 pixels) is one of the three.
    """
    from scipy import ndimage, signal

    images = y.double().numpy()
    found = {
        "median filter": ndimage.median_filter(images, (1, 1, 3, 3)),
        "Gaussian filter": ndimage.gaussian_filter(images, (0, 0, 1, 1)),
    }
    if scale:
        flat = images.reshape(-1, *images.shape[2:])
        wiener = np.stack([signal.wiener(image, (3, 3), scale**2) for image in flat])
        found["Wiener filter"] = wiener.reshape(images.shape)
    return {name: torch.as_tensor(image).to(y) for name, image in found.items()}


def interpolated(y: Tensor) -> dict[str, Tensor]:
    """Images ``[N, C, H, W]`` with NaN where a pixel is missing, filled: nearest, linear, and biharmonic.

    Linear interpolation is between the corners of Delaunay triangles, and beyond them the nearest pixel. The biharmonic
    interpolant is the thin-plate spline, through its 64 nearest neighbors where there are over 1,000 pixels. Where
    neither exists (too few pixels, or all on one line), the nearest pixel; 0.5 where there is none.
    """
    images = y.flatten(0, 1).double().numpy()
    missing = np.isnan(images)
    same = bool((missing == missing[:1]).all())
    methods = ("nearest pixel", "linear interpolation", "thin-plate spline")
    found = {name: images.copy() for name in methods}
    for part in [slice(None)] if same else [slice(i, i + 1) for i in range(len(images))]:
        hidden = missing[part][0]
        if not hidden.any():
            continue
        if hidden.all():
            for filled in found.values():
                filled[part] = 0.5
            continue
        values = _at_pixels(np.argwhere(~hidden), images[part][:, ~hidden].T, np.argwhere(hidden))
        for name, value in zip(methods, values, strict=True):
            found[name][part, hidden] = value.T
    return {name: torch.as_tensor(filled).to(y).reshape(y.shape) for name, filled in found.items()}


def _at_pixels(known: Any, values: Any, wanted: Any) -> Iterator[Any]:
    """``[Q, K]`` of K images at the pixels ``wanted: [Q, 2]``, from ``values: [P, K]`` at ``known: [P, 2]``."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator, RBFInterpolator
    from scipy.spatial import QhullError

    nearest = NearestNDInterpolator(known, values)(wanted)
    yield nearest
    try:
        linear = LinearNDInterpolator(known, values)(wanted)
        yield np.where(np.isnan(linear), nearest, linear)
    except (QhullError, ValueError):
        yield nearest
    try:
        yield RBFInterpolator(known, values, neighbors=64 if len(known) > 1000 else None)(wanted)
    except (np.linalg.LinAlgError, ValueError):
        yield nearest


def upscaled(y: Tensor, factor: int) -> dict[str, Tensor]:
    """Images ``[N, C, h, w]`` enlarged by ``factor``: bilinear and bicubic."""
    return {
        mode: interpolate(y, scale_factor=factor, mode=mode, align_corners=False) for mode in ("bilinear", "bicubic")
    }


@dataclass(frozen=True)
class Score:
    """How near one kind of restoration comes to the originals.

    Attributes:
        task: what was done to the images.
        method: how they were restored.
        mse: mean square error of a pixel, of images in [0, 1].
        mse_standard_error: over the images.
        psnr: in decibels, see :func:`psnr`.
    """

    task: str
    method: str
    mse: float
    mse_standard_error: float
    psnr: float


@dataclass(frozen=True)
class Restorations:
    """What :func:`restore` found.

    Attributes:
        scores: of each task and method.
        num_images: over how many images.
        r_hat: by task, the median over the images of the chains' split R-hat, where there were chains.
        seconds: by task, of our inference.
    """

    scores: tuple[Score, ...]
    num_images: int
    r_hat: dict[str, float]
    seconds: dict[str, float]


def restore(
    pair: Any,
    data: Data,
    *,
    task: Task = "all",
    method: Method = "sample",
    level: float = 0.3,
    mask: str | None = None,
    missing: float = 0.5,
    factor: int = 4,
    num_images: int = 100,
    num_steps: int = 200,
    num_samples: int = 40,
    num_chains: int = 4,
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Restorations:
    """Restores degraded test images by inference in a fitted pair, beside filters and interpolations.

    The originals are the images that the pair is a model of: binarized ones where its data are. All restorations are
    clipped to [0, 1]. Table, JSON and figure give the mean square error and the PSNR; the figure has the best of the
    others beside ours. "As it is" has the mean of the observed pixels where one is missing.

    Args:
        pair: the fitted pair.
        data: images in [0, 1]; the test set, or the validation or training set where there is none.
        task: denoising (Gaussian noise; salt and pepper), inpainting (the lower half missing; random pixels missing),
            super-resolution, or all.
        method: map, E[x | z, y] at the most probable z; sample, also the mean over draws of p(z | y).
        level: of the noise: the scale of the Gaussian, and the share of pixels that become salt or pepper.
        mask: what is missing for inpainting: lower, right, random, or a .npy file of the shape of an image ([H, W] or
            [C, H, W]), true where a pixel is observed. Without it first lower, then random.
        missing: the share of the image that is missing, for lower, right and random.
        factor: of super-resolution: the side of the blocks whose means are observed.
        num_images: how many images.
        num_steps: steps of Adam.
        num_samples: draws of each chain.
        num_chains: chains, and starts of Adam, for each image.
        out: folder for restore.json and restore.png.
        seed: of the degradation and the draws.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, the data are no images in [0, 1], the mask is of another shape,
            or the pair cannot be inferred in (see :func:`infer`).
        OSError: if the mask cannot be read, or the results not be written.
    """
    one_of(get_args(Task), task=task)
    one_of(get_args(Method), method=method)
    check_share("level", level)
    check_share("missing", missing)
    batch = _held(data, num_images)
    x = batch[0]
    scores: list[Score] = []
    seconds: dict[str, float] = {}
    r_hat: dict[str, float] = {}
    drawn: list[dict[str, Tensor]] = [{"original": x}]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cases = list(_cases(x, task, level, mask, missing, factor))
        degraded = [observation.degrade(x) for _, observation in cases]
    for (name, observation), y in zip(cases, degraded, strict=True):
        started = time.perf_counter()
        if progress:
            tqdm.write(name, file=sys.stderr)
        restored = infer(
            pair,
            observation,
            (y, *batch[1:]),
            num_samples=num_samples if method == "sample" else 0,
            num_chains=num_chains,
            num_steps=num_steps,
            seed=seed,
            progress=progress,
        )
        seconds[name] = time.perf_counter() - started
        ours = {"most probable z": restored.maximum}
        if restored.mean is not None and restored.r_hat is not None:
            ours["posterior mean"] = restored.mean
            r_hat[name] = restored.r_hat.median().item()
        others = {"as it is": observation.fill(y), **_baselines(observation, y)}
        found = {method: _score(name, method, images, x) for method, images in {**others, **ours}.items()}
        scores += found.values()
        best = max(list(others)[1:], key=lambda method: found[method].psnr)
        shown = y.nan_to_num(0.5) if isinstance(observation, Missing) else observation.fill(y)
        drawn.append(
            {
                f"{name}\n{found['as it is'].psnr:.1f} dB": shown,
                f"{best}\n{found[best].psnr:.1f} dB": others[best],
                **{f"{method}\n{found[method].psnr:.1f} dB": images for method, images in ours.items()},
            }
        )
    result = Restorations(tuple(scores), len(x), r_hat, seconds)
    lines = [(s.task, s.method, f"{s.mse:.4f} ({s.mse_standard_error:.4f})", f"{s.psnr:.2f}") for s in result.scores]
    print(report.table(("task", "restoration", "MSE (standard error)", "PSNR, dB"), lines))
    if out is not None:
        groups = [{label: images[:_COLUMNS].clamp(0, 1) for label, images in group.items()} for group in drawn]
        report.write(Path(out), "restore", asdict(result), {"restore": restorations(groups)})
    return result


_COLUMNS = 10  # images of a row of the figure


def _score(task: str, method: str, images: Tensor, originals: Tensor) -> Score:
    images = images.clamp(0, 1)
    errors = (images - originals).double().square().flatten(1).mean(1)
    deviation = errors.std().item() / math.sqrt(len(errors)) if len(errors) > 1 else math.nan
    return Score(task, method, errors.mean().item(), deviation, psnr(images, originals))


def _held(data: Data, num_images: int) -> tuple[Tensor, ...]:
    """The first images of the test set, and what goes with them."""
    if not isinstance(num_images, int) or num_images < 1:
        raise ValueError(f"num_images is a whole number of at least 1; got {num_images!r}.")
    split = data.test or data.valid or data.train
    held = (split if isinstance(split, Split) else split.take(num_images)).take(num_images)
    batch = held.batch(torch.arange(len(held)))
    x = batch[0]
    if x.dim() != 4:
        raise ValueError(
            f"{data.name} has data of shape {list(x.shape[1:])}; restore takes images [C, H, W]. For other data use "
            "infer(pair, observation, y) of pyro_vae.applications.restoration."
        )
    if x.min() < 0 or x.max() > 1:
        raise ValueError(
            f"{data.name} has values from {x.min():.3g} to {x.max():.3g}; restore takes images in [0, 1], to which its "
            "noise and its PSNR refer."
        )
    return batch


def _cases(
    x: Tensor, task: Task, level: float, mask: str | None, missing: float, factor: int
) -> Iterator[tuple[str, Observation]]:
    """What is done to the images: name and observation."""
    if task in ("denoising", "all"):
        yield f"Gaussian noise, scale {level:g}", GaussianNoise(level)
        yield f"salt and pepper, {level:.0%}", SaltAndPepper(level)
    if task in ("inpainting", "all"):
        for which in ("lower", "random") if mask is None else (mask,):
            observed, name = _mask(x, which, missing)
            yield name, Missing(observed)
    if task in ("super-resolution", "all"):
        yield f"means of {factor} x {factor} pixels", GaussianNoise(_READING, factor)


_READING = 0.01  # noise of the observed block means: that of values given to two digits


def _mask(x: Tensor, which: str, missing: float) -> tuple[Tensor, str]:
    """``(true where a pixel is observed, name)``."""
    height, width = x.shape[-2:]
    if which == "random":
        observed = torch.rand(len(x), 1, height, width) >= missing
        return observed.expand_as(x), f"random {missing:.0%} missing"
    observed = torch.ones(x.shape[1:], dtype=torch.bool)
    if which == "lower":
        observed[:, height - round(missing * height) :] = False
        return observed, f"lower {missing:.0%} missing"
    if which == "right":
        observed[:, :, width - round(missing * width) :] = False
        return observed, f"right {missing:.0%} missing"
    if Path(which).suffix != ".npy":
        raise ValueError(f"mask is lower, right, random, or the name of a .npy file; got {which!r}.")
    array = torch.as_tensor(np.load(which, allow_pickle=False))
    if array.shape not in (x.shape[1:], x.shape[2:]):
        raise ValueError(
            f"the mask in {which} has shape {list(array.shape)} and an image {list(x.shape[1:])}; give a mask "
            f"{list(x.shape[2:])} or {list(x.shape[1:])}, true where a pixel is observed."
        )
    return array.bool().expand(x.shape[1:]), f"missing by {Path(which).stem}"


def _baselines(observation: Observation, y: Tensor) -> dict[str, Tensor]:
    if isinstance(observation, Missing):
        return interpolated(y)
    if isinstance(observation, GaussianNoise) and observation.factor > 1:
        return upscaled(y, observation.factor)
    return filtered(y, observation.scale if isinstance(observation, GaussianNoise) else None)
