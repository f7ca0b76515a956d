"""Images side by side: grids, samples, reconstructions, manifolds, traversals, restorations, animations, ..."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae._checks import checked, held
from pyro_vae.plotting.arrays import Array, minus, positive, real, shaped
from pyro_vae.plotting.style import SQUARE, STYLE, HouseFigure, write_file
from pyro_vae.plotting.tiles import (
    apart,
    as_grid,
    as_images,
    centres,
    fitted,
    gap,
    inches,
    label_rows,
    layout,
    show,
    tile,
)


@matplotlib.rc_context(STYLE)
@checked(but=("images", "columns", "rows"))
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

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> figure = plotting.image_grid(np.random.default_rng(0).random((12, 3, 8, 8)), columns=4, title="noise")
    """
    tiles = as_images(images, "images")
    count, _, height, width = tiles.shape
    rows, columns = layout(count, rows, columns, height / width)
    mosaic = tile(tiles, rows, columns)
    own = ax is None
    ax = show(mosaic, ax)
    if title:
        ax.set_title(title)
    return fitted(ax, mosaic, rows, columns) if own else cast(Figure, ax.figure.canvas.figure)


@matplotlib.rc_context(STYLE)
def reconstructions(originals: ArrayLike, reconstructions: ArrayLike, *, count: int = 10) -> Figure:
    """Originals above their reconstructions, the first ``count`` of each (all of them, if there are fewer).

    Args:
        originals: [N, C, H, W] or [N, H, W], values in [0, 1].
        reconstructions: the same shape; usually the mean of p(x | z) at z ~ q(z | x).
        count: how many pairs to draw.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if the two shapes differ.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> x = np.random.default_rng(0).random((20, 8, 8))
    >>> figure = plotting.reconstructions(x, 0.5 + 0.8 * (x - 0.5), count=6)
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
    ax = show(mosaic)
    label_rows(ax, ["original", "reconstruction"], tiles.shape)
    return fitted(ax, mosaic, 2, columns)


def samples(images: ArrayLike) -> Figure:
    """Samples of the model as one mosaic.

    Args:
        images: [N, C, H, W] or [N, H, W], values in [0, 1]; usually the mean of p(x | z) at z ~ p(z).

    Raises:
        ValueError, TypeError: as :func:`image_grid`.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> figure = plotting.samples(np.random.default_rng(0).random((16, 28, 28)))
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

    Source: Kingma and Welling (2014), Figure 4.

    >>> from pyro_vae import plotting
    >>> plotting.manifold_grid(2).round(2)
    array([[-0.67,  0.67],
           [ 0.67,  0.67],
           [-0.67, -0.67],
           [ 0.67, -0.67]])
    """
    side = positive(side, "side")
    held("the grid", 2 * side * side)
    if quantiles is None:
        quantiles = [[NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]] * 2
    points = shaped(quantiles, "quantiles", (2, side), f"those of z_1 and of z_2, [2, {side}]")
    z1, z2 = np.meshgrid(points[0], points[1, ::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=1)


@matplotlib.rc_context(STYLE)
@checked(but=("images", "side"))
def manifold(images: ArrayLike, *, side: int, prior: str = "N(0, 1)") -> Figure:
    """The learned two-dimensional manifold: p(x | z)'s means, laid out on the unit square of z's quantiles.

    Args:
        images: [side * side, C, H, W] or [side * side, H, W], values in [0, 1], ordered as ``manifold_grid(side)`` is.
        side: images along a side.
        prior: whose quantiles the axes show.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if there are not side * side images.

    Source: Kingma and Welling (2014), Figure 4.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> z = plotting.manifold_grid(5)  # [25, 2]
    >>> images = np.repeat(1 / (1 + np.exp(-z[:, :1])), 64, axis=1).reshape(25, 8, 8)  # of a decoder
    >>> figure = plotting.manifold(images, side=5)
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
    ax = show(mosaic, extent=(x, 1 - x, y, 1 - y), aspect=high / wide)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 5), yticks=np.linspace(0, 1, 5))
    ax.tick_params(length=3)
    ax.set_xlabel(f"quantile of $z_1$ under {prior}")
    ax.set_ylabel(f"quantile of $z_2$ under {prior}")
    return fitted(ax, mosaic, side, side, least=2.8)


