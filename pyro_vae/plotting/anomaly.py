"""Anomaly detection: how well scores tell a class that was held out, and the scores themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae.plotting.arrays import Array, check_finite, minus, real, shaped
from pyro_vae.plotting.style import INK, LINES, MUTED, STYLE, HouseFigure


@matplotlib.rc_context(STYLE)
def held_out_classes(
    auroc: Mapping[str, ArrayLike],
    classes: Sequence[Any],
    scores: Mapping[str, tuple[ArrayLike, ArrayLike]],
    held_out: str,
) -> Figure:
    """The AUROC by held-out class and method, with the mean, above histograms of scores for one class.

    Args:
        auroc: method -> [C], one number in [0, 1] for each class.
        classes: the C classes that were held out.
        scores: method -> the scores of normal data [N] and of anomalous data [M], for a histogram each; the outermost
            0.5 % on each side are drawn in the last bins.
        held_out: which class the histograms are of; their scores are in nats.

    Raises:
        ValueError: if there is nothing to draw, lengths differ, or numbers are not finite or not in [0, 1].
    """
    if not auroc or not len(classes):
        raise ValueError('there is nothing to draw; give at least one method and class: {"method": [0.9]}, [3]')
    columns = {name: _areas(values, name, len(classes)) for name, values in auroc.items()}
    rows = 2 if scores else 1
    figure = HouseFigure(figsize=(7.4, 2.9 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, max(1, len(scores)))
    ax = figure.add_subplot(grid[0, :])
    ax.grid(True, axis="y")
    places = np.arange(len(classes) + 1.0)
    places[-1] += 0.5  # the mean stands apart
    for index, (name, values) in enumerate(columns.items()):
        shift = 0.1 * (index - (len(columns) - 1) / 2)
        style: Any = {"color": LINES[index % len(LINES)], "marker": "os^Dv*P"[index % 7], "markersize": 5}
        ax.plot(places + shift, [*values, values.mean()], linestyle="", label=minus(name), **style)
    ax.axvline(len(classes) - 0.25, color=MUTED, linewidth=0.8)
    ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
    ax.set_xticks(places, [*map(str, classes), "mean"])
    ax.set(xlabel="class held out of training", ylabel="AUROC, test data (0.5: chance)")
    figure.legend(loc="outside right upper")
    for column, (name, sides) in enumerate(scores.items()):
        below = figure.add_subplot(grid[1, column])
        _histogram(below, name, sides)
        below.set_xlabel(f"{minus(name)} (nats)")
        below.set_title(f"{held_out} held out")
        if column == 0:
            below.set_ylabel("density")
    if scores:
        handles, labels = below.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right lower")
    return figure


def _histogram(ax: Any, name: str, sides: tuple[ArrayLike, ArrayLike]) -> None:
    normal, anomalous = (real(side, f"the scores {name!r}").ravel() for side in sides)
    both = np.concatenate([normal, anomalous])
    if not normal.size or not anomalous.size:
        raise ValueError(f"the scores {name!r} are of {normal.size} normal and {anomalous.size} anomalous data")
    check_finite(both, f"the scores {name!r}")
    low, high = np.quantile(both, [0.005, 0.995])
    bins = int(np.clip(3 * np.sqrt(anomalous.size), 10, 40))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    for values, label, color in ((normal, "trained classes", INK), (anomalous, "held-out class", LINES[1])):
        clipped = values.clip(edges[0], edges[-1])
        ax.hist(clipped, edges, density=True, histtype="stepfilled", color=color, alpha=0.45, label=label)


def _areas(values: ArrayLike, name: str, count: int) -> Array:
    found = shaped(values, f"the AUROC of {name!r}", (count,), f"one for each of {count} classes")
    if found.min() < 0 or found.max() > 1:
        raise ValueError(f"the AUROC of {name!r} reaches from {found.min():g} to {found.max():g}; expected [0, 1]")
    return found
