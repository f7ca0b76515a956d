"""Images side by side: grids, samples, reconstructions, manifolds, traversals, interpolations, animations."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from pyro_vae.plotting.arrays import Array, check_finite, minus, positive, real
from pyro_vae.plotting.style import SQUARE, STYLE, HouseFigure, write


@matplotlib.rc_context(STYLE)
def image_grid(
    images: ArrayLike,
    *,
    columns: int | None = None,
    rows: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Images as one mosaic, row by row from the top left, with thin gaps between them.

    Args:
        images: [N, C, H, W] or [N, H, W], C in {1, 3}, values in [0, 1].
        columns: images in a row. Without ``columns`` and ``rows`` the mosaic is about as wide as it is high.
        rows: rows of images.
        title: written above the mosaic.
        ax: draw there, and return the figure that it belongs to; by default a new figure.

    Raises:
        ValueError: if the shape or scale is another, or rows x columns is smaller than N.
        TypeError: if images are not numbers, or rows or columns not whole numbers.
    """
    tiles = as_images(images, "images")
    count, _, height, width = tiles.shape
    rows, columns = _layout(count, rows, columns, height / width)
    mosaic = tile(tiles, rows, columns)
    own = ax is None
    ax = _show(mosaic, ax)
    if title:
        ax.set_title(title)
    return _fitted(ax, mosaic, rows, columns) if own else cast(Figure, ax.figure.canvas.figure)


@matplotlib.rc_context(STYLE)
def reconstructions(originals: ArrayLike, reconstructions: ArrayLike, *, count: int = 10) -> Figure:
    """Originals above their reconstructions, the first ``count`` of each (all of them, if there are fewer).

    Args:
        originals: [N, C, H, W] or [N, H, W], values in [0, 1].
        reconstructions: the same shape; usually the mean of p(x | z) at z ~ q(z | x).
        count: how many pairs to draw.

    Raises:
        ValueError: if the two shapes differ, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
    """
    above, below = as_images(originals, "originals"), as_images(reconstructions, "reconstructions")
    if above.shape != below.shape:
        raise ValueError(
            f"originals are [N, C, H, W] = {list(above.shape)} and reconstructions {list(below.shape)}; "
            "give one reconstruction of the same shape for each original"
        )
    columns = min(positive(count, "count"), len(above))
    tiles = np.concatenate([above[:columns], below[:columns]])
    mosaic = tile(tiles, 2, columns)
    ax = _show(mosaic)
    _label_rows(ax, ["original", "reconstruction"], tiles.shape)
    return _fitted(ax, mosaic, 2, columns)


def samples(images: ArrayLike) -> Figure:
    """Samples of the model as one mosaic.

    Args:
        images: [N, C, H, W] or [N, H, W], values in [0, 1]; usually the mean of p(x | z) at z ~ p(z).

    Raises:
        ValueError: as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
    """
    return image_grid(images, title="means of p(x | z) at z from the prior")


def manifold_grid(side: int, quantiles: ArrayLike | None = None) -> Array:
    """The latent points of :func:`manifold`: a square grid on the unit square through the inverse CDF of the prior.

    The coordinate d takes the values F_d^-1((i + 0.5) / side), i = 0 ... side - 1. With F the CDF of N(0, 1) the grid's
    cells are equally probable under the prior N(0, I).

    Args:
        side: points along a side.
        quantiles: [2, side], the values F_d^-1((i + 0.5) / side) of z_1 and of z_2; by default those of N(0, 1).

    Returns:
        [side * side, 2], the pairs (z_1, z_2), row by row in the order in which :func:`manifold` draws them: the first
        row is the top of the picture, with the largest z_2, and z_1 grows from left to right.

    Raises:
        ValueError: if ``side`` is below 1, or there are not 2 x side quantiles, all finite.
        TypeError: if ``side`` is no whole number.

    Source:
        Kingma and Welling (2014), Figure 4.
    """
    side = positive(side, "side")
    if quantiles is None:
        quantiles = [[NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]] * 2
    points = real(quantiles, "quantiles")
    if points.shape != (2, side):
        raise ValueError(f"quantiles have shape {list(points.shape)}; expected those of z_1 and of z_2, [2, {side}]")
    check_finite(points, "quantiles")
    z1, z2 = np.meshgrid(points[0], points[1, ::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=1)


@matplotlib.rc_context(STYLE)
def manifold(images: ArrayLike, *, side: int, prior: str = "N(0, 1)") -> Figure:
    """The learned two-dimensional manifold: p(x | z)'s means, laid out on the unit square of z's quantiles.

    Args:
        images: [side * side, C, H, W] or [side * side, H, W], values in [0, 1], ordered as ``manifold_grid(side)`` is.
        side: images along a side.
        prior: whose quantiles the axes show.

    Raises:
        ValueError: if there are not side * side images, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.

    Source:
        Kingma and Welling (2014), Figure 4.
    """
    side = positive(side, "side")
    tiles = as_images(images, "images")
    if len(tiles) != side * side:
        raise ValueError(
            f"got {len(tiles)} images for side={side}; expected side * side = {side * side}, "
            "one for each point of manifold_grid(side)"
        )
    mosaic = tile(tiles, side, side)
    # Half a gap of page around the mosaic puts the middle of tile i at (i + 0.5) / side, its quantile, to the pixel.
    half = gap(tiles.shape) / 2
    high, wide = mosaic.shape[0] + 2 * half, mosaic.shape[1] + 2 * half
    x, y = half / wide, half / high
    ax = _show(mosaic, extent=(x, 1 - x, y, 1 - y), aspect=high / wide)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 5), yticks=np.linspace(0, 1, 5))
    ax.tick_params(length=3)
    ax.set_xlabel(f"quantile of $z_1$ under {prior}")
    ax.set_ylabel(f"quantile of $z_2$ under {prior}")
    return _fitted(ax, mosaic, side, side, least=2.8)


