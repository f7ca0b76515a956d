"""Data in planes beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from pyro_vae.plotting.arrays import check_finite, real
from pyro_vae.plotting.latents import _classes, _labels, _name
from pyro_vae.plotting.style import CLASSES, LINES, SQUARE, STYLE, HouseFigure


@matplotlib.rc_context(STYLE)
def planes(
    points: Mapping[str, ArrayLike], labels: ArrayLike | None = None, *, axes: Mapping[str, tuple[str, str]]
) -> Figure:
    """The same data in several planes, a panel for each, with the labels' colors in common.

    Each panel has equal spans in both directions, so that distances in the picture are distances in the plane.

    Args:
        points: [N, 2] by title.
        labels: [N], as :func:`~pyro_vae.plotting.latent_scatter` takes them, or None.
        axes: what the two axes of each panel are, by title.

    Raises:
        ValueError: if there is no panel, the panels hold different numbers of points, a shape is another, the axes of
            a panel are not named, or something is not finite.
        TypeError: if points are not numbers.
    """
    panels = {title: real(value, title) for title, value in points.items()}
    if not panels:
        raise ValueError("planes has nothing to draw; give points [N, 2] for each title")
    count = len(next(iter(panels.values())))
    for title, value in panels.items():
        if value.ndim != 2 or value.shape != (count, 2) or not count:
            raise ValueError(
                f"the points of {title!r} have shape {list(value.shape)}; expected [N, 2], with the same N >= 1 in "
                "all panels"
            )
        if title not in axes:
            raise ValueError(f"axes names those of {', '.join(axes) or 'nothing'}; the panel {title!r} needs names too")
        check_finite(value, f"the points of {title!r}")
    kinds = None if labels is None else _labels(labels, count)
    classes = None if kinds is None else _classes(kinds)

    figure = HouseFigure(figsize=(3.6 * len(panels) + (0.3 if kinds is None else 0.9), 3.9), layout=SQUARE)
    style: dict[str, Any] = {"s": float(np.clip(8000 / count, 3, 24)), "linewidths": 0, "alpha": 0.8}
    if kinds is None:
        style["color"] = LINES[0]
    elif classes is not None:
        style["c"] = list(np.array(CLASSES)[np.searchsorted(classes, kinds)])
    else:
        style |= {"c": kinds.astype(float), "cmap": "viridis"}
    for place, (title, value) in enumerate(panels.items()):
        ax = figure.add_subplot(1, len(panels), place + 1)
        cloud = ax.scatter(value[:, 0], value[:, 1], **style)
        middle, half = (value.max(0) + value.min(0)) / 2, 0.55 * float(np.ptp(value, axis=0).max()) or 1.0
        ax.set_box_aspect(1)
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), title=title)
        ax.set_xlabel(axes[title][0])
        ax.set_ylabel(axes[title][1])
    if classes is not None:
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0}
        dots = [Line2D([], [], color=CLASSES[i], label=_name(c), **dot) for i, c in enumerate(classes)]
        ax.legend(handles=dots, loc="upper left", bbox_to_anchor=(1, 1), title="label", handletextpad=0.2)
    elif kinds is not None:
        bar = figure.colorbar(cloud, ax=figure.axes, label="label", pad=0.02)
        bar.outline.set_visible(False)
        bar.solids.set_alpha(1.0)  # type: ignore[union-attr]
    return figure
