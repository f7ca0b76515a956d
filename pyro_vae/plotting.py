"""Arrays -> figures.

Every function takes what `numpy.asarray` takes (an array, nested lists, a CPU tensor without gradients) and returns a
`matplotlib.figure.Figure`. Pyplot is never imported, no backend is chosen and `matplotlib.rcParams` is left as it was.
A figure shows itself as the last expression of a notebook cell (or by `display(figure)`), and `save` writes it:

>>> import numpy as np
>>> from pyro_vae import plotting
>>> figure = plotting.samples(np.random.default_rng(0).random((16, 28, 28)))
>>> plotting.save(figure, "runs/samples.png")                                             # doctest: +SKIP

Images are [N, C, H, W] or [N, H, W] with C in {1, 3} and values in [0, 1]. Values that leave [0, 1] by at most half of
it (the mean of a Gaussian likelihood may) are clipped; values further out mean another scale, and are an error.
"""

from __future__ import annotations

import io
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "active_units",
    "image_grid",
    "latent_scatter",
    "learning_curves",
    "manifold",
    "manifold_grid",
    "reconstructions",
    "samples",
    "save",
    "traversals",
]

Array = NDArray[np.float64]

_INK, _MUTED, _PAGE = "#222222", "#8a8a8a", "#ffffff"

#: Okabe and Ito's colours for lines (without black, and without yellow, which is lost on white).
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Petroff's ten colours (arXiv:2107.02270), picked for colour-blind readers, and two more, for up to twelve classes.
_CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59",
    "#e76300", "#b9ac70", "#717581", "#92dadd", "#117733", "#000000",
)  # fmt: skip

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": _INK,
    "text.usetex": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.facecolor": _PAGE,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "figure.facecolor": _PAGE,
    "image.interpolation": "antialiased",
    "image.origin": "upper",
    "savefig.bbox": None,
    "savefig.facecolor": "auto",
    "savefig.transparent": False,
}


class _Figure(Figure):
    """A matplotlib figure that is drawn in the house style and shows itself in a notebook, with pyplot or without."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context(_STYLE):  # ticks are made when drawn, and read rcParams only then
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return _png(self, dpi=100)


# ---------------------------------------------------------------------------------------------------------------------
# images


@matplotlib.rc_context(_STYLE)
def image_grid(
    images: ArrayLike,
    *,
    columns: int | None = None,
    rows: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Images as one mosaic, row by row from the top left, with thin gaps between them.

    :param images: [N, C, H, W] or [N, H, W], C in {1, 3}, values in [0, 1].
    :param columns: images in a row. Without `columns` and `rows` the mosaic is about as wide as it is high.
    :param rows: rows of images.
    :param title: written above the mosaic.
    :param ax: draw there, and return the figure that it belongs to; by default a new figure.
    :raises ValueError: for another shape or scale, and when rows x columns is smaller than N.
    :raises TypeError: for what is not numbers, and for rows or columns that are not whole numbers.
    """
    tiles = _images(images, "images")
    count, _, height, width = tiles.shape
    rows, columns = _layout(count, rows, columns, height / width)
    mosaic = _mosaic(tiles, rows, columns)
    own = ax is None
    if ax is None:
        ax = _axes()
    _show(ax, mosaic)
    if title:
        ax.set_title(title)
    return _fitted(ax, mosaic, rows, columns) if own else cast(Figure, ax.figure.canvas.figure)


@matplotlib.rc_context(_STYLE)
def reconstructions(originals: ArrayLike, reconstructions: ArrayLike, *, count: int = 10) -> Figure:
    """Originals above their reconstructions, the first `count` of each (all of them, if there are fewer).

    :param originals: [N, C, H, W] or [N, H, W], values in [0, 1].
    :param reconstructions: the same shape; usually the mean of p(x | z) at z ~ q(z | x).
    :param count: how many pairs to draw.
    :raises ValueError: for two different shapes, or as `image_grid` does.
    :raises TypeError: for what is not numbers, and for a count that is not a whole number.
    """
    above, below = _images(originals, "originals"), _images(reconstructions, "reconstructions")
    if above.shape != below.shape:
        raise ValueError(
            f"originals are [N, C, H, W] = {list(above.shape)} and reconstructions {list(below.shape)}; "
            "give one reconstruction of the same shape for each original"
        )
    columns = min(_positive(count, "count"), len(above))
    tiles = np.concatenate([above[:columns], below[:columns]])
    mosaic = _mosaic(tiles, 2, columns)
    ax = _axes()
    _show(ax, mosaic)
    _label_rows(ax, ["original", "reconstruction"], tiles.shape)
    return _fitted(ax, mosaic, 2, columns)


