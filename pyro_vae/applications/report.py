"""What an application leaves: a table to print, and files of numbers and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plotting
from pyro_vae._files import write_text


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns: text to the left and numbers to the right, as ``str`` gives them, ``None`` as a dash.

    >>> print(table(("method", "AUROC", "seconds"), [("PCA", "0.91", 3), ("VAE", "0.954", None)]))
    method  AUROC  seconds
    PCA      0.91        3
    VAE     0.954        -

    Raises:
        ValueError: if a row has another number of cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"the row {tuple(row)} has {len(row)} cells and the header {len(header)}: give as many.")
    columns = []
    for name, *values in zip(header, *rows, strict=True):
        cells = ["-" if value is None else str(value) for value in values]
        width = max(map(len, (name, *cells)))
        right = any(map(_is_number, cells)) and all(cell == "-" or _is_number(cell) for cell in cells)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in (name, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _is_number(cell: str) -> bool:
    try:
        float(cell.split(" ")[0].replace(",", "").rstrip("%"))  # also "91.2 %" and "0.93 (0.01)"
    except ValueError:
        return False
    return True


def write(out: Path, name: str, numbers: dict[str, Any], figures: Mapping[str, Figure]) -> list[Path]:
    """Writes ``out/NAME.json`` and the figures, each whole or not at all.

    Args:
        out: folder; made if it is not there.
        name: of the application.
        numbers: what JSON can hold, arrays and tensors.
        figures: the one called ``name`` (or ``""``) becomes ``out/NAME.png``, another one ``out/NAME_KEY.png``.

    Returns:
        The paths, that of the numbers first.

    Raises:
        OSError: if the folder cannot be written to.
    """
    out = Path(out)
    path = out / f"{name}.json"
    write_text(path, json.dumps(numbers, indent=1, default=_listed) + "\n")
    stems = {key: name if key in ("", name) else f"{name}_{key}" for key in figures}
    return [path, *(plotting.save(figure, out / f"{stems[key]}.png") for key, figure in figures.items())]


def _listed(value: Any) -> Any:
    """An array, a number of numpy's, a tensor or a path as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be written as JSON: give numbers, text, lists, dictionaries, arrays or tensors.")
