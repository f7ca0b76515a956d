"""What the figures of several panels share, in the house style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter

from pyro_vae import plotting
from pyro_vae.plotting.style import DASHED, LINES, MUTED, STYLE, HouseFigure, paper_style
from pyro_vae.plotting.tiles import label_rows

TRAIN = DASHED

#: A decorator of functions that draw: titles and legends take their sizes when they are made.
styled = matplotlib.rc_context(STYLE)


@styled
def panels(rows: int, columns: int, title: str = "", **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes ``[rows, columns]``."""
    figure = HouseFigure(figsize=(1.9 + 2.6 * columns, 0.4 + 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.grid(True)
        ax.tick_params(labelleft=True)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes


def color(index: int) -> str:
    return LINES[index % len(LINES)]


def line(ax: Any, x: Sequence[float], y: Sequence[float | None], **style: Any) -> None:
    """A line, through what is not None; few points have a marker each."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if known:
        style = {"markersize": 4, "marker": "o" if len(known) <= 12 else "", **style}
        ax.plot(*zip(*known, strict=True), **style)


def published(ax: Any, x: Sequence[float], y: Sequence[float], marker: str = "o") -> None:
    """What a paper reports: open markers in ink."""
    ax.plot(x, y, **paper_style(marker))


def log_axis(ax: Any, label: str = "training samples seen") -> None:
    """A logarithmic x axis, with as many labels as fit a panel."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < 50 * low else (1.0, 3.0) if high < 500 * low else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter(sep="") if low > 100 else FormatStrFormatter("%g"))
    ax.set_xlabel(label)


def crop(axes: Sequence[Any]) -> None:
    """One y range for all of ``axes``, not squashed by first epochs: as plotting.learning_curves has it."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for ax in axes for line in ax.get_lines()]
    floors = [max(values.min(), 2 * np.quantile(values, 0.1) - values.max()) for values in drawn]
    low, high = min(floors), max(values.max() for values in drawn)
    margin = 0.05 * (high - low) or 1.0
    for ax in axes:
        ax.set_ylim(low - margin, high + margin)
        below = sum(int(np.sum(np.asarray(line.get_ydata()) < low - margin)) for line in ax.get_lines())
        if below:
            ax.annotate(
                f"{below} point{'s' * (below > 1)} below", (0.98, 0.02), xycoords="axes fraction", ha="right",
                fontsize=7, color=MUTED,
            )  # fmt: skip


def rows_of_images(ax: Any, rows: Mapping[str, Any], title: str) -> None:
    """Images ``[N, C, H, W]`` by the name of their row, in axes of their own."""
    shape = next(iter(rows.values())).shape
    plotting.image_grid(np.concatenate(list(rows.values())), rows=len(rows), columns=shape[0], ax=ax)
    label_rows(ax, list(rows), shape)
    ax.set_title(title)


@styled
def legend(
    figure: Figure,
    names: Sequence[str],
    dashed: str | None = None,
    solid: str | None = None,
    marked: str | None = None,
    marker: str = "o",
) -> None:
    """Names by color; then what is dashed, what is solid, and what the markers in ink are."""
    handles = [Line2D([], [], color=color(index), label=name) for index, name in enumerate(names)]
    if dashed is not None:
        handles.append(Line2D([], [], color=MUTED, linestyle=TRAIN, label=dashed))
    if solid is not None:
        handles.append(Line2D([], [], color=MUTED, label=solid))
    if marked is not None:
        handles.append(Line2D([], [], label=marked, **paper_style(marker)))
    figure.legend(handles=handles, loc="outside right upper")
