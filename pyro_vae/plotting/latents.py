"""Data and codes in planes, and how much each latent unit is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from pyro_vae._checks import checked
from pyro_vae.plotting.arrays import Array, array, check_finite, real, shaped
from pyro_vae.plotting.style import CLASSES, LINES, SQUARE, STYLE, HouseFigure


@matplotlib.rc_context(STYLE)
def latent_scatter(codes: ArrayLike, labels: ArrayLike | None = None) -> Figure:
    """Latent codes in the plane: the two given dimensions, or for D > 2 the two leading principal components.

    Classes (words, truth values or whole numbers, at most 12 of them) get a color each and a legend; other numbers a
    color bar. Components come from a singular value decomposition of the centered codes, each with its sign such that
    its largest loading is positive; the axes tell their share of the variance.

    Args:
        codes: [N, D] with D >= 2, in latent units; usually the means of q(z | x).
        labels: [N], or None.

    Raises:
        ValueError: if the shape is another, D < 2, codes or labels are not finite, or there are more than 12 words.
        TypeError: if codes are not numbers.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> codes = np.random.default_rng(0).standard_normal((30, 2))
    >>> figure = plotting.latent_scatter(codes, labels=[0, 1, 2] * 10)
    """
    points = shaped(codes, "codes", (None, None), "[N, D] with N >= 1 and D >= 2")
    if points.shape[1] < 2:
        raise ValueError(f"codes: got shape {list(points.shape)}; expected [N, D] with D >= 2: draw a histogram")
    dims, names = points.shape[1], ["$z_1$", "$z_2$"]
    if dims > 2:
        points, share = _principal(points)
        names = [f"principal component {i + 1} of {dims} ({share[i]:.0%} of the variance)" for i in range(2)]
    kinds = None if labels is None else as_labels(labels, len(points))
    figure = HouseFigure(figsize=(4.7 if kinds is None else 5.4, 4.5), layout=SQUARE)
    scatter([figure.add_subplot()], [points], [(names[0], names[1])], kinds, float(np.clip(12000 / len(points), 4, 30)))
    return figure


@matplotlib.rc_context(STYLE)
@checked(but=("labels",))
def planes(
    points: Mapping[str, ArrayLike], labels: ArrayLike | None = None, *, axes: Mapping[str, tuple[str, str]]
) -> Figure:
    """The same data in several planes, a panel for each, with the labels' colors in common.

    Each panel has equal spans in both directions, so that distances in the picture are distances in the plane.

    Args:
        points: [N, 2] by title.
        labels: [N], as :func:`latent_scatter` takes them, or None.
        axes: what the two axes of each panel are, by title.

    Raises:
        ValueError: if there is no panel, the panels hold different numbers of points, a shape is another, the axes of
            a panel are not named, or something is not finite.
        TypeError: if points are not numbers.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> points = np.random.default_rng(0).standard_normal((30, 2))
    >>> axes = {"VAE": ("1", "2"), "turned": ("2", "1")}
    >>> figure = plotting.planes({"VAE": points, "turned": points[:, ::-1]}, axes=axes)
    """
    if not points:
        raise ValueError("planes has nothing to draw; give points [N, 2] for each title")
    panels: dict[str, Array] = {}
    count: int | None = None
    for title, value in points.items():
        what = f"the points of {title!r}"
        panels[title] = shaped(value, what, (count, 2), "[N, 2], with the same N >= 1 in all panels")
        count = len(panels[title])
        if title not in axes:
            raise ValueError(f"axes names those of {', '.join(axes) or 'nothing'}; the panel {title!r} needs names too")
    assert count is not None
    kinds = None if labels is None else as_labels(labels, count)
    figure = HouseFigure(figsize=(3.6 * len(panels) + (0.3 if kinds is None else 0.9), 3.9), layout=SQUARE)
    drawn = [figure.add_subplot(1, len(panels), place + 1, title=title) for place, title in enumerate(panels)]
    names = [axes[title] for title in panels]
    scatter(drawn, list(panels.values()), names, kinds, float(np.clip(8000 / count, 3, 24)))
    return figure


def scatter(
    axes: Sequence[Axes],
    panels: Sequence[Array],
    names: Sequence[tuple[str, str]],
    labels: NDArray[Any] | None,
    size: float,
) -> None:
    """Draws points [N, 2] in each of the axes, with the colors of :func:`as_labels` and one legend or color bar."""
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.8}
    classes = None if labels is None else _classes(labels)
    if labels is None:
        style["color"] = LINES[0]
    elif classes is not None:  # one call for all: no class lies on top of all others
        style["c"] = list(np.array(CLASSES)[np.searchsorted(classes, labels)])
    else:
        style |= {"c": labels.astype(float), "cmap": "viridis"}
    for ax, points, (first, second) in zip(axes, panels, names, strict=True):
        cloud = ax.scatter(points[:, 0], points[:, 1], **style)
        # A square of equal spans: distances in the picture are distances in the plane.
        middle, half = (points.max(0) + points.min(0)) / 2, 0.55 * float(np.ptp(points, axis=0).max()) or 1.0
        ax.set_box_aspect(1)
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
        ax.set_xlabel(first)
        ax.set_ylabel(second)
    if classes is not None:
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0}
        dots = [Line2D([], [], color=CLASSES[i], label=_name(c), **dot) for i, c in enumerate(classes)]
        ax.legend(handles=dots, loc="upper left", bbox_to_anchor=(1, 1), title="label", handletextpad=0.2)
    elif labels is not None:
        bar = ax.figure.colorbar(cloud, ax=list(axes), label="label", pad=0.02)
        bar.outline.set_visible(False)
        bar.solids.set_alpha(1.0)  # type: ignore[union-attr]


def _principal(codes: Array) -> tuple[Array, Array]:
    """The two leading principal components [N, 2] and their shares of the variance [2]."""
    centered = codes - codes.mean(0)
    _, scale, directions = np.linalg.svd(centered, full_matrices=False)
    if len(scale) < 2:  # one code: every direction is as good, and all of them give zero
        return np.zeros((len(codes), 2)), np.zeros(2)
    loadings = directions[:2]
    largest = np.abs(loadings).argmax(1)
    loadings = loadings * np.where(loadings[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    total = float((scale**2).sum())
    return centered @ loadings.T, scale[:2] ** 2 / total if total > 0 else np.zeros(2)


def as_labels(value: Any, count: int) -> NDArray[Any]:
    """[N] numbers, truth values or words, at most as many different words as there are colors."""
    labels = array(value, "labels")
    if labels.dtype.kind == "O" and all(isinstance(item, str) for item in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind not in "buifU":
        raise TypeError(f"labels have dtype {labels.dtype}; expected numbers, truth values or words")
    if labels.shape != (count,):
        raise ValueError(f"labels have shape {list(labels.shape)}; expected one for each of the codes, [{count}]")
    if labels.dtype.kind == "f":
        check_finite(labels, "labels")
    elif labels.dtype.kind == "U" and len(np.unique(labels)) > len(CLASSES):
        raise ValueError(
            f"labels are {len(np.unique(labels))} different words; at most {len(CLASSES)} can be told apart by color: "
            "join some of them, or give numbers for a color bar"
        )
    return labels


def _classes(labels: NDArray[Any]) -> NDArray[Any] | None:
    """The sorted classes, or None where the labels are numbers for a color bar."""
    classes = np.unique(labels)
    whole = labels.dtype.kind != "f" or bool((classes == np.round(classes)).all())
    return classes if whole and len(classes) <= len(CLASSES) else None


def _name(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)


@matplotlib.rc_context(STYLE)
def active_units(variances: ArrayLike, *, threshold: float = 0.01) -> Figure:
    """How far each latent unit moves with the data: Var_x(E_q[z_d | x]), sorted, on a log axis.

    A unit is active when Var_x(E_q[z_d | x]) > threshold. The title counts the active ones; a variance of exactly 0,
    which a log axis cannot show, has no bar. Up to 40 units are named below their bars, counted from 1.

    Args:
        variances: [D], at least 0, in squared latent units.
        threshold: positive.

    Raises:
        ValueError: if the shape is another, a variance is negative or not finite, or the threshold is 0 or less.
        TypeError: if something is not numbers.

    Source: Burda, Grosse and Salakhutdinov (2015), Section 5.2, where the threshold is 0.01.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> figure = plotting.active_units(np.array([2.0, 0.5, 0.001]))  # two of three are active
    """
    units = shaped(variances, "variances", (None,), "[D], one for each latent unit: flatten them, or draw each layer")
    if (units < 0).any():
        raise ValueError(f"the lowest of the variances is {units.min():g}; expected variances of at least 0")
    limit = real(threshold, "threshold")
    if limit.shape != () or not 0 < limit < math.inf:
        raise ValueError(f"threshold is {threshold}; expected one positive number, such as 0.01")
    threshold, count = float(limit), len(units)

    order = np.argsort(-units, kind="stable")
    heights = units[order]
    active, visible = heights > threshold, heights[heights > 0]
    figure = HouseFigure(figsize=(float(np.clip(2.2 + 0.16 * count, 3.6, 7.5)), 3.2), layout="constrained")
    ax = figure.add_subplot()
    ax.set_ylim(visible.min(initial=threshold / 3) / 3, visible.max(initial=threshold * 5) * 2)
    ax.set_yscale("log")
    places = np.arange(count) + 1
    ax.bar(places, heights, color=[LINES[0] if a else "#b8b8b8" for a in active], width=0.8)
    ax.axhline(threshold, color=LINES[1], linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    middle, half = (count + 1) / 2, max(count, 4) / 2 + 0.2
    ax.set_xlim(middle - half, middle + half)
    if count <= 40:
        ax.set_xticks(places, [str(d + 1) for d in order], fontsize=7 if count <= 25 else 6)
        ax.set_xlabel("latent unit $d$, sorted")
    else:
        ax.set_xlabel("rank of the latent unit")
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel(r"$\mathrm{Var}_x\,(\mathrm{E}_q[z_d\,|\,x])$, squared latent units")
    ax.set_title(f"{active.sum()} of {count} units active", loc="left")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure
