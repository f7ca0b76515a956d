"""What is given -> tensors of numbers, or a sentence that says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._tensors import check_dense

IN_MEMORY_LIMIT = 8 * 2**30  # bytes of one set that may be gathered into a Split; beyond it a DataLoader is asked for


def not_held(n_bytes: int) -> bool:
    """Whether these are more bytes than a Split gathers."""
    return n_bytes > IN_MEMORY_LIMIT


def check_size(n_bytes: int, what: str) -> None:
    if not_held(n_bytes):
        raise ValueError(
            f"{what} would take {n_bytes / 2**30:.1f} GiB in memory, more than the {IN_MEMORY_LIMIT / 2**30:.0f} GiB"
            " that a Split gathers; pass a torch DataLoader instead (it becomes a Stream), a file, load(path,"
            " in_memory=False), or for images a smaller image_size."
        )


def is_integer(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)


def is_classes(t: Tensor) -> bool:
    """Whether these are a whole number for each datum, ``[N]``."""
    return t.dim() == 1 and is_integer(t)


def dtypes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)


def tensor(value: Any, what: str) -> Tensor:
    """A tensor of the same numbers, sharing memory where torch can; from an array, a table, or numbers in lists.

    Raises:
        TypeError: if it is nothing of that, or a sparse or nested tensor.
        ValueError: if it is a list whose rows are not of one shape.
    """
    if isinstance(value, Tensor):
        check_dense(value, what)
        unsigned = value.dtype in (torch.uint16, torch.uint32, torch.uint64)  # of which torch can do little
        return value.detach().long() if unsigned else value.detach()
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, Tensor) for row in value):
        if len({row.shape for row in value}) > 1:
            raise ValueError(
                f"{what} is a list of tensors that differ in shape. Several arguments are a tuple, (x, y)."
            )
        return torch.stack([row.detach() for row in value])
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "biuf" and np.ma.is_masked(value):
        value = np.ma.filled(value.astype(np.result_type(value.dtype, np.float32)), np.nan)  # what is masked is missing
    if not isinstance(value, (list, tuple)) and not hasattr(value, "__array__"):
        hint = " Give x.toarray(), which is dense." if hasattr(value, "toarray") else ""
        kind = type(value).__name__
        raise TypeError(f"{what} is a {kind}; a tensor, an array or a list of numbers was expected.{hint}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{what} is a list whose rows differ in shape. Pad or cut them to one shape.") from error
    if array.dtype == object:
        array = _of_objects(value, array)
    if array.dtype.kind not in "biuf":
        hint = " Leave out columns of text, or number their values." if array.dtype.kind in "OUST" else ""
        raise TypeError(
            f"{what} is an array of dtype {array.dtype}; numbers were expected (bool, integer or float).{hint}"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind == "u" and array.dtype.itemsize > 1:  # of which torch can do little
        array = array.astype(np.int64)
    # torch takes neither foreign byte order, nor negative strides, nor (without a warning) read-only memory
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _of_objects(value: Any, array: np.ndarray) -> np.ndarray:
    """Numbers that numpy has as objects: None and NA, which are NaN, beside them, or columns of several kinds."""
    try:
        found = value.to_numpy(na_value=np.nan) if hasattr(value, "to_numpy") else array
        is_text = any(isinstance(one, (str, bytes)) for one in found.flat)
        return array if is_text else found.astype(np.float64)
    except (TypeError, ValueError):  # of what is no number
        return array


def extremes(x: Any) -> tuple[float, float]:
    """The least and the greatest of numbers ``[N, *event]``, in memory or in a file, where not NaN; NaN of none."""
    parts = (part[~part.isnan()] if part.isnan().any() else part for part in x.split(4096)) if x.numel() else ()
    found = [part.aminmax() for part in parts if part.numel()]
    if not found:
        return math.nan, math.nan
    return float(torch.stack([one.min for one in found]).min()), float(torch.stack([one.max for one in found]).max())


def has_missing(x: Any) -> bool:
    """Whether some of numbers ``[N, *event]``, which may lie in a file, are NaN."""
    return x.dtype.is_floating_point and any(bool(part.isnan().any()) for part in x.split(4096))


def numbers(x: Tensor, binarization: str, what: str, missing: bool = False) -> Tensor:
    """x as it is kept: uint8, which are pixels, other integers, or finite floats of 32 or 64 bits; bool is 0 and 1.

    With ``missing`` NaN may stand for values that are missing.

    Raises:
        ValueError: if it is empty, not finite, or with a binarization not in [0, 1].
        TypeError: if it is complex.
    """
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty (shape {list(x.shape)}); at least one datum with one value is needed.")
    if x.is_complex():
        raise TypeError(f"{what} is complex ({x.dtype}); pass real numbers, e.g. the two parts as two channels.")
    if x.dtype == torch.uint8:
        return x
    if x.dtype == torch.bool or (x.element_size() < 4 and x.is_floating_point()):
        x = x.to(torch.float32)
    if missing and binarization == "none" and not x.isinf().any():
        return x
    if x.is_floating_point() and not (finite := torch.isfinite(x)).all():
        rows = (~finite).flatten(1).any(1) if x.dim() > 1 else ~finite
        raise ValueError(
            f"{what} has values that are not finite (NaN or infinity) in {int(rows.sum())} of {len(x)} data, the first"
            f" at index {int(rows.nonzero()[0])}; drop or repair them"
            f"{'' if missing else ', or say missing=True where the programs mask what is missing'}."
        )
    if binarization != "none":
        low, high = (float(v) for v in x.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"{what} has {'float' if x.is_floating_point() else 'integer'} values from {low:.6g} to {high:.6g}, but"
                f" binarization {binarization!r} reads them as probabilities in [0, 1]. Scale them (x / 255), or pass"
                ' uint8, or use binarization "none".'
            )
        x = x.to(torch.float32)
    return x


def check_pixels(x: Any, what: str) -> None:
    """Raises a ``ValueError`` if x is uint8 of nothing but 0 and 1, which are hardly meant as pixels of 0 to 255."""
    if x.dtype != torch.uint8 or not x.numel() or any(int(part.max()) > 1 for part in x.split(4096)):
        return  # of a file mostly after the first part
    if extremes(x)[1] == 1:
        raise ValueError(
            f"{what} holds only the integers 0 and 1, and uint8 is read as pixels of 0 to 255, of which they are two"
            " shades of black. For binary images pass booleans or floats, or multiply by 255; for numbers another"
            " integer type, such as int64."
        )


def images(x: Any, what: str) -> Any:
    """A file's x: [N, D] and [N, C, H, W] as they are, and [N, H, W] as [N, 1, H, W] where the values are of pixels.

    These are uint8, bool, or floats in [0, 1]; other numbers, [N, T, F], are sequences or tables.
    """
    shape = list(x.shape)
    if x.dim() not in (2, 3, 4):
        raise ValueError(
            f"{what} has shape {shape}; [N, D], [N, H, W] or [N, C, H, W] was expected. Reshape it, or make a"
            " Split(x) yourself, which takes any shape."
        )
    if x.dim() == 4 and shape[1] > 4 and shape[3] in (1, 3):
        raise ValueError(
            f"{what} has shape {shape}, which looks like [N, H, W, C]; images are [N, C, H, W] here. Move the channels"
            " first (x.transpose(0, 3, 1, 2) in numpy, x.permute(0, 3, 1, 2) in torch), or make a Split(x) yourself,"
            " which takes any shape."
        )
    if x.dim() != 3 or not (x.dtype in (torch.uint8, torch.bool) or (x.dtype.is_floating_point and _is_share(x))):
        return x
    return _with_channel(x) if isinstance(x, Tensor) else x.mapped(_with_channel)


def _with_channel(rows: Tensor) -> Tensor:
    return rows.unsqueeze(1)


def _is_share(x: Any) -> bool:
    low, high = extremes(x)
    return low >= 0 and high <= 1


def moments(x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of each number of ``x: [N, *event]``, in memory or in a file, where not NaN, ``[*event]`` each.

    The mean and the standard deviation, in float64, and whether it varies; where not, the deviation is 1.
    """
    rows = [_sums(part.double()) for part in x.split(4096)]
    count, total, high, low = (torch.stack(found) for found in zip(*rows, strict=True))
    count = count.sum(0).clamp(min=1)
    varies, loc = high.amax(0) > low.amin(0), total.sum(0) / count
    squares = torch.stack([((part.double() - loc) ** 2).nan_to_num().sum(0) for part in x.split(4096)]).sum(0)
    return loc, torch.where(varies, (squares / count).sqrt(), 1.0), varies


def _sums(rows: Tensor) -> tuple[Tensor, ...]:
    """Count, sum, greatest and least of each column, of what is not missing."""
    high, low = rows.nan_to_num(-math.inf).amax(0), rows.nan_to_num(math.inf).amin(0)
    return (~rows.isnan()).sum(0), rows.nan_to_num().sum(0), high, low
