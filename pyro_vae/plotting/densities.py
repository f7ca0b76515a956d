"""Densities of two variables, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae._checks import checked, is_number, shown
from pyro_vae.plotting.arrays import positive, shaped
from pyro_vae.plotting.style import SQUARE, STYLE, HouseFigure


@matplotlib.rc_context(STYLE)
@checked(but=("extent", "columns"))
def densities(
    panels: Mapping[str, ArrayLike], *, extent: float = 4.0, columns: int | None = None, title: str | None = None
) -> Figure:
    """Densities p(z_1, z_2) on a square grid as small pictures, one color scale for each: 0 is dark.

    Args:
        panels: name -> [H, W], values of at least 0 (no logarithms); the entry [i, j] is the density at the i-th value
            of z_2 and the j-th of z_1, both growing from -extent to extent.
        extent: half the side of the square, in units of z.
        columns: panels in a row; by default up to 4.
        title: written above.

    Raises:
        ValueError: if there are no panels, one is no such array, or ``extent`` is not positive.
        TypeError: if something is not numbers, or ``columns`` no whole number.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> z = np.linspace(-4, 4, 50)
    >>> normal = np.exp(-(z**2 + z[:, None] ** 2) / 2) / (2 * np.pi)
    >>> figure = plotting.densities({"N(0, I)": normal}, extent=4.0)
    """
    if not panels:
        raise ValueError('there is nothing to draw; give at least one density: {"name": values}')
    if not is_number(extent) or not 0 < float(extent) < math.inf:
        raise ValueError(f"extent is {shown(extent)}; expected half the side of the square, a positive number")
    extent = float(extent)
    columns = min(len(panels), 4 if columns is None else positive(columns, "columns"))
    rows = math.ceil(len(panels) / columns)
    side = min(1.9, 7.5 / columns)
    figure = HouseFigure(figsize=(columns * side + 0.7, rows * (side + 0.25) + (0.95 if title else 0.7)), layout=SQUARE)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (ax, (name, values)) in enumerate(zip(axes, panels.items(), strict=False)):
        density = shaped(values, f"the density {name!r}", (None, None), "[H, W], a square grid")
        if density.min() < 0:
            raise ValueError(f"the lowest value of the density {name!r} is {density.min():g}; expected at least 0")
        square = (-extent, extent, -extent, extent)
        ax.imshow(density, origin="lower", extent=square, aspect="equal", cmap="viridis", vmin=0.0)
        ax.set_title(name, fontsize=9)
        ax.spines[:].set_visible(False)
        ticks = [-extent / 2, 0.0, extent / 2]
        ax.set(xticks=ticks, yticks=ticks)
        if number + columns < len(panels):
            ax.set_xticklabels([])
        else:
            ax.set_xlabel("$z_1$")
        if number % columns:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel("$z_2$")
    for ax in axes[len(panels) :]:
        ax.remove()
    if title:
        figure.suptitle(title, fontsize=10)
    for _ in range(2):  # the layout of panels under a title settles at the second drawing
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
