"""What is given -> tensors of pixels, or a sentence that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

IN_MEMORY_LIMIT = 8 * 2**30  # bytes of one set that may be gathered into a Split; beyond it a DataLoader is asked for


def check_size(n_bytes: int, what: str) -> None:
    if n_bytes > IN_MEMORY_LIMIT:
        raise ValueError(
            f"{what} would take {n_bytes / 2**30:.1f} GiB in memory, more than the {IN_MEMORY_LIMIT / 2**30:.0f} GiB"
            " that a Split gathers; pass a torch DataLoader instead (it becomes a Stream), or for images a smaller"
            " image_size."
        )


def is_integer(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)


def dtypes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)


def tensor(value: Any, what: str) -> Tensor:
    """A tensor of the same numbers, sharing memory where torch can."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what} is a {type(value).__name__}; a torch tensor or numpy array was expected.")
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{what} is an array of dtype {value.dtype}; numbers were expected (bool, integer or float).")
    if value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(np.float64)
    # torch takes neither foreign byte order, nor negative strides, nor (without a warning) read-only memory
    return torch.from_numpy(np.require(value, value.dtype.newbyteorder("="), ["C", "W"]))


def pixels(x: Tensor, binarization: str, what: str) -> Tensor:
    """x as uint8 in 0..255 or finite float32."""
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty (shape {list(x.shape)}); at least one datum with one value is needed.")
    if x.dtype == torch.bool:
        return x.to(torch.float32)
    if x.is_complex():
        raise TypeError(f"{what} is complex ({x.dtype}); pass real numbers, e.g. the two parts as two channels.")
    if not x.is_floating_point():
        return _bytes(x, what)
    x = x.to(torch.float32)
    finite = torch.isfinite(x)
    if not finite.all():
        rows = (~finite).flatten(1).any(1) if x.dim() > 1 else ~finite
        raise ValueError(
            f"{what} has values that are not finite (NaN, infinity, or too large for float32) in {int(rows.sum())} of"
            f" {len(x)} data, the first at index {int(rows.nonzero()[0])}; drop or repair them."
        )
    if binarization != "none":
        low, high = (float(v) for v in x.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"{what} has float values from {low:.6g} to {high:.6g}, but binarization {binarization!r} reads"
                ' them as probabilities in [0, 1]. Scale them (x / 255), or pass uint8, or use binarization "none".'
            )
    return x


def _bytes(x: Tensor, what: str) -> Tensor:
    if x.dtype == torch.uint8:
        return x
    x = x.to(torch.int64)
    low, high = (int(v) for v in x.aminmax())
    if low < 0 or high > 255:
        raise ValueError(
            f"{what} holds integers from {low} to {high}; integer pixels must lie in 0..255. Scale them to 0..255,"
            " or convert to float (within [0, 1] if you binarize)."
        )
    return x.to(torch.uint8)


def images(x: Tensor, what: str) -> Tensor:
    """[N, D] and [N, C, H, W] as they are, [N, H, W] as [N, 1, H, W]."""
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
    return x.unsqueeze(1) if x.dim() == 3 else x
