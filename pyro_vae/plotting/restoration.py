"""Restorations of degraded images beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae.plotting.style import STYLE
from pyro_vae.plotting.tiles import apart, as_images, centres, fitted, gap, show, tile


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
    blocks = [[(label, as_images(images, label)) for label, images in group.items()] for group in groups]
    rows = [row for block in blocks for row in block]
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
    mosaics = [tile(np.stack([images for _, images in block]), len(block), shape[0]) for block in blocks]
    whole = apart(mosaics, 4 * space, axis=0)
    ax = show(whole)
    tops = np.cumsum([0, *(len(mosaic) + 4 * space for mosaic in mosaics[:-1])])
    places = [top + centres(len(block), shape[2], space) for top, block in zip(tops, blocks, strict=True)]
    ax.set_yticks(np.concatenate(places), [label for label, _ in rows])
    return fitted(ax, whole, len(rows), shape[0])
