"""How the library's modules were made: class and arguments, so that they can be made again without running a pickle.

A recipe is of numbers, texts, tensors, tuples, lists and dictionaries: ``{"made": class, "args": ..., "kwargs": ...}``
of an object, ``{"class": name}`` of a class, ``{"partial": ...}`` of a ``functools.partial``, ``{"again": number}`` of
an object that stands there already, ``{"unknown": why}`` of what cannot be told.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_RECIPE = "_recipe"
_PLAIN = (bool, int, float, str, type(None))
_OF_TORCH = "torch.nn.modules."


class Remembered:
    """A base of the library's modules, which know what they were made with; it goes with them into copies."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        if cls.__module__.startswith("pyro_vae."):
            vars(made)[_RECIPE] = _made(cls, args, kwargs)
        return made


class _Unknown(Exception):
    """Something of which no recipe tells."""


def _made(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {
            "made": public_name(cls),
            "args": [_packed(value, f"argument {number} of {cls.__name__}") for number, value in enumerate(args, 1)],
            "kwargs": {name: _packed(value, f"{name} of {cls.__name__}") for name, value in kwargs.items()},
        }
    except _Unknown as unknown:
        return {"unknown": str(unknown)}
    except RecursionError:
        return {"unknown": f"arguments of {cls.__name__} are nested too deep"}


def recipe(module: nn.Module) -> dict[str, Any]:
    """How ``module`` was made."""
    try:
        return _packed(module, type(module).__name__)
    except _Unknown as unknown:
        return {"unknown": str(unknown)}


def _packed(value: Any, place: str) -> Any:
    """An argument, as a recipe tells it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value.item()
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)):
        items = [_packed(item, place) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {"mapping": [[key, _packed(item, place)] for key, item in value.items()]}
    if isinstance(value, type) and value.__module__.startswith(("pyro_vae.", _OF_TORCH)):
        return {"class": public_name(value)}
    if isinstance(value, functools.partial):
        args, keywords = _packed(list(value.args), place), value.keywords.items()
        kwargs = {name: _packed(item, place) for name, item in keywords}
        return {"partial": _packed(value.func, place), "args": args, "kwargs": kwargs}
    if isinstance(value, nn.Module) and _RECIPE in vars(value):
        found = vars(value)[_RECIPE]
        if "unknown" in found:
            raise _Unknown(found["unknown"])
        return found
    if isinstance(value, nn.Module) and type(value).__module__.startswith(_OF_TORCH):
        return _of_torch(value, place)
    kind = type(value)
    what = "a function" if inspect.isroutine(value) else f"of the class {kind.__module__}.{kind.__qualname__}"
    raise _Unknown(f"{place} is {what}")


def _of_torch(module: nn.Module, place: str) -> dict[str, Any]:
    """A layer of torch, which keeps its arguments as attributes of the same names."""
    found: dict[str, Any] = {"made": public_name(type(module)), "args": [], "kwargs": {}}
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        children = [[name, _packed(child, place)] for name, child in module.named_children()]
        named = {"mapping": children}
        plain = [child for _, child in children]
        in_order = [name for name, _ in children] == [str(number) for number in range(len(children))]
        if isinstance(module, nn.ModuleList):
            return {**found, "args": [plain]}
        return {**found, "args": plain if in_order else [named]}
    takes = () if type(module).__init__ is nn.Module.__init__ else inspect.signature(type(module)).parameters.items()
    for name, parameter in takes:
        if name in ("device", "dtype"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(module, name):
            raise _Unknown(f"{place} has a layer {type(module).__name__}, whose arguments torch does not keep")
        value = getattr(module, name)
        if name == "bias" and not isinstance(value, bool):  # the argument is whether there is one
            value = value is not None
        found["kwargs"][name] = _packed(value, place)
    return found


def public_name(kind: type) -> str:
    """The shortest dotted name by which a class is found."""
    words = kind.__module__.split(".")
    for count in range(1, len(words)):
        module = sys.modules.get(".".join(words[:count]))
        if getattr(module, kind.__name__, None) is kind:
            return ".".join([*words[:count], kind.__name__])
    return f"{kind.__module__}.{kind.__qualname__}"


def numbered(found: Any, numbers: dict[int, int] | None = None) -> Any:
    """A recipe in which an object that stands there twice is told once, ``{"again": number}`` at its second place."""
    numbers = {} if numbers is None else numbers
    if isinstance(found, (list, tuple)):
        return type(found)(numbered(item, numbers) for item in found)
    if not isinstance(found, dict):
        return found
    if "made" in found:
        if id(found) in numbers:
            return {"again": numbers[id(found)]}
        numbers[id(found)] = number = len(numbers)
        return {"number": number, **{key: numbered(item, numbers) for key, item in found.items()}}
    return {key: numbered(item, numbers) for key, item in found.items()}


def build(found: Any, find: Callable[[str], Any], made: dict[int, Any] | None = None) -> Any:
    """What a numbered recipe tells.

    Args:
        found: the recipe.
        find: gives the class of a dotted name, or refuses it.
        made: what has been made of it, by number.
    """
    made = {} if made is None else made

    def inner(value: Any) -> Any:
        return build(value, find, made)

    if isinstance(found, (list, tuple)):
        return type(found)(map(inner, found))
    if not isinstance(found, dict):
        return found
    if "again" in found:
        return made[found["again"]]
    if "class" in found:
        return find(found["class"])
    if "mapping" in found:
        return {key: inner(value) for key, value in found["mapping"]}
    args = inner(found["args"])
    kwargs = {name: inner(value) for name, value in found["kwargs"].items()}
    if "partial" in found:
        return functools.partial(inner(found["partial"]), *args, **kwargs)
    made[found["number"]] = built = find(found["made"])(*args, **kwargs)
    return built
