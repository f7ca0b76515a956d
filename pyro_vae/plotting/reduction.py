"""Data in planes beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae.plotting.arrays import check_finite, real
from pyro_vae.plotting.latents import as_labels, scatter
from pyro_vae.plotting.style import SQUARE, STYLE, HouseFigure


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
    kinds = None if labels is None else as_labels(labels, count)
    figure = HouseFigure(figsize=(3.6 * len(panels) + (0.3 if kinds is None else 0.9), 3.9), layout=SQUARE)
    drawn = [figure.add_subplot(1, len(panels), place + 1, title=title) for place, title in enumerate(panels)]
    names = [axes[title] for title in panels]
    scatter(drawn, list(panels.values()), names, kinds, float(np.clip(8000 / count, 3, 24)))
    return figure