def samples(images: ArrayLike) -> Figure:
    """Samples of the model as one mosaic.

    :param images: [N, C, H, W] or [N, H, W], values in [0, 1]; usually the mean of p(x | z) at z ~ p(z).
    :raises ValueError, TypeError: as `image_grid` does.
    """
    return image_grid(images, title="samples of the model")


def manifold_grid(side: int) -> Array:
    """The latent points of `manifold`: a square grid on the unit square through the inverse Gaussian CDF.

    Both coordinates take the values F^-1((i + 0.5) / side), i = 0 ... side - 1, with F the CDF of N(0, 1), so that the
    grid's cells are equally probable under the prior N(0, I). Source: Kingma and Welling (2014), Figure 4.

    :param side: points along a side, at least 1.
    :returns: [side * side, 2], the pairs (z_1, z_2), row by row in the order in which `manifold` draws them: the first
        row is the top of the picture, with the largest z_2, and z_1 grows from left to right.
    :raises ValueError, TypeError: when `side` is not a whole number of at least 1.
    """
    side = _positive(side, "side")
    quantile = np.array([NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)])
    z1, z2 = np.meshgrid(quantile, quantile[::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=1)


@matplotlib.rc_context(_STYLE)
def manifold(images: ArrayLike, *, side: int) -> Figure:
    """The learned two-dimensional manifold: p(x | z)'s means, laid out on the unit square of z's quantiles.

    Source: Kingma and Welling (2014), Figure 4.

    :param images: [side * side, C, H, W] or [side * side, H, W], values in [0, 1], ordered as `manifold_grid(side)` is.
    :param side: images along a side.
    :raises ValueError: when there are not side * side images, or as `image_grid` does.
    :raises TypeError: as `image_grid` does.
    """
    side = _positive(side, "side")
    tiles = _images(images, "images")
    if len(tiles) != side * side:
        raise ValueError(
            f"got {len(tiles)} images for side={side}; expected side * side = {side * side}, "
            "one for each point of manifold_grid(side)"
        )
    mosaic = _mosaic(tiles, side, side)
    # Half a gap of page around the mosaic puts the middle of tile i at (i + 0.5) / side, its quantile, to the pixel.
    half = _gap(tiles.shape) / 2
    high, wide = mosaic.shape[0] + 2 * half, mosaic.shape[1] + 2 * half
    x, y = half / wide, half / high
    ax = _axes()
    _show(ax, mosaic, extent=(x, 1 - x, y, 1 - y), aspect=high / wide)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 5), yticks=np.linspace(0, 1, 5))
    ax.tick_params(length=3)
    ax.set_xlabel("quantile of $z_1$ under N(0, 1)")
    ax.set_ylabel("quantile of $z_2$ under N(0, 1)")
    return _fitted(ax, mosaic, side, side, least=2.8)


@matplotlib.rc_context(_STYLE)
def traversals(images: ArrayLike, *, values: ArrayLike) -> Figure:
    """Latent traversals: each row moves one latent dimension through `values`, the others stay where they are.

    :param images: [D, V, C, H, W] or [D, V, H, W], values in [0, 1]: latent dimension by value of z.
    :param values: [V], the values of z, in latent units.
    :raises ValueError: for another shape or scale, and when there are not V values.
    :raises TypeError: for what is not numbers.
    """
    array = _numbers(images, "images")
    if array.ndim not in (4, 5) or 0 in array.shape:
        raise ValueError(
            f"images have shape {list(array.shape)}; expected [D, V, C, H, W] or [D, V, H, W], "
            "latent dimension by value of z, none of them empty"
        )
    dims, steps = array.shape[:2]
    points = _numbers(values, "values")
    if points.shape != (steps,):
        raise ValueError(
            f"values have shape {list(points.shape)} and images are [D, V, ...] = {list(array.shape)}; "
            f"expected one value of z for each column, [{steps}]"
        )
    tiles = _images(array.reshape(dims * steps, *array.shape[2:]), "images (of one traversal)")
    mosaic = _mosaic(tiles, dims, steps)
    ax = _axes()
    _show(ax, mosaic)
    _label_rows(ax, [f"$z_{{{d + 1}}}$" for d in range(dims)], tiles.shape)
    labels = [f"{v:.3g}".replace("-", "\N{MINUS SIGN}") for v in points]
    every = math.ceil(max(len(label) for label in labels) * 0.072 * steps / _inches(mosaic, dims, steps)[0])
    pitch = tiles.shape[3] + _gap(tiles.shape)
    centres = np.arange(steps) * pitch + (tiles.shape[3] - 1) / 2
    ax.set_xticks(centres[::every], labels[::every])
    ax.set_xlabel("value of $z_d$")
    return _fitted(ax, mosaic, dims, steps)