@matplotlib.rc_context(STYLE)
def traversals(
    images: ArrayLike,
    *,
    values: ArrayLike | None = None,
    quantiles: ArrayLike | None = None,
    dims: Sequence[int] | None = None,
) -> Figure:
    """Latent traversals: each row moves one latent dimension through its values, the others stay where they are.

    The columns are values that all dimensions have in common, or quantiles of each dimension under its own prior.

    Args:
        images: [D, V, C, H, W] or [D, V, H, W], values in [0, 1]: latent dimension by value of z.
        values: [V], the values of z, in latent units.
        quantiles: [V], the quantiles of z in [0, 1], in place of ``values``.
        dims: [D], which latent dimensions the rows are, counted from 0; by default the first D.

    Raises:
        ValueError: if the shape or scale is another, there are not V values or D dims, a quantile is outside [0, 1],
            or both or neither of values and quantiles are given.
        TypeError: if something is not numbers.
    """
    array = real(images, "images")
    if array.ndim not in (4, 5) or 0 in array.shape:
        raise ValueError(
            f"images have shape {list(array.shape)}; expected [D, V, C, H, W] or [D, V, H, W], "
            "latent dimension by value of z, none of them empty"
        )
    rows, steps = array.shape[:2]
    shown = list(range(rows)) if dims is None else [int(dim) for dim in dims]
    if len(shown) != rows:
        raise ValueError(f"dims names {len(shown)} latent dimensions, but images have {rows} rows: [D, V, ...]")
    if (values is None) == (quantiles is None):
        raise ValueError("traversals needs to know what its columns are: give values or quantiles, one of the two")
    name, given = ("values", values) if quantiles is None else ("quantiles", quantiles)
    points = real(given, name)
    if points.shape != (steps,):
        raise ValueError(
            f"{name} have shape {list(points.shape)} and images are [D, V, ...] = {list(array.shape)}; "
            f"expected one value of z for each column, [{steps}]"
        )
    if quantiles is not None and not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"quantiles go from {points.min():g} to {points.max():g}; expected [0, 1]")
    tiles = as_images(array.reshape(rows * steps, *array.shape[2:]), "images (of one traversal)")
    mosaic = tile(tiles, rows, steps)
    ax = _show(mosaic)
    _label_rows(ax, [f"$z_{{{d + 1}}}$" for d in shown], tiles.shape)
    labels = [minus(f"{v:.3g}") for v in points]
    every = math.ceil(max(len(label) for label in labels) * 0.072 * steps / _inches(mosaic, rows, steps)[0])
    ax.set_xticks(_centres(steps, tiles.shape[3], gap(tiles.shape))[::every], labels[::every])
    ax.set_xlabel("value of $z_d$" if quantiles is None else "quantile of $z_d$ under the prior")
    return _fitted(ax, mosaic, rows, steps)


