"""Where the modules of plain Python programs are found."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._pyro import announced, full_name, handled, share_context

_OF_MODULES = frozenset(vars(nn.Module()))  # what each module has: parameters, parts, hooks


class ProgramModules:
    """The modules that two programs refer to, looked up anew at each question, since programs exchange them.

    Found is what Python lets one see of a callable: what a function's closure and default arguments hold, the globals
    that it names, and so on into functions of the same file and into what it wraps; what a ``functools.partial`` binds,
    and a handler of Pyro's, such as ``poutine.reparam``; the attributes of a callable object, of a bound method's
    object, and of a module; and lists, tuples, sets and dictionaries of all these. Not found is what is kept in other
    objects' attributes, by functions of other files that are called by a global name, and what is made while a program
    runs: it has to be given as ``others``.

    Args:
        model, guide: the programs.
        others: modules that they use and that are kept elsewhere.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], others: Iterable[nn.Module] = ()) -> None:
        self._programs, self._others = (model, guide), tuple(others)

    def reachable(self) -> list[nn.Module]:
        """The modules, those of ``others`` first."""
        found = [*self._others, *(module for program in self._programs for module, _ in _modules_in(program))]
        return list({id(module): module for module in found}.values())

    def programs(self) -> dict[str, nn.Module]:
        """The programs that are ``PyroModule`` themselves, also inside of handlers and ``functools.partial``."""
        found = {name: _innermost(program) for name, program in zip(("model", "guide"), self._programs, strict=True)}
        return {name: program for name, program in found.items() if isinstance(program, PyroModule)}

    def find(self, name: str, parameter: Tensor) -> tuple[str, nn.Module] | None:
        """The module that has a ``parameter`` which a program announces as ``name``, and what to call the module.

        It is the one that ``pyro.module`` names; of a ``PyroModule``, which announces what is read of it, the
        outermost; and otherwise the module of which the parameter is an attribute.
        """
        known = [part for module in self.reachable() for part in module.modules()]
        called, path = announced(name)
        named = next((part for part in known if path and _parameter_at(part, path) is parameter), None)
        owner = next((part for part in known if any(p is parameter for p in part._parameters.values())), None)
        if owner is None:
            return None
        for root in (part for part in known if isinstance(part, PyroModule)):
            of_root = [full_name(root), *called.removeprefix(f"{full_name(root)}.").split(".")]
            if share_context(root, owner) or (named is not None and _part(root, of_root[1:]) is named):
                outermost: Any = next(part for part in known if share_context(part, root))
                return full_name(outermost) or type(outermost).__name__, outermost
        if named is not None:
            return called, named
        return (".".join([called, *path.split(".")[:-1]]) if path else name), owner

    def refer_to(self, module: nn.Module) -> bool:
        """Whether ``module`` is one of them, or a part of one."""
        return any(part is module for known in self.reachable() for part in known.modules())

    def in_functions(self) -> bool:
        """Whether a function refers to a module: a copy of the function would go on with the same one."""
        return any(shared for program in self._programs for _, shared in _modules_in(program))


def _innermost(program: Any) -> Any:
    while True:
        if inside := handled(program):
            program = inside[1]
        elif isinstance(program, functools.partial):
            program = program.func
        else:
            return program


def _part(module: nn.Module, path: list[str]) -> nn.Module | None:
    part: nn.Module | None = module
    for child in path:
        part = None if part is None else part._modules.get(child)
    return part


def _modules_in(program: Any) -> Iterator[tuple[nn.Module, bool]]:
    """Modules, and whether a function refers to them."""
    seen: set[int] = set()

    def visit(value: Any, file: str | None, shared: bool) -> Iterator[tuple[nn.Module, bool]]:
        if id(value) in seen or isinstance(value, (Tensor, type)):
            return
        seen.add(id(value))
        inside: Iterable[Any] = ()
        named: Iterable[Any] = ()  # by a function, which may have them from another file
        if isinstance(value, nn.Module):
            yield value, shared
            spaces = [vars(part) for part in value.modules()]
            inside = [kept for space in spaces for key, kept in space.items() if key not in _OF_MODULES]
        elif isinstance(value, functools.partial):
            inside = [value.func, *value.args, *value.keywords.values()]
        elif inspect.ismethod(value):
            owner = value.__self__
            inside = [*([] if isinstance(owner, nn.Module) else _attributes(owner)), owner, value.__func__]
        elif inspect.isfunction(value):
            if value.__module__ != (file or value.__module__):
                return
            shared = True
            with suppress(ValueError):  # a variable that is yet to be assigned
                variables = inspect.getclosurevars(value)
                inside = [*variables.nonlocals.values()]
                named = [] if _of_library(value) else [*variables.globals.values()]
            inside = [*inside, value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
            file = value.__module__
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = value
        elif isinstance(value, dict):
            inside = value.values()
        elif callable(value):
            inside = _attributes(value)
        for part in inside:
            yield from visit(part, None if inspect.isfunction(value) else file, shared)
        for part in named:
            yield from visit(part, file, shared)

    return visit(program, None, False)


def _of_library(function: Any) -> bool:
    return (function.__module__ or "").partition(".")[0] in ("torch", "pyro")


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
    part = _part(module, parents)
    return None if part is None else part._parameters.get(name)