# ---------------------------------------------------------------------------------------------------------------------
# numbers


@matplotlib.rc_context(_STYLE)
def learning_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]] | Mapping[str, ArrayLike]],
    *,
    x: str = "samples",
    published: Sequence[Mapping[str, Any]] | None = None,
    title: str | None = None,
) -> Figure:
    """Bounds against training samples seen: one colour for each curve, train dashed and valid solid.

    What is None or not finite is left out and the line drawn through, so that a bound that was validated every tenth
    epoch is a line. The x axis is logarithmic when it spans more than a decade (an entry at zero has no place on it).

    The first epochs are often so bad that they would squash the rest. With q the 10 % quantile of a line's values and
    m their maximum, nothing below q - (m - q) sets the y range; the range always holds the upper 90 % of every line
    and everything published. A note above the axes tells how many points lie below the picture.

    :param curves: name -> history. A history is a list of dictionaries, one for each epoch, or a dictionary of arrays
        [E], with the keys `samples` (training samples seen), `epoch`, `train` and `valid` (bounds in nats per datum).
        One of `train` and `valid` may be missing.
    :param x: the key of the x axis: `samples`, `epoch`, or another key of the histories.
    :param published: what a paper reports, as dictionaries {label, x, y} (numbers or arrays of one length), drawn as
        markers; without `x`, or with None, as a dotted line at y.
    :param title: written above the axes.
    :raises ValueError: when there is no curve, a key is missing, lengths differ, or nothing is finite.
    :raises TypeError: when `curves` is no dictionary, or a history none of the two kinds.
    """
    if not isinstance(curves, Mapping):
        raise TypeError(
            f"curves is a {type(curves).__name__}; expected a dictionary from names to histories: "
            'write {"my run": history}'
        )
    if not curves:
        raise ValueError('curves is empty; give at least one history: {"my run": history}')
    lines = {str(name): _history(history, str(name), x) for name, history in curves.items()}
    papers = [_published(entry) for entry in published or ()]

    figure = _Figure(figsize=(7.0, 3.8), layout="constrained")
    ax = figure.add_subplot()
    ax.grid(True)
    handles: list[Line2D] = []
    for i, (name, series) in enumerate(lines.items()):
        colour = _LINES[i % len(_LINES)]
        shape = ("o", "s", "^", "D")[i // len(_LINES) % 4]  # the colours come back, with another marker
        for key, (at, values) in series.items():
            marker = shape if len(at) <= 12 or i >= len(_LINES) else ""
            ax.plot(
                at, values, color=colour, linestyle=_DASHES[key], marker=marker, markersize=4,
                markerfacecolor=_PAGE if key == "train" else colour, markevery=max(1, len(at) // 12),
                label=f"{name}, {key}",
            )  # fmt: skip
        handles.append(Line2D([], [], color=colour, marker=shape if i >= len(_LINES) else "", markersize=4, label=name))
    few = any(len(at) <= 12 for series in lines.values() for at, _ in series.values())
    for key in ("train", "valid"):
        if any(key in series for series in lines.values()):
            style: dict[str, Any] = {"color": _MUTED, "linestyle": _DASHES[key], "marker": "o" if few else ""}
            style |= {"markersize": 4, "markerfacecolor": _PAGE if key == "train" else _MUTED}
            handles.append(Line2D([], [], label=key, **style))
    for i, (label, place, reported) in enumerate(papers):
        if place is None:
            style = {"color": _INK, "linestyle": ":", "linewidth": 1.0 + 0.5 * (i % 3)}
            for value in reported:
                ax.axhline(value, **style)
        else:
            style = {"color": _INK, "linestyle": "", "marker": "osD^vPX*"[i % 8], "markerfacecolor": _PAGE}
            style |= {"markersize": 6, "zorder": 3}
            ax.plot(place, reported, **style)
        handles.append(Line2D([], [], label=label, **style))

    seen = [at for series in lines.values() for at, _ in series.values()]
    places = np.concatenate(seen + [at for _, at, _ in papers if at is not None])
    positive = places[places > 0]
    if positive.size and positive.max() > 10 * positive.min():
        ax.set_xscale("log")
    elif x == "samples":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    elif x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

    drawn = [values for series in lines.values() for _, values in series.values()]
    low, high, below = _y_range(drawn, [values for _, _, values in papers])
    ax.set_ylim(low, high)
    if below:
        points = "1 point" if below == 1 else f"{below} points"
        lowest = f"{min(values.min() for values in drawn):.4g}".replace("-", "\N{MINUS SIGN}")
        ax.set_title(f"{points} below the picture, lowest {lowest}", loc="right", fontsize=7.5, color=_MUTED)
    ax.set_xlabel({"samples": "training samples seen"}.get(x, x))
    ax.set_ylabel("bound (nats per datum)")
    if title:
        figure.suptitle(title, fontsize=10)
    figure.legend(handles=handles, loc="outside right upper")
    figure.set_size_inches(7.0, max(3.8, 0.2 + 0.18 * len(handles)))
    return figure


@matplotlib.rc_context(_STYLE)
def latent_scatter(codes: ArrayLike, labels: ArrayLike | None = None) -> Figure:
    """Latent codes in the plane: the two given dimensions, or for D > 2 the two leading principal components.

    Classes (words, truth values or whole numbers, at most 12 of them) get a colour each and a legend; other numbers a
    colour bar. Components come from a singular value decomposition of the centred codes, each with its sign such that
    its largest loading is positive; the axes tell their share of the variance.

    :param codes: [N, D] with D >= 2, in latent units; usually the means of q(z | x).
    :param labels: [N], or None.
    :raises ValueError: for another shape, D < 2, codes or labels that are not finite, and more than 12 words.
    :raises TypeError: for codes that are not numbers.
    """
    array = _numbers(codes, "codes")
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(
            f"codes have shape {list(array.shape)}; expected [N, D] with N >= 1 and D >= 2 "
            "(for one latent dimension, draw a histogram)"
        )
    _finite(array, "codes")
    dims = array.shape[1]
    if dims == 2:
        points, names = array, ["$z_1$", "$z_2$"]
    else:
        points, share = _principal(array)
        names = [f"principal component {i + 1} of {dims} ({share[i]:.0%} of the variance)" for i in range(2)]

    kinds = None if labels is None else _labels(labels, len(array))
    figure = _Figure(figsize=(4.7 if kinds is None else 5.4, 4.5), layout=_SQUARE)
    ax = figure.add_subplot()
    size = float(np.clip(12000 / len(points), 4, 30))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.8}
    if kinds is None:
        ax.scatter(points[:, 0], points[:, 1], color=_LINES[0], **style)
    elif (classes := _classes(kinds)) is not None:
        index = np.searchsorted(classes, kinds)
        colours = np.array(_CLASSES)[index]
        ax.scatter(points[:, 0], points[:, 1], c=list(colours), **style)  # one call: no class lies on top of all others
        dots = [
            Line2D([], [], linestyle="", marker="o", markersize=6, markeredgewidth=0, color=_CLASSES[i], label=_name(c))
            for i, c in enumerate(classes)
        ]
        ax.legend(handles=dots, loc="upper left", bbox_to_anchor=(1, 1), title="label", handletextpad=0.2)
    else:
        cloud = ax.scatter(points[:, 0], points[:, 1], c=kinds.astype(float), cmap="viridis", **style)
        bar = figure.colorbar(cloud, ax=ax, label="label", pad=0.02)
        bar.outline.set_visible(False)
        bar.solids.set_alpha(1.0)  # type: ignore[union-attr]
    # A square of equal spans: distances in the picture are distances in latent space.
    middle, half = (points.max(0) + points.min(0)) / 2, 0.55 * float(np.ptp(points, axis=0).max()) or 1.0
    ax.set_box_aspect(1)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return figure


@matplotlib.rc_context(_STYLE)
def active_units(variances: ArrayLike, *, threshold: float = 0.01) -> Figure:
    """How far each latent unit moves with the data: Var_x(E_q[z_d | x]), sorted, on a log axis.

    A unit is active when Var_x(E_q[z_d | x]) > threshold. The title counts the active ones; a variance of exactly 0,
    which a log axis cannot show, has no bar. Up to 40 units are named below their bars, counted from 1.
    Source: Burda, Grosse and Salakhutdinov (2015), Section 5.2, where the threshold is 0.01.

    :param variances: [D], at least 0, in squared latent units.
    :param threshold: positive.
    :raises ValueError: for another shape, a variance that is negative or not finite, and a threshold of 0 or less.
    :raises TypeError: for what is not numbers.
    """
    array = _numbers(variances, "variances")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"variances have shape {list(array.shape)}; expected [D], one for each latent unit: flatten them, "
            "or draw each layer for itself"
        )
    _finite(array, "variances")
    if (array < 0).any():
        raise ValueError(f"the lowest of the variances is {array.min():g}; expected variances of at least 0")
    limit = _numbers(threshold, "threshold")
    if limit.shape != () or not 0 < limit < math.inf:
        raise ValueError(f"threshold is {threshold}; expected one positive number, such as 0.01")
    threshold = float(limit)

    order = np.argsort(-array, kind="stable")
    heights = array[order]
    active = heights > threshold
    visible = heights[heights > 0]
    low, high = visible.min(initial=threshold / 3) / 3, visible.max(initial=threshold * 5) * 2
    figure = _Figure(figsize=(float(np.clip(2.2 + 0.16 * len(array), 3.6, 7.5)), 3.2), layout="constrained")
    ax = figure.add_subplot()
    ax.set_ylim(low, high)
    ax.set_yscale("log")
    places = np.arange(len(array)) + 1
    ax.bar(places, heights, color=[_LINES[0] if a else "#b8b8b8" for a in active], width=0.8)
    ax.axhline(threshold, color=_LINES[1], linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    middle, half = (len(array) + 1) / 2, max(len(array), 4) / 2
    ax.set_xlim(middle - half - 0.2, middle + half + 0.2)
    if len(array) <= 40:
        ax.set_xticks(places, [str(d + 1) for d in order], fontsize=7 if len(array) <= 25 else 6)
        ax.set_xlabel("latent unit $d$, sorted")
    else:
        ax.set_xlabel("rank of the latent unit")
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel(r"$\mathrm{Var}_x\,(\mathrm{E}_q[z_d\,|\,x])$, squared latent units")
    ax.set_title(f"{active.sum()} of {len(array)} units active", loc="left")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# files


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as a PNG of 150 dots per inch, whole or not at all, and return the path.

    The picture goes to a temporary file in the same folder, which then takes the name: whoever reads `path` sees the
    old picture or the new one. The file holds no date and no version, so the same figure gives the same bytes. A
    folder that is missing is made.

    :param path: ends in `.png`.
    :raises ValueError: for another ending.
    :raises TypeError: for what is not a matplotlib figure.
    :raises OSError: when the folder cannot be made or written to (a PermissionError where that is the cause).
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is a {type(figure).__name__}; expected a matplotlib Figure, as this module returns")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path is {str(path)!r}; save writes PNG, so give a name that ends in .png")
    picture = _png(figure, dpi=150)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_bytes(picture)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path.name} to the folder {str(folder.absolute())!r} ({error.strerror or error}); "
            "give a path in a folder that you can write to",
        ) from error
    return path


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# what is given


