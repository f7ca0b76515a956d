"""Restorations without a model: filters of noisy images, interpolation of missing and of enlarged pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pyro_vae._checks import checked, whole


def _of_images(y: Tensor) -> Tensor:
    """``y``, which has to be images ``[N, C, H, W]`` of floating-point numbers."""
    if y.dim() != 4 or not y.numel() or not y.is_floating_point():
        raise ValueError(f"y has to be images [N, C, H, W] of floats; got {list(y.shape)} of {y.dtype}.")
    return y.detach()


@checked
def filtered(y: Tensor, scale: float | None = None) -> dict[str, Tensor]:
    """Noisy images ``[N, C, H, W]`` smoothed: median of 3 x 3 pixels, Gaussian of scale 1 pixel, and Wiener's filter.

    Args:
        y: the images.
        scale: of Gaussian noise; with it Wiener's filter (of 3 x 3 pixels) is one of the three.

    >>> import torch
    >>> from pyro_vae.applications.restoration import filtered
    >>> sorted(filtered(torch.rand(2, 1, 8, 8), scale=0.2))
    ['Gaussian filter', 'Wiener filter', 'median filter']
    """
    from scipy import ndimage, signal

    images = _of_images(y).double().numpy()
    found = {
        "median filter": ndimage.median_filter(images, (1, 1, 3, 3)),
        "Gaussian filter": ndimage.gaussian_filter(images, (0, 0, 1, 1)),
    }
    if scale:
        flat = images.reshape(-1, *images.shape[2:])
        wiener = np.stack([signal.wiener(image, (3, 3), scale**2) for image in flat])
        found["Wiener filter"] = wiener.reshape(images.shape)
    return {name: torch.as_tensor(image).to(y) for name, image in found.items()}


@checked
def interpolated(y: Tensor) -> dict[str, Tensor]:
    """Images ``[N, C, H, W]`` with NaN where a pixel is missing, filled: nearest, linear, and biharmonic.

    Linear interpolation is between the corners of Delaunay triangles, and beyond them the nearest pixel. The biharmonic
    interpolant is the thin-plate spline, through its 64 nearest neighbors where there are over 1,000 pixels. Where
    neither exists (too few pixels, or all on one line), the nearest pixel; 0.5 where there is none.

    >>> import torch
    >>> from pyro_vae.applications.restoration import interpolated
    >>> y = torch.tensor([[[[0.0, float("nan"), 1.0]] * 3]])
    >>> interpolated(y)["linear interpolation"][0, 0, 1]
    tensor([0.0000, 0.5000, 1.0000])
    """
    images = _of_images(y).flatten(0, 1).double().numpy()
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


@checked(but=("factor",))
def upscaled(y: Tensor, factor: int) -> dict[str, Tensor]:
    """Images ``[N, C, h, w]`` enlarged by ``factor``, to ``[N, C, factor h, factor w]``: bilinear and bicubic.

    Raises:
        ValueError: if ``factor`` is no whole number of at least 1, or y are no images of floats.

    >>> import torch
    >>> from pyro_vae.applications.restoration import upscaled
    >>> {name: image.shape for name, image in upscaled(torch.rand(2, 1, 4, 4), factor=2).items()}
    {'bilinear': torch.Size([2, 1, 8, 8]), 'bicubic': torch.Size([2, 1, 8, 8])}
    """
    whole(1, factor=factor)
    y = _of_images(y)
    return {
        mode: interpolate(y, scale_factor=factor, mode=mode, align_corners=False) for mode in ("bilinear", "bicubic")
    }
