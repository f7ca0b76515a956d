"""Where the modules of plain Python programs are found."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn


class ProgramModules:
    """The modules that two programs refer to, looked up anew at each question, since programs exchange them.

    Found is what Python lets one see of a callable: a function's closure and the globals that it names, and so on into
    functions of the same file; what a ``functools.partial`` binds; the object of a bound method (a module itself, of
    other objects the attributes); and lists, tuples and dictionaries of all these. Not found is what is kept in other
    objects' attributes, in sets, in default arguments, by functions of other files, and what is made while a program
    runs: it has to be given as ``others``.

    Args:
        model, guide: the programs.
        others: modules that they use and that are kept elsewhere.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], others: Iterable[nn.Module] = ()) -> None:
        self._programs, self._others = (model, guide), tuple(others)

    def reachable(self) -> list[nn.Module]:
        """The modules, those of ``others`` first."""
        found = [*self._others, *(module for program in self._programs for module in _modules_in(program))]
        return list({id(module): module for module in found}.values())

    def find(self, parameter: Tensor, path: str) -> nn.Module | None:
        """The module that has ``parameter`` at the dotted ``path``, or else the first that has it at all."""
        known = self.reachable()
        at_path = (part for module in known for part in module.modules() if _parameter_at(part, path) is parameter)
        anywhere = (module for module in known if any(other is parameter for other in module.parameters()))
        return next(itertools.chain(at_path, anywhere), None)

    def refer_to(self, module: nn.Module) -> bool:
        """Whether ``module`` is one of them, or a part of one."""
        return any(part is module for known in self.reachable() for part in known.modules())

    def in_functions(self) -> bool:
        """Whether a function refers to a module: a copy of the function would go on with the same one."""
        return any(not inspect.ismethod(program) and any(_modules_in(program)) for program in self._programs)


def _modules_in(program: Any) -> Iterator[nn.Module]:
    seen: set[int] = set()

    def visit(value: Any, file: str | None) -> Iterator[nn.Module]:
        if id(value) in seen:
            return
        seen.add(id(value))
        inside: Iterable[Any] = ()
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, functools.partial):
            inside = [value.func, *value.args, *value.keywords.values()]
        elif inspect.ismethod(value):
            owner = value.__self__
            inside = [*([] if isinstance(owner, nn.Module) else _attributes(owner)), owner, value.__func__]
        elif inspect.isfunction(value) and value.__module__ == (file or value.__module__):
            variables = inspect.getclosurevars(value)
            inside, file = [*variables.nonlocals.values(), *variables.globals.values()], value.__module__
        elif isinstance(value, (list, tuple)):
            inside = value
        elif isinstance(value, dict):
            inside = value.values()
        for part in inside:
            yield from visit(part, file)

    return visit(program, None)


def _attributes(owner: Any) -> Iterator[Any]:
    """The values of an object's attributes, also of those in slots."""
    with suppress(TypeError):  # an object without a dictionary
        yield from vars(owner).values()
    for kind in type(owner).__mro__:
        for slot in filter(inspect.ismemberdescriptor, vars(kind).values()):
            with suppress(AttributeError):  # a slot that is empty
                yield slot.__get__(owner)


def _parameter_at(module: nn.Module, path: str) -> Tensor | None:
    *parents, name = path.split(".")
    part: nn.Module | None = module
    for child in parents:
        part = part._modules.get(child) if part is not None else None
    return None if part is None else part._parameters.get(name)