def _numbers(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(
            f"{name} ({type(value).__name__}) cannot be read as an array: {error}; give an array, equally long lists, "
            "or a tensor after .detach().cpu().float()"
        ) from error
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name}: got values of dtype {array.dtype}; expected real numbers")
    return array.astype(np.float64)


def _finite(array: Array, name: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} hold {bad} of {array.size} values that are NaN or infinite; expected finite values")


def _positive(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a whole number of at least 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of at least 1")
    return int(value)


def _images(value: Any, name: str) -> Array:
    """[N, C, H, W] in [0, 1] from [N, C, H, W] or [N, H, W]."""
    array = _numbers(value, name)
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
            f"expected 1 (grey) or 3 (RGB){hint}"
        )
    _finite(array, name)
    low, high = array.min(), array.max()
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{name} have values from {low:g} to {high:g}; expected [0, 1]: divide bytes by 255, "
            "or clip what is meant to lie outside"
        )
    return array.clip(0.0, 1.0)


def _labels(value: Any, count: int) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"labels ({type(value).__name__}) cannot be read as an array: {error}") from error
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "buifUS":
        raise TypeError(f"labels have dtype {array.dtype}; expected numbers, truth values or words")
    if array.shape != (count,):
        raise ValueError(f"labels have shape {list(array.shape)}; expected one for each of the codes, [{count}]")
    if array.dtype.kind == "f":
        _finite(array, "labels")
    elif array.dtype.kind in "US" and len(np.unique(array)) > len(_CLASSES):
        raise ValueError(
            f"labels are {len(np.unique(array))} different words; at most {len(_CLASSES)} can be told apart by colour: "
            "join some of them, or give numbers for a colour bar"
        )
    return array