@matplotlib.rc_context(STYLE)
def interpolations(images: ArrayLike, starts: ArrayLike, ends: ArrayLike) -> Figure:
    """From one datum to another: a row for each pair, the data themselves on either side of the steps between them.

    Args:
        images: [P, T, C, H, W] or [P, T, H, W], values in [0, 1]: pair by step, from the start to the end; what
            ``diagnostics.interpolate`` gives.
        starts: [P, C, H, W] or [P, H, W], the data from which the rows go.
        ends: those to which they go.

    Raises:
        ValueError: if the shapes do not fit, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
    """
    array = real(images, "images")
    if array.ndim not in (4, 5) or 0 in array.shape:
        raise ValueError(
            f"images have shape {list(array.shape)}; expected [P, T, C, H, W] or [P, T, H, W], pair by step, none of "
            "them empty"
        )
    rows, steps = array.shape[:2]
    tiles = as_images(array.reshape(rows * steps, *array.shape[2:]), "images (of one interpolation)")
    sides = [as_images(data, name) for data, name in ((starts, "starts"), (ends, "ends"))]
    for data, name in zip(sides, ("starts", "ends"), strict=True):
        if data.shape != (rows, *tiles.shape[1:]):
            raise ValueError(
                f"{name} are [P, C, H, W] = {list(data.shape)}; expected one for each row of the images, "
                f"{[rows, *tiles.shape[1:]]}"
            )
    space, width = gap(tiles.shape), tiles.shape[3]
    middle = tile(tiles, rows, steps)
    page = np.ones((middle.shape[0], 4 * space, *middle.shape[2:]))  # apart from the steps
    mosaic = np.concatenate([tile(sides[0], rows, 1), page, middle, page, tile(sides[1], rows, 1)], axis=1)
    ax = _show(mosaic)
    first = width + page.shape[1]
    centres = [(width - 1) / 2, *(first + _centres(steps, width, space)), mosaic.shape[1] - (width + 1) / 2]
    labels = ["start", *(f"{step / max(steps - 1, 1):.2g}" for step in range(steps)), "end"]
    every = math.ceil(4 * 0.072 * (steps + 2) / _inches(mosaic, rows, steps + 2)[0])
    shown = [0, *range(1, steps + 1, every), steps + 1]
    ax.set_xticks([centres[i] for i in shown], [labels[i] for i in shown])
    ax.set_xlabel("share of the way between the codes")
    return _fitted(ax, mosaic, rows, steps + 2)


@matplotlib.rc_context(STYLE)
def resampled(images: ArrayLike, originals: ArrayLike, rows: Sequence[str], *, title: str | None = None) -> Figure:
    """What some latents leave open: a block for each datum, a row for each choice of latents, a column for each draw.

    The datum stands above its block.

    Args:
        images: [R, P, S, C, H, W] or [R, P, S, H, W], values in [0, 1]: row by datum by draw; a row is what
            ``diagnostics.resample`` gives.
        originals: [P, C, H, W] or [P, H, W], the data.
        rows: the names of the R rows.
        title: written above the mosaic.

    Raises:
        ValueError: if the shapes do not fit, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
    """
    array = real(images, "images")
    if array.ndim not in (5, 6) or 0 in array.shape:
        raise ValueError(
            f"images have shape {list(array.shape)}; expected [R, P, S, C, H, W] or [R, P, S, H, W], row by datum by "
            "draw, none of them empty"
        )
    count, blocks, draws = array.shape[:3]
    tiles = as_images(array.reshape(-1, *array.shape[3:]), "images (of one choice)")
    data = as_images(originals, "originals")
    if data.shape != (blocks, *tiles.shape[1:]):
        raise ValueError(
            f"originals are [P, C, H, W] = {list(data.shape)}; expected one for each block of the images, "
            f"{[blocks, *tiles.shape[1:]]}"
        )
    if len(rows) != count:
        raise ValueError(f"rows names {len(rows)} rows, but images have {count}: [R, P, S, ...]")
    space, height = gap(tiles.shape), tiles.shape[2]
    by_block = tiles.reshape(count, blocks, draws, *tiles.shape[1:])
    parts = []
    for block in range(blocks):
        middle = tile(by_block[:, block].reshape(-1, *tiles.shape[1:]), count, draws)
        page = np.ones((4 * space, *middle.shape[1:]))  # apart from the draws, and from the next block
        parts += [np.concatenate([tile(data[block : block + 1], 1, draws), page, middle])]
        parts += [np.ones((parts[-1].shape[0], 4 * space, *middle.shape[2:]))]
    mosaic = np.concatenate(parts[:-1], axis=1)
    ax = _show(mosaic)
    first = height + 4 * space
    ax.set_yticks([(height - 1) / 2, *(first + _centres(count, height, space))], ["datum", *rows])
    if title:
        ax.set_title(title)
    return _fitted(ax, mosaic, count + 1, blocks * draws)


