"""What the laws compare: runs at equal seeds, gradients, and means of random draws."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def seeded(seed: int, call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)`` after ``torch.manual_seed(seed)``.

    >>> import torch
    >>> from pyro_vae.testing import seeded
    >>> torch.equal(seeded(0, torch.randn, 3), seeded(0, torch.randn, 3))
    True
    """
    torch.manual_seed(seed)
    return call(*args)


def gradients(pair: nn.Module, loss: Callable[[], Any], seed: int = 1) -> dict[str, Tensor]:
    """The gradients that ``loss()`` leaves behind, or those of the tensor that it gives, by name of the parameter.

    >>> import torch
    >>> from pyro_vae.testing import gradients
    >>> layer = torch.nn.Linear(2, 1)
    >>> gradients(layer, lambda: layer(torch.ones(1, 2)).sum())["weight"]
    tensor([[1., 1.]])
    """
    pair.zero_grad()
    value = seeded(seed, loss)
    if isinstance(value, Tensor):
        value.backward()
    return {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Tensors by name are equal, and there are some; a difference is said with its name.

    >>> import torch
    >>> from pyro_vae.testing import assert_same
    >>> assert_same({"loc": torch.ones(2)}, {"loc": torch.ones(2) + 1e-7})
    """
    assert ours.keys() == theirs.keys()
    assert ours
    for name in ours:
        said = functools.partial("{}: {}".format, name)
        torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=atol, msg=said)


def assert_mean(draws: Tensor, expected: Tensor | float, errors: float = 4.5) -> None:
    """The mean of independent ``draws`` is ``expected``, which is told from zero, within its standard error.

    >>> import torch
    >>> from pyro_vae.testing import assert_mean
    >>> seed = torch.manual_seed(0)
    >>> assert_mean(torch.randn(10_000) + 2, 2.0)
    """
    mean, error = draws.mean().item(), (draws.std() / math.sqrt(len(draws))).item()
    assert abs(mean - float(expected)) < errors * error, f"{mean} +- {error}, expected {float(expected)}"
    assert abs(float(expected)) > 2 * errors * error, f"{mean} +- {error} cannot be told from zero"


def assert_means_equal(one: Tensor, other: Tensor, errors: float = 4.5) -> None:
    """Two samples, drawn independently, have one mean, which is told from zero.

    >>> import torch
    >>> from pyro_vae.testing import assert_means_equal
    >>> seed = torch.manual_seed(0)
    >>> assert_means_equal(torch.randn(10_000) + 2, 2 * torch.rand(10_000) + 1)
    """
    error = math.sqrt((one.var() / len(one) + other.var() / len(other)).item())
    difference = (one.mean() - other.mean()).item()
    assert abs(difference) < errors * error, f"{difference} +- {error}"
    assert abs(other.mean().item()) > 2 * errors * error, f"{other.mean().item()} +- {error} cannot be told from zero"
