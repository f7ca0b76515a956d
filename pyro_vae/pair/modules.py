"""Where the modules of plain functions are found."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def _modules_of(program: Any) -> list[nn.Module]:
    """The modules that a Python callable refers to, innermost containers first looked into."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(value: Any, home: str | None) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, functools.partial):
            visit_all([value.func, *value.args, *value.keywords.values()], home)
        elif inspect.ismethod(value):
            owner = value.__self__
            visit_all([owner] if isinstance(owner, nn.Module) else vars(owner).values(), home)
            visit(value.__func__, home)
        elif inspect.isfunction(value) and value.__module__ == (home or value.__module__):
            variables = inspect.getclosurevars(value)
            visit_all([*variables.nonlocals.values(), *variables.globals.values()], value.__module__)
        elif isinstance(value, (list, tuple)):
            visit_all(value, home)
        elif isinstance(value, dict):
            visit_all(value.values(), home)

    def visit_all(values: Iterable[Any], home: str | None) -> None:
        for value in values:
            visit(value, home)

    visit(program, None)
    return found


def _parameter_at(module: nn.Module, path: str) -> Tensor | None:
    *parts, name = path.split(".")
    part: nn.Module | None = module
    for child in parts:
        part = part._modules.get(child) if part is not None else None
    return None if part is None else part._parameters.get(name)
