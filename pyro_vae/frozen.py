"""The Python values that programs read, of which a graph of the programs has made constants."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_ABSENT: Any = object()
_OF_MODULES = frozenset(vars(nn.Module()))  # what each module has: parameters, hooks, whether it trains
LIBRARIES = {"torch", "pyro", "pyro_vae", "numpy", "builtins", "collections", "functools", "weakref", "logging"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_MUTABLE = (list, set, dict, deque, np.ndarray)
_NUMBERS = (bool, int, float)
_MOST = 100  # things in a container that are looked at, and hundreds of numbers in an array


class PythonState:
    """The Python values that the programs of a module may read, and whether they are what they were.

    Looked at are the attributes of modules, of the objects that these hold, and of their classes; the variables of
    closures; the globals to which functions in the same file refer; and what containers of up to 100 things and numpy
    arrays of up to 10,000 numbers hold. Of a tensor it is only looked at which one it is: a graph reads what is written
    into it.

    Args:
        module: whose programs run, or anything else, such as a ``DataLoader``.
    """

    def __init__(self, module: Any) -> None:
        self._places: list[_Place] = []
        self._spaces: list[_Space] = []
        self._random: list[_Random] = [
            _Random("Python's random", random.getstate, random.setstate),
            _Random("numpy.random", np.random.get_state, np.random.set_state),
        ]
        self._generators: list[torch.Generator] = []
        self._visited: dict[int, Any] = {}  # which keeps them alive, so that no id comes twice
        self._visit(module, None)
        self._attributes = [space.attributes for space in self._spaces]
        self._getters = [(place.space.get, place.key) for place in self._places]
        self._start = [_Taken(value, _inside(value)) for value in self._read()]
        self._drawn = [stream.get() for stream in self._random]
        self._mark()

    # Whether it has changed

    def _read(self) -> list[Any]:
        return [get(key, _ABSENT) for get, key in self._getters]

    def _mark(self) -> None:
        self._values, self._sizes = self._read(), list(map(len, self._attributes))
        self._insides = [
            (value, _inside(value))
            for value, place in zip(self._values, self._places, strict=True)
            if place.owned and isinstance(value, _MUTABLE)
        ][:_MOST]

    def moved(self) -> bool:
        """Whether something has been assigned or written since the last call; it takes microseconds."""
        if (
            all(map(is_, self._read(), self._values))
            and list(map(len, self._attributes)) == self._sizes
            and all(_same(_inside(value), inside) for value, inside in self._insides)
        ):
            return False
        self._mark()
        return True

    def changes(self) -> list[str]:
        """What is not as it was when this was made, in words."""
        found = []
        for place, start, now in zip(self._places, self._start, self._read(), strict=True):
            if not start.is_still(now):
                both = isinstance(start.value, _PLAIN) and isinstance(now, _PLAIN)
                found.append(place.what + (f" (from {_short(start.value)} to {_short(now)})" if both else ""))
        return found + [f"the attribute {key} of {space.kind}" for space, key in self._new()]

    def _new(self) -> list[tuple[_Space, str]]:
        return [(space, key) for space in self._spaces for key in space.attributes.keys() - space.keys]

    def put_back(self, constants: Collection[int] = ()) -> list[str]:
        """Puts everything back as it was when this was made, before a run.

        Args:
            constants: ids of the tensors that the run's graph has as constants.

        Returns:
            what the run did, in words: "changes" for each value of the user's own, "draws from" for random numbers. A
            tensor or another object under a name that begins with an underscore is what a program keeps for itself,
            and is not told unless it is one of the constants.
        """
        told = []
        for place, start, now in zip(self._places, self._start, self._read(), strict=True):
            if not start.is_still(now):
                start.put_to(place)
                kept = place.key.startswith("_") and _are_objects(start.value, now)
                if place.owned and (not kept or id(start.value) in constants):
                    told.append(f"changes {place.what}")
        for space, key in self._new():
            value = space.attributes.pop(key)
            if space.owned and not (key.startswith("_") and _are_objects(value)):
                told.append(f"changes the attribute {key} of {space.kind}")
        for stream, state in zip(self._random, self._drawn, strict=True):
            if str(stream.get()) != str(state):
                stream.set(state)
                told.append(f"draws from {stream.what}")
        return told

    def put_counts_back(self) -> None:
        """Puts back numbers that programs keep, as of steps that they count, and draws; not what they have made.

        For runs in which a pair is looked at and not trained.
        """
        for place, start, now in zip(self._places, self._start, self._read(), strict=True):
            numbers = type(start.value) in (int, float) and type(now) in (int, float)
            if place.owned and numbers and not start.is_still(now):
                start.put_to(place)
        for stream, state in zip(self._random, self._drawn, strict=True):
            stream.set(state)

    # For a checkpoint

    def kept(self, every: bool = False) -> dict[str, Any]:
        """What is not what it was when this was made, and generators of one's own.

        That is numbers, words, ``None``, and lists, dictionaries and arrays of these.

        Args:
            every: keeps all numbers of attributes, also those that are what they were.
        """
        values, new = [], []
        for index, (place, start, now) in enumerate(zip(self._places, self._start, self._read(), strict=True)):
            always = every and place.what.startswith("the attribute") and type(now) in _NUMBERS
            if place.free and (always or (_is_held(start.value) and _is_held(now) and not start.is_still(now))):
                values.append([index, place.what, copy.copy(now)])
        for index, space in enumerate(self._spaces):
            if space.owned:
                added = sorted(space.attributes.keys() - space.keys)
                new += [[index, key, space.attributes[key]] for key in added if _is_word(space.attributes[key])]
        streams = [stream.get() for stream in self._random[2:]]
        return {"values": values, "new": new, "random": streams, "torch": [g.get_state() for g in self._generators]}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Sets what :meth:`kept` gave, of the same module in this process or another, where it is still there."""
        for index, what, value in kept["values"]:
            if index < len(self._places) and self._places[index].what == what:
                now = self._places[index].space.get(self._places[index].key)
                if type(now) is type(value) and isinstance(value, (list, dict, np.ndarray)):  # others may hold it
                    _Taken(now, value if isinstance(value, np.ndarray) else _inside(value)).put_to(self._places[index])
                else:
                    self._places[index].space[self._places[index].key] = value
        for index, key, value in kept["new"]:
            if index < len(self._spaces) and self._spaces[index].owned:
                self._spaces[index].attributes[key] = value
        for stream, state in zip(self._random[2:], kept["random"], strict=False):
            stream.set(state)
        for generator, of_torch in zip(self._generators, kept["torch"], strict=False):
            generator.set_state(of_torch)

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """The generators of torch that programs have of their own are afterwards as they were before."""
        states = [generator.get_state() for generator in self._generators]
        try:
            yield
        finally:
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)

    @contextmanager
    def kept_draws(self) -> Iterator[None]:
        """All generators that are somebody's own, of torch, numpy and Python, are afterwards as they were before."""
        kept = self.kept()
        try:
            yield
        finally:
            self.take_up({**kept, "values": [], "new": []})

    # What there is

    def _visit(self, value: Any, file: str | None) -> None:
        """Looks for places in ``value``; of functions only into those of the module ``file``, where one is given."""
        if isinstance(value, (*_PLAIN, Tensor)) or id(value) in self._visited or len(self._places) > 5_000:
            return
        self._visited[id(value)] = value
        inside: Any = ()
        if isinstance(value, nn.Module):
            for part in value.modules():
                self._visited[id(part)] = part
                self._object(part, _OF_MODULES)
        elif isinstance(value, types.FunctionType):
            wrapped = getattr(value, "__wrapped__", None)  # as pyro_method and functools.wraps leave it
            if wrapped is None and value.__module__ == (file or value.__module__) and not _of_library(value):
                self._function(value)
            inside = [wrapped]
        elif isinstance(value, types.MethodType):
            inside = [] if _of_library(value.__func__) else [value.__self__, value.__func__]
        elif isinstance(value, functools.partial):
            inside = [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            if len(value) <= _MOST:
                inside = list(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, type):
            if not _of_library(value):
                self._class(value)
                inside = value.__mro__[1:]
        elif isinstance(value, (staticmethod, classmethod)):
            inside = [value.__func__]
        elif isinstance(value, property):
            inside = [value.fget]
        elif isinstance(value, torch.Generator):
            self._generators.append(value)
        elif isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
            self._random.append(_Random("a random.Random", value.getstate, value.setstate))
        elif isinstance(value, np.random.RandomState):
            self._random.append(_Random("a numpy RandomState", value.get_state, value.set_state))
        elif isinstance(value, np.random.Generator):
            bits: Any = value.bit_generator
            self._random.append(
                _Random("a numpy generator", lambda: bits.state, functools.partial(setattr, bits, "state"))
            )
        elif hasattr(value, "__dict__") and not isinstance(value, types.ModuleType) and _is_looked_into(type(value)):
            self._object(value)
        for part in inside:
            self._visit(part, file)

    def _object(self, value: Any, but: frozenset[str] = frozenset()) -> None:
        kind = type(value)
        owned = not _of_library(kind)
        free = owned or kind.__module__.startswith("torch.nn.modules")
        space = _Space(vars(value), kind.__name__, owned, frozenset(vars(value)))
        self._spaces.append(space)
        for key in [key for key in space.attributes if key not in but]:
            self._add(space.attributes, key, f"the attribute {key} of {kind.__name__}", owned, None, free)
        self._visit(kind, None)

    def _class(self, kind: type) -> None:
        for key, member in list(vars(kind).items()):
            if isinstance(member, (*_PLAIN, *_MUTABLE)) and not key.startswith("__"):
                self._add(vars(kind), key, f"the attribute {key} of the class {kind.__name__}", True, None)
            elif isinstance(member, (types.FunctionType, staticmethod, classmethod, property)):
                self._visit(member, kind.__module__)

    def _function(self, function: types.FunctionType) -> None:
        file = function.__module__
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._add(_Cell(cell), name, f"the variable {name} around {function.__name__}", True, file)
        names, space = _names(function.__code__), function.__globals__
        for name in sorted(names & space.keys()):
            value = space[name]
            if not isinstance(value, types.ModuleType):
                self._add(space, name, f"the global {name}", True, file)
                continue
            for key in sorted(names & vars(value).keys()):
                if isinstance(vars(value)[key], _PLAIN):
                    self._add(vars(value), key, f"{name}.{key}", True, None)

    def _add(self, space: Any, key: str, what: str, owned: bool, file: str | None, free: bool = True) -> None:
        free = free and not isinstance(space, types.MappingProxyType)
        self._places.append(_Place(space, key, what, owned, free))
        self._visit(space.get(key), file)


class _Place(NamedTuple):
    """Where a value is kept."""

    space: Any  # a mapping
    key: str
    what: str
    owned: bool  # by the user's code, not by a library
    free: bool  # whether what has moved is kept: it is the user's, or an option of a layer, and can be set here


class _Space(NamedTuple):
    """The attributes of an object."""

    attributes: dict[str, Any]
    kind: str
    owned: bool
    keys: frozenset[str]  # that it had


class _Random(NamedTuple):
    """Random numbers that are not torch's."""

    what: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]


