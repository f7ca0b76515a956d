"""What is asked of tensors, of their places and of modules, in sentences of one kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._checks import shown


def check_dense(t: Tensor, what: str) -> None:
    """Raises a ``TypeError`` if a tensor is sparse, nested, complex or quantized, or has no values."""
    if t.is_complex():
        raise TypeError(f"{what} is complex ({t.dtype}); pass real numbers, e.g. the two parts as two channels.")
    if t.is_quantized:
        raise TypeError(f"{what} is quantized ({t.dtype}); pass real numbers: x.dequantize().")
    if t.is_meta:
        raise TypeError(f"{what} is on the meta device, where a tensor has no values; give it on the CPU or a GPU.")
    if t.is_nested or t.layout != torch.strided:
        kind = "nested" if t.is_nested else str(t.layout).removeprefix("torch.")
        remedy = "torch.nested.to_padded_tensor(x, 0.0), beside the lengths" if t.is_nested else "x.to_dense()"
        raise TypeError(f"{what} is a {kind} tensor; a dense one was expected: {remedy}.")


def module_(**modules: Any) -> None:
    """Refuses what is no torch module, where another callable does not do.

    Raises:
        TypeError: naming the first that is none.
    """
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} has to be a torch module; got {shown(module)}.")


def device_(**devices: Any) -> None:
    """Refuses what is no place for tensors.

    Raises:
        ValueError: naming the first that is no device, or that torch does not see here.
    """
    for name, device in devices.items():
        try:
            kind = torch.device(device).type
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{name} is a torch device, such as 'cpu' or 'cuda'; got {shown(device)}.") from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"{name}={str(device)!r} is not there: torch sees no GPU. Leave {name} out to use the CPU."
            )
