"""What is given -> numbers, or a sentence that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_vae._checks import shown

Array = NDArray[np.float64]


def array(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(
            f"{name} ({type(value).__name__}) cannot be read as an array: {error}; give an array, equally long lists, "
            "or a tensor after .detach().cpu().float()"
        ) from error


def real(value: Any, name: str) -> Array:
    found = array(value, name)
    if found.dtype.kind not in "buif":
        raise TypeError(f"{name}: got values of dtype {found.dtype}; expected real numbers")
    return found.astype(np.float64)


def check_finite(values: NDArray[Any], name: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{name} hold {bad} of {values.size} values that are NaN or infinite; expected finite values")


def shaped(value: Any, name: str, shape: Sequence[int | None], expected: str) -> Array:
    """Finite numbers of a shape, in which None is any size of at least 1; ``expected`` says it in words."""
    found = real(value, name)
    sizes = zip(found.shape, shape, strict=False)
    if found.ndim != len(shape) or not all(size and wanted in (None, size) for size, wanted in sizes):
        raise ValueError(f"{name}: got shape {list(found.shape)}; expected {expected}")
    check_finite(found, name)
    return found


def check_row(row: Any, keys: Collection[str], name: str) -> None:
    """Refuses what is no dictionary with these keys, as ``as_rows()`` gives them."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} is a {type(row).__name__}; expected a dictionary, as as_rows() gives")
    missing = sorted(set(keys) - set(row))
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}; it has {', '.join(sorted(map(str, row)))}")


def positive(value: Any, name: str) -> int:
    """``value`` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {shown(value)} ({type(value).__name__}); expected a whole number of at least 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of at least 1")
    return int(value)


def minus(text: str) -> str:
    """Numbers with the minus sign that matplotlib writes on its axes."""
    return text.replace("-", "\N{MINUS SIGN}")
