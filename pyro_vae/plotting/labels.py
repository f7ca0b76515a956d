"""Classes against styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae.plotting.style import SQUARE, STYLE, HouseFigure
from pyro_vae.plotting.tiles import apart, as_grid, as_images, centres, gap, label_rows, show, tile


@matplotlib.rc_context(STYLE)
def classes_and_styles(
    samples: ArrayLike, originals: ArrayLike, analogies: ArrayLike, *, classes: Sequence[Any]
) -> Figure:
    """On the left a row for each class and a column for each style; on the right data, each in all classes.

    Args:
        samples: [K, S, C, H, W] or [K, S, H, W], values in [0, 1]: class by style, the styles drawn from the prior.
        originals: [N, C, H, W] or [N, H, W], the data whose styles are on the right.
        analogies: [N, K, C, H, W] or [N, K, H, W]: the style of a datum by class.
        classes: [K], their names.

    Raises:
        ValueError: if the shapes do not fit, or as :func:`~pyro_vae.plotting.image_grid` does.
        TypeError: as :func:`~pyro_vae.plotting.image_grid` does.
    """
    left, right = as_grid(samples, "samples", "K, S"), as_grid(analogies, "analogies", "N, K")
    data = as_images(originals, "originals")
    count = len(classes)
    if len(left) != count or right.shape[:2] != (len(data), count) or left.shape[2:] != data.shape[1:]:
        raise ValueError(
            f"samples are [K, S, C, H, W] = {list(left.shape)}, originals [N, C, H, W] = {list(data.shape)} and "
            f"analogies [N, K, C, H, W] = {list(right.shape)}; expected K = {count}, that of the classes, N alike, and "
            "images of one shape"
        )
    space, width = gap(data.shape), data.shape[3]
    styles, moved = tile(left, count, left.shape[1]), tile(right, len(data), count)
    mosaics = styles, apart([tile(data, len(data), 1), moved], 4 * space, axis=1)
    scale = 10.0 / sum(mosaic.shape[1] for mosaic in mosaics)
    figure = HouseFigure(figsize=(10.8, max(mosaic.shape[0] for mosaic in mosaics) * scale + 0.7), layout=SQUARE)
    engine: Any = figure.get_layout_engine()
    engine.set(wspace=0.05)
    axes = figure.subplots(1, 2, width_ratios=[mosaic.shape[1] for mosaic in mosaics])
    for ax, mosaic in zip(axes, mosaics, strict=True):
        show(mosaic, ax)
    names = [str(name) for name in classes]
    label_rows(axes[0], names, left.shape)
    axes[0].set(ylabel="class $y$", xlabel="style $z$ from the prior, one for each column")
    axes[1].set_xticks([(width - 1) / 2, *(width + 4 * space + centres(count, width, space))], ["datum", *names])
    axes[1].set_xlabel("class $y$, at the style $z$ of the datum")
    return figure
