"""Restorations of degraded images beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae.plotting.arrays import Array
from pyro_vae.plotting.mosaics import _fitted, _show, as_images, gap, tile
from pyro_vae.plotting.style import STYLE


@matplotlib.rc_context(STYLE)
def restorations(groups: Sequence[Mapping[str, ArrayLike]]) -> Figure:
    """Rows of images under each other, the same data in each column, in groups with space between them.

    Args:
        groups: by label the rows of each group, each [N, C, H, W] or [N, H, W], values in [0, 1]. Usually the originals
            by themselves, and then what became of them: degraded, restored by one method, by another.

    Raises:
        ValueError: if there are no rows, or they differ in their shape, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
    """
    rows = [(label, as_images(images, label)) for group in groups for label, images in group.items()]
    if not rows:
        raise ValueError("there are no rows: give groups of images, for example [{'original': images}]")
    shape = rows[0][1].shape
    for label, array in rows:
        if array.shape != shape:
            raise ValueError(
                f"{label} are [N, C, H, W] = {list(array.shape)} and {rows[0][0]} {list(shape)}; rows show the same "
                "data, so give as many images of one shape in each"
            )
    space = gap(shape)
    parts: list[Array] = []
    labels: list[str] = []
    centres: list[float] = []
    top = 0
    for group in groups:
        for label, images in group.items():
            mosaic = tile(as_images(images, label), 1, shape[0])
            parts += [mosaic, np.ones((space, *mosaic.shape[1:]))]
            labels.append(label)
            centres.append(top + (shape[2] - 1) / 2)
            top += shape[2] + space
        parts.append(np.ones((3 * space, *mosaic.shape[1:])))
        top += 3 * space
    whole = np.concatenate(parts[:-2])
    ax = _show(whole)
    ax.set_yticks(centres, labels)
    return _fitted(ax, whole, len(rows), shape[0])
