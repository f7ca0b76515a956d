"""Missing values: what stands for them, beside what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pyro_vae._checks import checked
from pyro_vae.plotting.arrays import check_finite, minus, real
from pyro_vae.plotting.style import INK, LINES, STYLE, HouseFigure


@matplotlib.rc_context(STYLE)
@checked
def observed_and_imputed(columns: Mapping[str, tuple[ArrayLike, ArrayLike]], kind: str = "draws") -> Figure:
    """Histograms of what was observed of each column, and of what stands for what is missing of it.

    Of draws, and where values are missing whatever they are, both are of one shape; means are narrower.

    Args:
        columns: by name the values that were observed and those that were imputed, any shape each.
        kind: what the imputed ones are, for the legend.

    Raises:
        ValueError: if there is no column, one of the two is empty, or numbers are not finite.

    >>> import numpy as np
    >>> from pyro_vae import plotting
    >>> rng = np.random.default_rng(0)
    >>> figure = plotting.observed_and_imputed({"age": (rng.normal(40, 9, 80), rng.normal(41, 9, 20))})
    """
    if not columns:
        raise ValueError("there is nothing to draw; give at least one column: {'age': (observed, imputed)}")
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure = HouseFigure(figsize=(max(1.9 * across, 4.0), 1.7 * down + 0.6), layout="constrained")
    handles: Any = ()
    for index, (name, sides) in enumerate(columns.items()):
        ax = figure.add_subplot(down, across, index + 1)
        parts = [real(side, f"column {name}").ravel() for side in sides]
        if not all(part.size for part in parts):
            raise ValueError(f"column {name} has {parts[0].size} observed and {parts[1].size} imputed values")
        both = np.concatenate(parts)
        check_finite(both, f"column {name}")
        low, high = np.quantile(both, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1.0, 21)
        style: Any = {"density": True, "histtype": "stepfilled", "alpha": 0.45}
        for part, label, color in zip(parts, ("observed", f"imputed, {kind}"), (INK, LINES[1]), strict=True):
            ax.hist(part.clip(edges[0], edges[-1]), edges.tolist(), label=label, color=color, **style)
        ax.set_title(minus(name) if not name.isdecimal() else f"column {name}")
        ax.tick_params(left=False, labelleft=False)
        handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or each drawing moves the axes a little
    return figure