@matplotlib.rc_context(STYLE)
@checked(but=("images", "values", "quantiles"))
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

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> images = np.random.default_rng(0).random((3, 5, 8, 8))  # three dimensions, five values
    >>> figure = plotting.traversals(images, values=[-2, -1, 0, 1, 2])
    """
    tiles = as_grid(images, "images", "D, V", "latent dimension by value of z")
    rows, steps = tiles.shape[:2]
    shown = list(range(rows)) if dims is None else [int(dim) for dim in dims]
    if len(shown) != rows:
        raise ValueError(f"dims names {len(shown)} latent dimensions, but images have {rows} rows: [D, V, ...]")
    if (values is None) == (quantiles is None):
        raise ValueError("traversals needs to know what its columns are: give values or quantiles, one of the two")
    name, given = ("values", values) if quantiles is None else ("quantiles", quantiles)
    points = shaped(given, name, (steps,), f"one value of z for each column of the images, [{steps}]")
    if quantiles is not None and not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"quantiles go from {points.min():g} to {points.max():g}; expected [0, 1]")
    mosaic = tile(tiles, rows, steps)
    ax = show(mosaic)
    label_rows(ax, [f"$z_{{{d + 1}}}$" for d in shown], tiles.shape)
    labels = [minus(f"{v:.3g}") for v in points]
    every = math.ceil(max(len(label) for label in labels) * 0.072 * steps / inches(mosaic, rows, steps)[0])
    ax.set_xticks(centres(steps, tiles.shape[-1], gap(tiles.shape))[::every], labels[::every])
    ax.set_xlabel("value of $z_d$" if quantiles is None else "quantile of $z_d$ under the prior")
    return fitted(ax, mosaic, rows, steps)


@matplotlib.rc_context(STYLE)
def interpolations(images: ArrayLike, starts: ArrayLike, ends: ArrayLike) -> Figure:
    """From one datum to another: a row for each pair, the data themselves on either side of the steps between them.

    Args:
        images: [P, T, C, H, W] or [P, T, H, W], values in [0, 1]: pair by step, from the start to the end; what
            ``diagnostics.interpolate`` gives.
        starts: [P, C, H, W] or [P, H, W], the data from which the rows go.
        ends: those to which they go.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if the shapes do not fit.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> images = np.random.default_rng(0).random((2, 7, 8, 8))  # two pairs, seven steps
    >>> figure = plotting.interpolations(images, starts=images[:, 0], ends=images[:, -1])
    """
    tiles = as_grid(images, "images", "P, T", "pair by step")
    rows, steps = tiles.shape[:2]
    sides = [as_images(data, name) for data, name in ((starts, "starts"), (ends, "ends"))]
    for data, name in zip(sides, ("starts", "ends"), strict=True):
        if data.shape != (rows, *tiles.shape[2:]):
            raise ValueError(
                f"{name} are [P, C, H, W] = {list(data.shape)}; expected one for each row of the images, "
                f"{[rows, *tiles.shape[2:]]}"
            )
    space, width = gap(tiles.shape), tiles.shape[-1]
    left, right = (tile(side, rows, 1) for side in sides)
    mosaic = apart([left, tile(tiles, rows, steps), right], 4 * space, axis=1)
    ax = show(mosaic)
    middles = width + 4 * space + centres(steps, width, space)
    places = [(width - 1) / 2, *middles, mosaic.shape[1] - (width + 1) / 2]
    labels = ["start", *(f"{step / max(steps - 1, 1):.2g}" for step in range(steps)), "end"]
    every = math.ceil(4 * 0.072 * (steps + 2) / inches(mosaic, rows, steps + 2)[0])
    shown = [0, *range(1, steps + 1, every), steps + 1]
    ax.set_xticks([places[i] for i in shown], [labels[i] for i in shown])
    ax.set_xlabel("share of the way between the codes")
    return fitted(ax, mosaic, rows, steps + 2)


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
        ValueError, TypeError: as :func:`image_grid`, and if the shapes do not fit.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> images = np.random.default_rng(0).random((2, 3, 4, 8, 8))  # two rows for each of three data, four draws
    >>> figure = plotting.resampled(images, images[0, :, 0], ["z2 held", "z1 and z2 drawn"])
    """
    tiles = as_grid(images, "images", "R, P, S", "row by datum by draw")
    count, blocks, draws, *event = tiles.shape
    data = as_images(originals, "originals")
    if data.shape != (blocks, *event):
        raise ValueError(
            f"originals are [P, C, H, W] = {list(data.shape)}; expected one for each block of the images, "
            f"{[blocks, *event]}"
        )
    if len(rows) != count:
        raise ValueError(f"rows names {len(rows)} rows, but images have {count}: [R, P, S, ...]")
    space, height = gap(event), event[1]
    columns = [
        apart([tile(datum, 1, draws), tile(block, count, draws)], 4 * space, axis=0)
        for datum, block in zip(data, tiles.swapaxes(0, 1), strict=True)
    ]
    mosaic = apart(columns, 4 * space, axis=1)
    ax = show(mosaic)
    ax.set_yticks([(height - 1) / 2, *(height + 4 * space + centres(count, height, space))], ["datum", *rows])
    if title:
        ax.set_title(title)
    return fitted(ax, mosaic, count + 1, blocks * draws)


