"""The house style, and figures that keep to it on screen and on disk."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

INK, MUTED, PAGE = "#222222", "#8a8a8a", "#ffffff"

#: Okabe and Ito's colors for lines (without black, and without yellow, which is lost on white).
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Petroff's ten colors (arXiv:2107.02270), picked for color-blind readers, and two more, for up to twelve classes.
CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59",
    "#e76300", "#b9ac70", "#717581", "#92dadd", "#117733", "#000000",
)  # fmt: skip

DASHED: Any = (0, (4, 2))  # what was trained on; the rest is solid

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "text.usetex": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": PAGE,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "figure.facecolor": PAGE,
    "image.interpolation": "antialiased",
    "image.origin": "upper",
    "savefig.bbox": None,
    "savefig.facecolor": "auto",
    "savefig.transparent": False,
}

#: The layout engine "constrained" moves axes of fixed aspect a little each time the figure is drawn, and cuts labels in
#: a figure that just holds them; "compressed" is its form for such axes, and does neither.
SQUARE: Any = "compressed"


def color_and_marker(index: int) -> tuple[str, str]:
    """Color and marker of a line; when the colors come back, with another marker."""
    return LINES[index % len(LINES)], "os^D"[index // len(LINES) % 4]


def paper_style(marker: str) -> dict[str, Any]:
    """The style of what a paper reports: open markers in ink."""
    style: dict[str, Any] = {"color": INK, "linestyle": "", "marker": marker, "markersize": 6}
    return {**style, "markerfacecolor": PAGE, "zorder": 3}


def log_ticks(axis: Any) -> None:
    """Labels at 1, 2 and 5 of each decade: matplotlib's own labels of minor ticks run into each other."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_formatter(NullFormatter())


class HouseFigure(Figure):
    """A matplotlib figure that is drawn in the house style and shows itself in a notebook, with pyplot or without."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context(STYLE):  # ticks are made when drawn, and read rcParams only then
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return png(self, dpi=100)


def png(figure: Figure, dpi: int) -> bytes:
    """The picture, without a date or a version in it."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure as a PNG of 150 dots per inch, whole or not at all, and returns the path.

    The picture goes to a temporary file in the same folder, which then takes the name: whoever reads ``path`` sees the
    old picture or the new one. The same figure gives the same bytes. A folder that is missing is made.

    Args:
        figure: what this room returns, or another matplotlib figure.
        path: ends in ``.png``.

    Raises:
        ValueError: if ``path`` has another ending.
        TypeError: if ``figure`` is no matplotlib figure.
        OSError: if the folder cannot be made or written to (a PermissionError where that is the cause).

    >>> import tempfile, numpy as np
    >>> from pyro_vae import plotting
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plotting.save(plotting.samples(np.zeros((4, 8, 8))), f"{folder}/figures/samples.png")
    >>> path.name
    'samples.png'
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is a {type(figure).__name__}; expected a matplotlib Figure, as this module returns")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path is {str(path)!r}; save writes PNG, so give a name that ends in .png")
    return write_file(path, png(figure, dpi=150))


def write_file(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, and returns its path."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # the error is that of writing
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(
            f"cannot write {path.name} to the folder {str(folder.absolute())!r} ({error.strerror or error}); "
            "give a path in a folder that you can write to"
        ) from error
    return path
