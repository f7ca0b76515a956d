"""Images -> a mosaic of tiles, and the figure that holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pyro_vae._checks import held
from pyro_vae.plotting.arrays import Array, check_finite, positive, real
from pyro_vae.plotting.style import CLASSES, INK, SQUARE, HouseFigure


def as_images(value: Any, name: str) -> Array:
    """[N, C, H, W] in [0, 1] from [N, C, H, W] or [N, H, W]."""
    array = real(value, name)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        hint = ": reshape flat images, and give a single image as [1, H, W]" if array.ndim == 2 else ""
        raise ValueError(
            f"{name} have shape {list(array.shape)}; expected [N, C, H, W] or [N, H, W], none of them empty{hint}"
        )
    if array.shape[1] not in (1, 3):
        hint = ": move the channels to the front with np.moveaxis(images, -1, 1)" if array.shape[3] in (1, 3) else ""
        raise ValueError(
            f"{name} are [N, C, H, W] = {list(array.shape)} with C = {array.shape[1]} channels; "
            f"expected 1 (gray) or 3 (RGB){hint}"
        )
    check_finite(array, name)
    low, high = array.min(), array.max()
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{name} have values from {low:g} to {high:g}; expected [0, 1]: divide bytes by 255, "
            "or clip what is meant to lie outside"
        )
    return array.clip(0.0, 1.0)


def as_grid(value: Any, name: str, axes: str, meaning: str = "") -> Array:
    """[*axes, C, H, W] in [0, 1] from that or [*axes, H, W]; ``meaning`` says what the axes, such as "R, S", are."""
    array = real(value, name)
    leading = len(axes.split(", "))
    if array.ndim not in (leading + 2, leading + 3) or 0 in array.shape:
        meaning = f"{meaning}, " if meaning else ""
        raise ValueError(
            f"{name} have shape {list(array.shape)}; expected [{axes}, C, H, W] or [{axes}, H, W], {meaning}none of "
            "them empty"
        )
    images = as_images(array.reshape(-1, *array.shape[leading:]), f"{name}, one after the other,")
    return images.reshape(*array.shape[:leading], *images.shape[1:])


def gap(shape: Sequence[int]) -> int:
    """Pixels between tiles [*, C, H, W]: one, and one more for every 28 of their size."""
    return max(1, round(min(shape[-2:]) / 28))


def tile(tiles: Array, rows: int, columns: int) -> Array:
    """[*, C, H, W] -> [rows * (H + gap) - gap, columns * (W + gap) - gap] (x 3); what is free is white."""
    channels, height, width = tiles.shape[-3:]
    tiles, space = tiles.reshape(-1, channels, height, width), gap(tiles.shape)
    held("the picture", 2 * rows * columns * channels * (height + space) * (width + space))
    cells = np.ones((rows * columns, channels, height + space, width + space))
    cells[: len(tiles), :, :height, :width] = tiles
    cells = cells.reshape(rows, columns, *cells.shape[1:]).transpose(0, 3, 1, 4, 2)
    mosaic = cells.reshape(rows * (height + space), columns * (width + space), channels)[:-space, :-space]
    return mosaic[..., 0] if channels == 1 else mosaic


def apart(mosaics: Iterable[Array], space: int, axis: int) -> Array:
    """Mosaics below each other (axis 0) or side by side (axis 1), with so many white pixels between them."""
    parts: list[Array] = []
    for mosaic in mosaics:
        page = list(mosaic.shape)
        page[axis] = space
        parts += [np.ones(page), mosaic] if parts else [mosaic]
    return np.concatenate(parts, axis)


def centres(count: int, size: int, space: int) -> Array:
    """The middles of so many tiles of a size, in pixels."""
    return np.arange(count, dtype=np.float64) * (size + space) + (size - 1) / 2


def layout(count: int, rows: int | None, columns: int | None, shape: float) -> tuple[int, int]:
    """Rows and columns for so many images of a ratio of height to width; by default about a square.

    Raises:
        ValueError: if they do not fit.
    """
    rows = None if rows is None else positive(rows, "rows")
    columns = None if columns is None else positive(columns, "columns")
    if columns is None:
        columns = min(count, math.ceil(math.sqrt(count * shape))) if rows is None else math.ceil(count / rows)
    if rows is None:
        rows = math.ceil(count / columns)
    if rows * columns < count:
        raise ValueError(
            f"{count} images do not fit into {rows} rows x {columns} columns = {rows * columns}; "
            "give fewer images, or leave out rows or columns"
        )
    return rows, columns


def inches(mosaic: Array, rows: int, columns: int, least: float = 0.0) -> tuple[float, float]:
    """The width and height of a mosaic on paper: tiles of about 0.6 inches, and a mosaic that fits on a page."""
    high, wide = mosaic.shape[:2]
    scale = (0.62 if max(rows, columns) > 2 else 1.1) / max(high / rows, wide / columns)
    scale = min(max(scale, least / max(high, wide)), 6.5 / wide, 7.0 / high)
    return wide * scale, high * scale


def show(mosaic: Array, ax: Axes | None = None, **where: Any) -> Axes:
    """Draws a mosaic, without ticks and spines, in axes of a new figure if none are given."""
    if ax is None:
        ax = HouseFigure(figsize=(9.0, 9.0), layout=SQUARE).add_subplot()
    ax.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, **where)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def label_rows(ax: Axes, labels: Sequence[str], shape: Sequence[int]) -> None:
    """Names the rows of tiles [*, C, H, W]."""
    ax.set_yticks(centres(len(labels), shape[-2], gap(shape)), labels)


def fitted(ax: Axes, mosaic: Array, rows: int, columns: int, least: float = 0.0) -> Figure:
    """The figure of ``ax``, cut to the size of the mosaic on paper and of the labels around it."""
    figure = cast(Figure, ax.figure)
    figure.draw_without_rendering()
    inner, outer = ax.get_window_extent(), ax.get_tightbbox() or ax.get_window_extent()
    wide, high = inches(mosaic, rows, columns, least)
    wide += (outer.width - inner.width) / figure.dpi
    high += (outer.height - inner.height) / figure.dpi
    text = max(ax.title.get_window_extent().width, ax.xaxis.label.get_window_extent().width) / figure.dpi
    figure.set_size_inches(max(wide, text) + 0.12, high + 0.12)
    return figure


def colored(maps: Any) -> Array:
    """Maps of classes as images: whole numbers [*, H, W] of at least 0 -> [*, 3, H, W], the class 0 nearly black.

    Raises:
        ValueError: if these are no such numbers, or no maps.
        TypeError: if they are not numbers.

    >>> from pyro_vae import plotting
    >>> plotting.colored([[0, 1], [2, 2]]).shape  # a map of 2 x 2 pixels, in three colors
    (3, 2, 2)
    """
    array = real(maps, "maps")
    if array.ndim < 2 or not array.size or (array < 0).any() or (array != array.round()).any():
        raise ValueError(f"maps are classes [*, H, W], whole numbers of at least 0; got the shape {list(array.shape)}")
    palette = np.array([to_rgb(color) for color in (INK, *CLASSES)])
    numbers = array.astype(np.int64)
    numbers = np.where(numbers > 0, 1 + (numbers - 1) % len(CLASSES), 0)
    return np.moveaxis(palette[numbers], -1, -3)
