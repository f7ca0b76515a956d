"""Gradient estimators, one below the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from pyro_vae._checks import checked, shown
from pyro_vae.plotting.arrays import Array, check_row, real
from pyro_vae.plotting.style import MUTED, PAGE, STYLE, HouseFigure, color_and_marker

_LABELS = {
    "variance": "variance of one gradient (nats² / unit²)",
    "snr": "signal-to-noise ratio",
    "bias": "bias (nats / unit)",
    "norm": "length of the mean gradient (nats / unit)",
    "seconds": "time of a gradient (s)",
    "variance_seconds": "variance × time (nats² s / unit²)",
    "variance_evaluations": "variance × evaluations (nats² / unit²)",
}


@matplotlib.rc_context(STYLE)
@checked(but=("rows",))
def gradients(
    rows: Sequence[Mapping[str, Any]],
    *,
    quantities: Sequence[str] = ("variance", "snr"),
    groups: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Gradient estimators, one below the other: a panel for each quantity, a color for each group of parameters.

    Axes are logarithmic. Bars are two standard errors of the logarithm on either side, where errors are known. What is
    zero or not finite has no point.

    Args:
        rows: a dictionary for each estimator and group, with the keys ``estimator``, ``group``, the quantities and,
            if known, their standard errors (``variance_error``): ``diagnostics.gradient_statistics(...).as_rows()``.
            Variances are in squared nats per squared unit of the parameters.
        quantities: the panels, from left to right; at most three.
        groups: those to draw. By default all, but for one that has the same numbers as one before it.
        title: written above the axes.

    Raises:
        ValueError: if there are no rows, a key or a group is missing, or a quantity has nothing to draw.
        TypeError: if rows are no dictionaries, or something is not a number.

    >>> from pyro_vae import plotting
    >>> rows = [
    ...     {"estimator": "SGVB_A", "group": "all", "variance": 4.0, "snr": 0.5},
    ...     {"estimator": "SGVB_B", "group": "all", "variance": 1.0, "snr": 1.0},
    ... ]
    >>> figure = plotting.gradients(rows)
    """
    if isinstance(rows, str) or not hasattr(rows, "__iter__"):
        raise TypeError(
            f"rows is of {type(rows).__name__}; expected a list of dictionaries, one for each estimator and group"
        )
    table = _table(rows, quantities)
    estimators = list(dict.fromkeys(estimator for estimator, _ in table))
    shown = _groups(table, groups)

    figure = HouseFigure(figsize=(8.0, 0), layout="constrained")
    figure.set_figheight(min(8.4, 0.9 + len(estimators) * (0.16 + 0.1 * len(shown))))
    axes = np.atleast_1d(figure.subplots(1, len(quantities), sharey=True))
    places = np.arange(len(estimators))
    for ax, quantity in zip(axes, quantities, strict=True):
        for i, group in enumerate(shown):
            found = [table.get((estimator, group), {}) for estimator in estimators]
            values, errors = (np.array([row.get(k, np.nan) for row in found]) for k in (quantity, f"{quantity}_error"))
            seen = np.isfinite(values) & (values > 0)
            bars = _bars(values[seen], np.where(np.isfinite(errors), errors, 0.0)[seen])
            offset = (i - (len(shown) - 1) / 2) * 0.7 / len(shown)
            style: dict[str, Any] = _style(i)
            ax.errorbar(values[seen], places[seen] + offset, xerr=bars, elinewidth=1, **style)
        if not any(container.lines[0].get_xdata().size for container in ax.containers):
            raise ValueError(f"no {quantity} is finite and above 0, so there is nothing to draw; leave it out")
        ax.set_xscale("log")
        _decades(ax.xaxis)
        ax.grid(True, axis="x")
        ax.set_xlabel(_LABELS.get(quantity, quantity.replace("_", " ")))
        for edge in places[1:] - 0.5:
            ax.axhline(edge, color=MUTED, linewidth=0.4, zorder=0)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, estimators)
    axes[0].set_ylim(len(estimators) - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=10)
    handles = [Line2D([], [], label=group, **_style(i)) for i, group in enumerate(shown)]
    figure.legend(handles=handles, loc="outside upper right", ncols=min(len(handles), 5))
    return figure


def _style(i: int) -> dict[str, Any]:
    color, marker = color_and_marker(i)
    return {"color": color, "marker": marker, "markersize": 4, "markeredgecolor": PAGE, "linestyle": ""}


def _bars(values: Array, errors: Array) -> Array:
    """``[2, E]``: two standard errors of the logarithm, below and above."""
    factor = np.exp(2 * errors / values)
    return np.stack([values - values / factor, values * factor - values])


def _decades(axis: Any) -> None:
    """Labels at the decades, or at 1, 2 and 5 of each where there are few."""
    low, high = axis.get_view_interval()
    many = high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0), numticks=8))
    plain = low >= 1e-3 and high <= 1e5
    axis.set_major_formatter("{x:g}" if plain else LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())


def _table(rows: Any, quantities: Sequence[str]) -> dict[tuple[str, str], dict[str, float]]:
    """(estimator, group) -> numbers, NaN for None."""
    if not isinstance(rows, Iterable) or not getattr(rows, "ndim", 1) or hasattr(rows, "layout"):  # of a tensor
        raise TypeError(f"rows is a list of dictionaries, as as_rows() gives; got {shown(rows)}.")
    if not 1 <= len(quantities) <= 3:
        raise ValueError(f"quantities are {len(quantities)}; expected 1 to 3, one for each panel")
    table = {}
    for row in rows:
        check_row(row, ("estimator", "group", *quantities), "a row")
        keys = [key for quantity in quantities for key in (quantity, f"{quantity}_error") if row.get(key) is not None]
        numbers = {key: float(real(row[key], key)) for key in keys}
        table[str(row["estimator"]), str(row["group"])] = numbers
    if not table:
        raise ValueError("rows is empty; give what gradient_statistics(...).as_rows() gives")
    return table


def _groups(table: Mapping[tuple[str, str], dict[str, float]], asked: Sequence[str] | None) -> list[str]:
    there: dict[str, Any] = {}
    for (estimator, group), numbers in table.items():
        there.setdefault(group, {})[estimator] = numbers
    if asked is None:
        return [group for i, group in enumerate(there) if there[group] not in list(there.values())[:i]]
    for group in asked:
        if group not in there:
            raise ValueError(f"no row has the group {group!r}; there are {', '.join(there)}")
    return list(asked)