class _Taken(NamedTuple):
    """A value as it was."""

    value: Any
    inside: Any

    def is_still(self, now: Any) -> bool:
        if isinstance(now, _PLAIN):
            return type(now) is type(self.value) and bool(
                now == self.value or (now != now and self.value != self.value)
            )
        if isinstance(now, (*_MUTABLE, tuple)):
            return type(now) is type(self.value) and _same(_inside(now), self.inside)
        return now is self.value

    def put_to(self, place: _Place) -> None:
        value: Any = self.value
        if isinstance(value, np.ndarray):
            if isinstance(self.inside, np.ndarray) and value.flags.writeable:
                value[...] = self.inside
        elif isinstance(value, list) and isinstance(self.inside, int):
            del value[self.inside :]
        elif isinstance(value, (list, set, dict, deque)) and not isinstance(self.inside, int):
            value.clear()
            (value.extend if isinstance(value, (list, deque)) else value.update)(self.inside)
        if isinstance(place.space, types.MappingProxyType):
            return
        if value is _ABSENT:
            place.space.pop(place.key, None)
        else:
            place.space[place.key] = value


class _Cell(dict[str, Any]):
    """A variable of a closure, as a mapping."""

    def __init__(self, cell: types.CellType) -> None:
        super().__init__()
        self._cell = cell

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:  # nothing has been assigned yet
            return default

    def __setitem__(self, key: str, value: Any) -> None:
        self._cell.cell_contents = value

    def pop(self, key: str, default: Any = None) -> Any:
        del self._cell.cell_contents


