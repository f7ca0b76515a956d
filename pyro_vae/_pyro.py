"""What is private in torch and Pyro and needed here, each by a name of ours; tests/test_pyro.py has a test of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributions import Transform


def parts_of(transform: Transform) -> list[Transform]:
    """A ``Transform`` and all that are inside of it, however it holds them."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, (Transform, nn.Module)):
            if id(value) not in found:
                found[id(value)] = value
                visit(vars(value))
        elif isinstance(value, dict):
            visit(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                visit(part)

    visit(transform)
    return [part for part in found.values() if isinstance(part, Transform)]


@contextmanager
def forgetful(transform: Transform) -> Iterator[None]:
    """A ``Transform`` that knows no pair yet; afterwards it and its parts have the attributes that they had before.

    torch and Pyro keep the last pair, its log-determinant and an inverse in attributes of several names.
    """
    before = [(part, dict(vars(part))) for part in parts_of(transform)]
    for part, _ in before:
        part._cached_x_y = None, None
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
