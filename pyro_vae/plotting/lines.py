"""Numbers against a number: one or several panels of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter

from pyro_vae._checks import checked
from pyro_vae.plotting.arrays import check_finite, real
from pyro_vae.plotting.style import DASHED, INK, PAGE, STYLE, HouseFigure, color_and_marker, log_ticks, paper_style

Panel = Mapping[str, Sequence[Any]]


@matplotlib.rc_context(STYLE)
@checked
def lines(
    panels: Mapping[str, Panel],
    *,
    x: str,
    y: str,
    published: Mapping[str, Panel] | None = None,
    log: Literal["", "x", "y", "xy"] = "",
    title: str | None = None,
) -> Figure:
    """Panels of lines side by side, with one y axis, the same color for the same name, and one legend.

    A name that ends in ``", train"`` is drawn dashed, in the color of the name without it.

    Args:
        panels: title of the panel -> name of the line -> ``(x, y)`` or ``(x, y, error)``, arrays [P]; an error is a
            standard error, drawn as a bar of one on each side. One panel may have the title "".
        x: label of the x axes, with units.
        y: label of the y axis, with units.
        published: title of the panel -> label -> ``(x, y)``, drawn as markers.
        log: which axes are logarithmic.
        title: written above.

    Raises:
        ValueError: if there is nothing to draw, a line is empty, its lengths differ, or a number is not finite.

    >>> from pyro_vae import plotting
    >>> ours = {"AEVB": ([1, 2, 3], [-105, -101, -100]), "AEVB, train": ([1, 2, 3], [-104, -100, -98])}
    >>> figure = plotting.lines({"MNIST": ours}, x="epoch", y="bound (nats)")
    """
    if not panels or not any(panels.values()):
        raise ValueError('there is nothing to draw; give at least one line: {"": {"name": (x, y)}}')
    papers = published or {}
    unknown = [name for name in papers if name not in panels]
    if unknown:
        raise ValueError(f"published names the panel {unknown[0]!r}; the panels are {', '.join(map(repr, panels))}")
    names = list(dict.fromkeys(_base(name) for panel in panels.values() for name in panel))
    labels = list(dict.fromkeys(label for panel in papers.values() for label in panel))
    figure = HouseFigure(figsize=(6.4 if len(panels) == 1 else 8.4, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (heading, panel) in zip(axes, panels.items(), strict=True):
        ax.grid(True)
        for name, line in panel.items():
            at, values, error = _line(line, name)
            style = _style(names.index(_base(name)), name != _base(name))
            if error is None:
                ax.plot(at, values, **style)
            else:
                ax.errorbar(at, values, error, capsize=2, elinewidth=1, **style)
        for label, line in papers.get(heading, {}).items():
            at, values, _ = _line(line, label)
            ax.plot(at, values, **_paper(labels.index(label)))
        for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
            if axis.axis_name in log:
                scale("log")
                low, high = axis.get_view_interval()
                if high < 1000 * low:  # 10k in place of 10^4
                    log_ticks(axis)
                    axis.set_major_formatter(EngFormatter(sep="") if high >= 1000 else FuncFormatter(_plain))
        ax.set_xlabel(x)
        ax.set_title(heading)
    axes[0].set_ylabel(y)
    handles = [Line2D([], [], label=name, **_style(index, False)) for index, name in enumerate(names)]
    if any(name != _base(name) for panel in panels.values() for name in panel):
        handles.append(Line2D([], [], label="train", color=INK, linestyle=DASHED))
    handles += [Line2D([], [], label=label, **_paper(index)) for index, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside right upper")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _plain(value: float, position: int | None = None) -> str:
    return f"{value:g}"


def _base(name: str) -> str:
    return name.removesuffix(", train")


def _style(index: int, train: bool) -> dict[str, Any]:
    color, marker = color_and_marker(index)
    style: dict[str, Any] = {"color": color, "linestyle": DASHED if train else "-", "marker": marker, "markersize": 4}
    return {**style, "markerfacecolor": PAGE if train else color}


def _paper(index: int) -> dict[str, Any]:
    return paper_style("sD^vPX*o"[index % 8])


def _line(line: Sequence[Any], name: str) -> tuple[Any, Any, Any]:
    if len(line) not in (2, 3):
        raise ValueError(f"{name!r} has {len(line)} parts; expected (x, y) or (x, y, error)")
    parts = [real(part, f"{kind} of {name!r}").ravel() for part, kind in zip(line, ("x", "y", "error"), strict=False)]
    for part, kind in zip(parts, ("x", "y", "error"), strict=False):
        check_finite(part, f"{kind} of {name!r}")
    sizes = {part.size for part in parts}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"{name!r} has {' and '.join(str(p.size) for p in parts)} numbers; expected as many of each")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None