def _of_library(of: Any) -> bool:
    return (of.__module__ or "").partition(".")[0] in LIBRARIES


def _is_looked_into(kind: type) -> bool:
    return not _of_library(kind) or kind.__module__.startswith(("torch.utils.data", "pyro_vae.data"))


def _names(code: types.CodeType) -> set[str]:
    """What a function and those inside of it name beyond their own variables."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(itertools.chain(code.co_names, *inner))


def _inside(value: Any) -> Any:
    """A copy of what is in a container, or its size where it has much; ``None`` of what is none."""
    if isinstance(value, np.ndarray):
        return value.copy() if value.size <= 100 * _MOST else (id(value),)
    if not isinstance(value, (list, tuple, set, frozenset, dict, deque)):
        return None
    return (dict if isinstance(value, dict) else tuple)(value) if len(value) <= _MOST else len(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and list(one) == list(other)
            and _same(tuple(one.values()), tuple(other.values()))
        )
    if not isinstance(one, tuple):
        return type(one) is type(other) and one == other
    return (
        isinstance(other, tuple)
        and len(one) == len(other)
        and all(
            a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b) for a, b in zip(one, other, strict=True)
        )
    )


def _is_word(value: Any) -> bool:
    """Whether JSON has it: a number, a text or ``None``."""
    return value is None or type(value) in (*_NUMBERS, str, np.bool_, np.int64, np.float64)


def _is_held(value: Any) -> bool:
    """Whether it is a word, or a small container of words."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.size <= 100 * _MOST
    if type(value) not in (list, dict) or len(value) > _MOST:
        return _is_word(value)
    return all(map(_is_word, (*value, *value.values()) if isinstance(value, dict) else value))


def _are_objects(*values: Any) -> bool:
    """Whether none is a number, a word or a container."""
    return not any(isinstance(value, (*_PLAIN, *_MUTABLE, tuple)) and value is not None for value in values)


def _short(value: Any) -> str:
    return text if len(text := repr(value)) <= 30 else f"{text[:27]}..."