def animation(images: ArrayLike, path: str | os.PathLike[str], *, fps: float = 10, scale: int | None = None) -> Path:
    """Writes images as a GIF that runs in a loop, whole or not at all, and returns the path.

    Args:
        images: [T, C, H, W] or [T, H, W], values in [0, 1], a picture for each moment; or [T, N, C, H, W], N pictures
            at each moment, side by side as in :func:`image_grid`.
        path: ends in ``.gif``. A folder that is missing is made.
        fps: frames in a second, up to 50; GIF counts in hundredths of a second.
        scale: pixels of the GIF along a side of each pixel; by default so many that a frame is about 256 wide or high.

    Raises:
        ValueError: if ``path`` has another ending, ``fps`` or ``scale`` is out of range, or as :func:`image_grid` does.
        TypeError: as :func:`image_grid` does.
        OSError: if the folder cannot be made or written to.
    """
    from PIL import Image  # matplotlib needs it too, but most figures do not

    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path is {str(path)!r}; animation writes GIF, so give a name that ends in .gif")
    if not 0 < fps <= 50:
        raise ValueError(f"fps is {fps}; expected frames in a second, more than 0 and at most 50")
    array = real(images, "images")
    if array.ndim == 5 and 0 not in array.shape:
        moments, count = array.shape[:2]
        tiles = as_images(array.reshape(moments * count, *array.shape[2:]), "images (of one moment)")
        rows, columns = _layout(count, None, None, tiles.shape[2] / tiles.shape[3])
        mosaics = [tile(part, rows, columns) for part in tiles.reshape(moments, count, *tiles.shape[1:])]
    else:
        mosaics = [tile(part[None], 1, 1) for part in as_images(array, "images")]
    size = max(mosaics[0].shape[:2])
    enlarged = max(1, round(256 / size)) if scale is None else positive(scale, "scale")
    frames = [
        Image.fromarray((255 * mosaic).round().astype(np.uint8).repeat(enlarged, 0).repeat(enlarged, 1))
        for mosaic in mosaics
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=round(100 / fps) * 10, loop=0
    )
    return write(path, buffer.getvalue())


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


def gap(shape: tuple[int, ...]) -> int:
    """Pixels between tiles [N, C, H, W]: one, and one more for every 28 of their size."""
    return max(1, round(min(shape[2:]) / 28))


def tile(tiles: Array, rows: int, columns: int) -> Array:
    """[N, C, H, W] -> [rows * (H + gap) - gap, columns * (W + gap) - gap] (x 3); what is free is white."""
    count, channels, height, width = tiles.shape
    space = gap(tiles.shape)
    cells = np.ones((rows * columns, channels, height + space, width + space))
    cells[:count, :, :height, :width] = tiles
    cells = cells.reshape(rows, columns, *cells.shape[1:]).transpose(0, 3, 1, 4, 2)
    mosaic = cells.reshape(rows * (height + space), columns * (width + space), channels)[:-space, :-space]
    return mosaic[..., 0] if channels == 1 else mosaic


def _layout(count: int, rows: int | None, columns: int | None, shape: float) -> tuple[int, int]:
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


def _inches(mosaic: Array, rows: int, columns: int, least: float = 0.0) -> tuple[float, float]:
    """The width and height of a mosaic on paper: tiles of about 0.6 inches, and a mosaic that fits on a page."""
    high, wide = mosaic.shape[:2]
    scale = (0.62 if max(rows, columns) > 2 else 1.1) / max(high / rows, wide / columns)
    scale = min(max(scale, least / max(high, wide)), 6.5 / wide, 7.0 / high)
    return wide * scale, high * scale


def _show(mosaic: Array, ax: Axes | None = None, **where: Any) -> Axes:
    """Draws a mosaic, without ticks and spines, in axes of a new figure if none are given."""
    if ax is None:
        ax = HouseFigure(figsize=(9.0, 9.0), layout=SQUARE).add_subplot()
    ax.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, **where)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _fitted(ax: Axes, mosaic: Array, rows: int, columns: int, least: float = 0.0) -> Figure:
    """The figure of ``ax``, cut to the size of the mosaic on paper and of the labels around it."""
    figure = cast(Figure, ax.figure)
    figure.draw_without_rendering()
    inner, outer = ax.get_window_extent(), ax.get_tightbbox() or ax.get_window_extent()
    wide, high = _inches(mosaic, rows, columns, least)
    wide += (outer.width - inner.width) / figure.dpi
    high += (outer.height - inner.height) / figure.dpi
    text = max(ax.title.get_window_extent().width, ax.xaxis.label.get_window_extent().width) / figure.dpi
    figure.set_size_inches(max(wide, text) + 0.12, high + 0.12)
    return figure


def _centres(count: int, size: int, space: int) -> Array:
    return np.arange(count, dtype=np.float64) * (size + space) + (size - 1) / 2


def _label_rows(ax: Axes, labels: Sequence[str], shape: tuple[int, ...]) -> None:
    ax.set_yticks(_centres(len(labels), shape[2], gap(shape)), labels)