def _classes(labels: NDArray[Any]) -> NDArray[Any] | None:
    """The sorted classes, or None where the labels are numbers for a colour bar."""
    classes = np.unique(labels)
    whole = labels.dtype.kind != "f" or bool((classes == np.round(classes)).all())
    return classes if whole and len(classes) <= len(_CLASSES) else None


def _name(label: Any) -> str:
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return f"{label:g}" if isinstance(label, float) else str(label)


def _history(history: Any, name: str, x: str) -> dict[str, tuple[Array, Array]]:
    """{"train": (x [E], bound [E]), "valid": ...}, each sorted as given and without what is not finite."""
    if isinstance(history, Mapping):
        table = dict(history)
    elif isinstance(history, Sequence) and all(isinstance(entry, Mapping) for entry in history):
        keys = {key for entry in history for key in entry}
        table = {key: [entry.get(key) for entry in history] for key in keys & {x, "train", "valid"}}
    else:
        raise TypeError(
            f"the history of {name!r} is a {type(history).__name__}; expected a list of dictionaries, one for each "
            "epoch, or a dictionary of arrays"
        )
    if x not in table:
        have = ", ".join(sorted(map(str, table))) or "nothing"
        raise ValueError(f"the history of {name!r} has no {x!r} (it has {have}); give it, or choose another x")
    at = _column(table[x], f"{x} of {name!r}")
    result = {}
    for key in ("train", "valid"):
        if table.get(key) is None:
            continue
        values = _column(table[key], f"{key} of {name!r}")
        if values.shape != at.shape:
            raise ValueError(
                f"{key} of {name!r} has {values.size} values and {x} has {at.size}; expected one bound for each"
            )
        known = np.isfinite(values) & np.isfinite(at)
        if known.any():
            result[key] = (at[known], values[known])
    if not result:
        raise ValueError(
            f"the history of {name!r} has no finite value of train or valid, so there is nothing to draw; leave it out"
        )
    return result


