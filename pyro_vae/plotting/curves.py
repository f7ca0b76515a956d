"""Learning curves: bounds against what was seen in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from pyro_vae._checks import checked
from pyro_vae.plotting.arrays import Array, check_finite, minus, real
from pyro_vae.plotting.style import (
    DASHED,
    INK,
    LINES,
    MUTED,
    PAGE,
    STYLE,
    HouseFigure,
    color_and_marker,
    log_ticks,
    paper_style,
)

_DASHES: dict[str, Any] = {"train": DASHED, "valid": "-"}
_FEW = 12  # points of a line up to which each has a marker


@matplotlib.rc_context(STYLE)
@checked(but=("curves",))
def learning_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]] | Mapping[str, ArrayLike]],
    *,
    x: str = "samples",
    published: Sequence[Mapping[str, Any]] | None = None,
    title: str | None = None,
) -> Figure:
    """Bounds against training samples seen: one color for each curve, train dashed and valid solid.

    What is None or not finite is left out and the line drawn through, so that a bound that was validated every tenth
    epoch is a line. The x axis is logarithmic when it spans more than a decade (an entry at zero has no place on it).

    The first epochs are often so bad that they would squash the rest. With q the 10 % quantile of a line's values and
    m their maximum, nothing below q - (m - q) sets the y range; the range always holds the upper 90 % of every line
    and everything published. A note above the axes tells how many points lie below the picture.

    Args:
        curves: name -> history. A history is a list of dictionaries, one for each epoch, or a dictionary of arrays
            [E], with the keys ``samples`` (training samples seen), ``epoch``, ``train`` and ``valid`` (bounds in nats
            per datum). One of ``train`` and ``valid`` may be missing.
        x: the key of the x axis: ``samples``, ``epoch``, or another key of the histories.
        published: what a paper reports, as dictionaries {label, x, y} (numbers or arrays of one length), drawn as
            markers; without ``x``, or with None, as a dotted line at y.
        title: written above the axes.

    Raises:
        ValueError: if there is no curve, a key is missing, lengths differ, or nothing is finite.
        TypeError: if ``curves`` is no dictionary, or a history none of the two kinds.

    >>> from pyro_vae import plotting
    >>> history = [{"samples": 1000 * n, "epoch": n, "train": -90 - 9 / n, "valid": -92 - 9 / n} for n in range(1, 6)]
    >>> figure = plotting.learning_curves({"my run": history}, published=[{"label": "paper", "y": -91.0}])
    """
    if not isinstance(curves, Mapping):
        raise TypeError(
            f"curves is a {type(curves).__name__}; expected a dictionary from names to histories: "
            'write {"my run": history}'
        )
    if not curves:
        raise ValueError('curves is empty; give at least one history: {"my run": history}')
    histories = {str(name): _history(history, str(name), x) for name, history in curves.items()}
    papers = [_published(entry) for entry in published or ()]
    series = [line for history in histories.values() for line in history.values()]

    figure = HouseFigure(figsize=(7.0, 3.8), layout="constrained")
    ax = figure.add_subplot()
    ax.grid(True)
    handles: list[Line2D] = []
    for i, (name, history) in enumerate(histories.items()):
        color, shape = color_and_marker(i)
        again = i >= len(LINES)  # the colors come back, with another marker
        for key, (at, values) in history.items():
            style: dict[str, Any] = _style(key, color, shape if again or len(at) <= _FEW else "")
            ax.plot(at, values, markevery=max(1, len(at) // _FEW), label=f"{name}, {key}", **style)
        handles.append(Line2D([], [], color=color, marker=shape if again else "", markersize=4, label=name))
    few = any(len(at) <= _FEW for at, _ in series)
    for key in ("train", "valid"):
        if any(key in history for history in histories.values()):
            handles.append(Line2D([], [], label=key, **_style(key, MUTED, "o" if few else "")))
    for i, (label, place, reported) in enumerate(papers):
        if place is None:
            style = {"color": INK, "linestyle": ":", "linewidth": 1.0 + 0.5 * (i % 3)}
            for value in reported:
                ax.axhline(value, **style)
        else:
            style = paper_style("osD^vPX*"[i % 8])
            ax.plot(place, reported, **style)
        handles.append(Line2D([], [], label=label, **style))

    places = np.concatenate([at for at, _ in series] + [at for _, at, _ in papers if at is not None])
    seen = places[places > 0]
    if seen.size and seen.max() > 10 * seen.min():
        ax.set_xscale("log")
        log_ticks(ax.xaxis)
    elif x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x == "samples":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel({"samples": "training samples seen"}.get(x, x))
    ax.set_ylabel("bound (nats per datum)")

    drawn = [values for _, values in series]
    ax.set_ylim(_y_range(drawn, [values for _, _, values in papers]))
    below = sum(int(np.count_nonzero(values < ax.get_ylim()[0])) for values in drawn)
    if below:
        points = "1 point" if below == 1 else f"{below} points"
        lowest = minus(f"{min(values.min() for values in drawn):.4g}")
        ax.set_title(f"{points} below the picture, lowest {lowest}", loc="right", fontsize=7.5, color=MUTED)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.legend(handles=handles, loc="outside right upper")
    figure.set_size_inches(7.0, max(3.8, 0.2 + 0.18 * len(handles)))
    return figure


def _style(key: str, color: str, marker: str) -> dict[str, Any]:
    face = PAGE if key == "train" else color
    return {"color": color, "linestyle": _DASHES[key], "marker": marker, "markersize": 4, "markerfacecolor": face}


def _y_range(lines: Sequence[Array], papers: Sequence[Array]) -> tuple[float, float]:
    """The y limits of :func:`learning_curves`."""
    tenths = [2 * float(np.quantile(values, 0.1)) - float(values.max()) for values in lines]
    floors = [max(float(values.min()), floor) for values, floor in zip(lines, tenths, strict=True)]
    low = min(floors + [float(values.min()) for values in papers])
    high = max(float(values.max()) for values in [*lines, *papers])
    margin = 0.05 * (high - low) or 0.05 * max(abs(high), 1.0)
    return low - margin, high + margin


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
    array = real(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {list(array.shape)}; expected [E], one number for each epoch")
    return array


def _published(entry: Any) -> tuple[str, Array | None, Array]:
    """The label, x (None for a line) and y of what a paper reports."""
    if not isinstance(entry, Mapping) or not {"label", "y"} <= set(entry):
        raise ValueError(f"a published entry is {entry!r}; expected a dictionary with label, x and y")
    label = str(entry["label"])
    values = np.atleast_1d(real(entry["y"], f"y of {label!r}"))
    check_finite(values, f"y of {label!r}")
    if entry.get("x") is None:
        return label, None, values.ravel()
    at = np.atleast_1d(real(entry["x"], f"x of {label!r}"))
    check_finite(at, f"x of {label!r}")
    if at.shape != values.shape or at.ndim != 1:
        raise ValueError(
            f"published {label!r} has x of shape {list(at.shape)} and y of {list(values.shape)}; "
            "expected two numbers, or two lists of one length"
        )
    return label, at, values