@matplotlib.rc_context(STYLE)
@checked
def restorations(groups: Sequence[Mapping[str, ArrayLike]]) -> Figure:
    """Rows of images under each other, the same data in each column, in groups with space between them.

    Args:
        groups: by label the rows of each group, each [N, C, H, W] or [N, H, W], values in [0, 1]. Usually the originals
            by themselves, and then what became of them: degraded, restored by one method, by another.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if there are no rows, or they differ in their shape.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> x = np.random.default_rng(0).random((6, 8, 8))
    >>> figure = plotting.restorations([{"original": x}, {"noisy": x.clip(0.2, 1), "restored": x.clip(0.1, 0.9)}])
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


@matplotlib.rc_context(STYLE)
@checked(but=("images",))
def classes(images: ArrayLike, names: Sequence[Any], *, label: str = "class $c$") -> Figure:
    """A row for each class, a column for each draw.

    Args:
        images: [K, S, C, H, W] or [K, S, H, W], values in [0, 1]: class by draw; what ``diagnostics.sample_by_class``
            gives.
        names: [K], those of the classes.
        label: what the rows are.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if there are not K names.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> figure = plotting.classes(np.zeros((2, 5, 8, 8)), ["circle", "square"])  # two classes, five draws of each
    """
    tiles = as_grid(images, "images", "K, S", "class by draw")
    count, draws = tiles.shape[:2]
    if len(names) != count:
        raise ValueError(f"names are {len(names)}, but images have {count} rows: [K, S, ...]")
    mosaic = tile(tiles, count, draws)
    ax = show(mosaic)
    label_rows(ax, [str(name) for name in names], tiles.shape)
    ax.set_ylabel(label)
    return fitted(ax, mosaic, count, draws)


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
        ValueError, TypeError: as :func:`image_grid`, and if the shapes do not fit.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> samples, originals, analogies = np.zeros((2, 5, 8, 8)), np.zeros((3, 8, 8)), np.zeros((3, 2, 8, 8))
    >>> figure = plotting.classes_and_styles(samples, originals, analogies, classes=["circle", "square"])
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


@checked(but=("images", "fps", "scale"))
def animation(images: ArrayLike, path: str | os.PathLike[str], *, fps: float = 10, scale: int | None = None) -> Path:
    """Writes images as a GIF that runs in a loop, whole or not at all, and returns the path.

    Args:
        images: [T, C, H, W] or [T, H, W], values in [0, 1], a picture for each moment; or [T, N, C, H, W], N pictures
            at each moment, side by side as in :func:`image_grid`.
        path: ends in ``.gif``. A folder that is missing is made.
        fps: frames in a second, up to 50; GIF counts in hundredths of a second.
        scale: pixels of the GIF along a side of each pixel; by default so many that a frame is about 256 wide or high.

    Raises:
        ValueError, TypeError: as :func:`image_grid`, and if ``path`` has another ending, or a number is out of range.
        OSError: if the folder cannot be made or written to.

    >>> import tempfile, numpy as np
    >>> from pyro_vae import plotting
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plotting.animation(np.random.default_rng(0).random((5, 8, 8)), f"{folder}/moving.gif")
    >>> path.name
    'moving.gif'
    """
    from PIL import Image  # matplotlib needs it too, but most figures do not

    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path is {str(path)!r}; animation writes GIF, so give a name that ends in .gif")
    if not 0 < fps <= 50:
        raise ValueError(f"fps is {fps}; expected frames in a second, more than 0 and at most 50")
    if real(images, "images").ndim == 5:
        tiles = as_grid(images, "images", "T, N", "moment by picture")
    else:
        tiles = as_images(images, "images")[:, None]
    rows, columns = layout(tiles.shape[1], None, None, tiles.shape[-2] / tiles.shape[-1])
    mosaics = [tile(part, rows, columns) for part in tiles]
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
    return write_file(path, buffer.getvalue())