def _column(values: Any, name: str) -> Array:
    """[E] with NaN for None."""
    if isinstance(values, (list, tuple)):
        values = [math.nan if value is None else value for value in values]
    array = _numbers(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {list(array.shape)}; expected [E], one number for each epoch")
    return array


def _published(entry: Any) -> tuple[str, Array | None, Array]:
    if not isinstance(entry, Mapping) or not {"label", "y"} <= set(entry):
        raise ValueError(f"a published entry is {entry!r}; expected a dictionary with label, x and y")
    values = np.atleast_1d(_numbers(entry["y"], f"y of {entry['label']!r}"))
    _finite(values, f"y of {entry['label']!r}")
    if entry.get("x") is None:
        return str(entry["label"]), None, values.ravel()
    at = np.atleast_1d(_numbers(entry["x"], f"x of {entry['label']!r}"))
    _finite(at, f"x of {entry['label']!r}")
    if at.shape != values.shape or at.ndim != 1:
        raise ValueError(
            f"published {entry['label']!r} has x of shape {list(at.shape)} and y of {list(values.shape)}; "
            "expected two numbers, or two lists of one length"
        )
    return str(entry["label"]), at, values


# ---------------------------------------------------------------------------------------------------------------------
# what is drawn

# The layout engine "constrained" moves axes of fixed aspect a little each time the figure is drawn, and cuts labels in
# a figure that just holds them; "compressed" is its form for such axes, and does neither.
_SQUARE: Any = "compressed"

_DASHES: dict[str, Any] = {"train": (0, (4, 2)), "valid": "-"}


def _y_range(lines: Sequence[Array], papers: Sequence[Array]) -> tuple[float, float, int]:
    """The y limits of `learning_curves`, and how many points lie below them."""
    floors, tops = [], []
    for values in lines:
        top, tenth = float(values.max()), float(np.quantile(values, 0.1))
        floors.append(max(float(values.min()), tenth - (top - tenth)))
        tops.append(top)
    low = min(floors + [float(values.min()) for values in papers])
    high = max(tops + [float(values.max()) for values in papers])
    margin = 0.05 * (high - low) or 0.05 * max(abs(high), 1.0)
    low, high = low - margin, high + margin
    return low, high, sum(int(np.count_nonzero(values < low)) for values in lines)


def _principal(codes: Array) -> tuple[Array, Array]:
    """The two leading principal components [N, 2] and their shares of the variance [2]."""
    centred = codes - codes.mean(0)
    _, scale, directions = np.linalg.svd(centred, full_matrices=False)
    if len(scale) < 2:  # one code: every direction is as good, and all of them give zero
        return np.zeros((len(codes), 2)), np.zeros(2)
    loadings = directions[:2]
    largest = np.abs(loadings).argmax(1)
    loadings = loadings * np.where(loadings[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    total = float((scale**2).sum())
    return centred @ loadings.T, scale[:2] ** 2 / total if total > 0 else np.zeros(2)


def _layout(count: int, rows: int | None, columns: int | None, shape: float) -> tuple[int, int]:
    rows = None if rows is None else _positive(rows, "rows")
    columns = None if columns is None else _positive(columns, "columns")
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


def _gap(shape: tuple[int, ...]) -> int:
    """Pixels between tiles [N, C, H, W]: one, and one more for every 28 of their size."""
    return max(1, round(min(shape[2:]) / 28))


def _mosaic(tiles: Array, rows: int, columns: int) -> Array:
    """[N, C, H, W] -> [rows * (H + gap) - gap, columns * (W + gap) - gap] (x 3); what is free is white."""
    count, channels, height, width = tiles.shape
    gap = _gap(tiles.shape)
    cells = np.ones((rows * columns, channels, height + gap, width + gap))
    cells[:count, :, :height, :width] = tiles
    cells = cells.reshape(rows, columns, channels, height + gap, width + gap).transpose(0, 3, 1, 4, 2)
    mosaic = cells.reshape(rows * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]
    return mosaic[..., 0] if channels == 1 else mosaic


def _inches(mosaic: Array, rows: int, columns: int, least: float = 0.0) -> tuple[float, float]:
    """The width and height of a mosaic on paper: tiles of about 0.6 inches, and a mosaic that fits on a page."""
    high, wide = mosaic.shape[:2]
    scale = (0.62 if max(rows, columns) > 2 else 1.1) / max(high / rows, wide / columns)
    scale = min(max(scale, least / max(high, wide)), 6.5 / wide, 7.0 / high)
    return wide * scale, high * scale


def _axes() -> Axes:
    return _Figure(figsize=(9.0, 9.0), layout=_SQUARE).add_subplot()


def _fitted(ax: Axes, mosaic: Array, rows: int, columns: int, least: float = 0.0) -> Figure:
    """The figure of `ax`, cut to the size of the mosaic on paper and of the labels around it."""
    figure = cast(Figure, ax.figure)
    figure.draw_without_rendering()
    inner, outer = ax.get_window_extent(), ax.get_tightbbox() or ax.get_window_extent()
    wide, high = _inches(mosaic, rows, columns, least)
    wide += (outer.width - inner.width) / figure.dpi
    high += (outer.height - inner.height) / figure.dpi
    text = max(ax.title.get_window_extent().width, ax.xaxis.label.get_window_extent().width) / figure.dpi
    figure.set_size_inches(max(wide, text) + 0.12, high + 0.12)
    return figure


def _show(ax: Axes, mosaic: Array, **where: Any) -> None:
    ax.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, **where)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _label_rows(ax: Axes, labels: Sequence[str], shape: tuple[int, ...]) -> None:
    height = shape[2]
    ax.set_yticks(np.arange(len(labels)) * (height + _gap(shape)) + (height - 1) / 2, labels)
