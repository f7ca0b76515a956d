"""The contract of a model/guide pair.

A pair is an object with two methods that take the same arguments and are Pyro programs::

    def model(self, x=None):     # z ~ p(z),  x ~ p(x | z)
    def guide(self, x=None):     # z ~ q(z | x)

- The plate over the data is called ``data`` and is the rightmost batch dimension; event dimensions inside are
  declared with ``to_event``. What is random but stands outside the plate (weights) counts once for the whole data.
- The observed site is ``x``; a single latent is ``z``, a hierarchy is ``z1``, ``z2``, ... from the data upwards.
- What it may have besides, such as a check of its batches, is in :mod:`pyro_vae.pair.protocols`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from pyro.nn import PyroModule
from torch import nn

from pyro_vae._checks import callable_
from pyro_vae._pyro import announced, running
from pyro_vae.batches import Keywords
from pyro_vae.pair.modules import ProgramModules
from pyro_vae.pair.parameters import LOCAL, LocalParameters, isolated

Method = TypeVar("Method", bound=Callable[..., Any])
Program = Callable[..., Any]


def pair_method(method: Method) -> Method:
    """Decorates ``model`` and ``guide`` of a pair written as a ``PyroModule``.

    It is ``pyro.nn.pyro_method``, and keeps the parameters with the pair: under ``pyro.infer.SVI`` two pairs of one
    class do not share them.

    Raises:
        TypeError: when the method is called, if its object is no ``PyroModule``.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, PyroModule):
            raise TypeError(
                f"pair_method decorates methods of a pyro.nn.PyroModule, which {type(self).__name__} is not. Derive it "
                "from PyroModule, or leave pair_method out and announce the networks by pyro.module(name, self)."
            )
        with isolated(self), running(self):
            return method(self, *args, **kwargs)

    return cast(Method, wrapped)


class Pair(nn.Module):
    """Two Pyro programs, ``model(*batch)`` and ``guide(*batch)``, as a pair with parameters of its own.

    The programs may hold ``pyro.param`` and ``pyro.module`` statements; as in Pyro, what they announce is trained and
    nothing else. It becomes part of the pair (``parameters()``, ``state_dict()``) when a program first runs, for which
    the modules are looked up where Python programs keep them
    (:class:`~pyro_vae.pair.modules.ProgramModules`): closures, globals, ``functools.partial``, a bound method's object.
    What cannot be found that way is passed as ``modules``.

    Args:
        model: z ~ p(z), x ~ p(x | z).
        guide: z ~ q(z | x), with the same arguments.
        modules: modules that the programs announce and that are kept elsewhere.

    Raises:
        TypeError: if ``model`` or ``guide`` is not callable.

    >>> decoder = nn.Linear(2, 5)
    >>> def model(x):
    ...     pyro.module("decoder", decoder)
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
    ...         pyro.sample("x", pyro.distributions.Normal(decoder(z), 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     loc = pyro.param("loc", torch.zeros(2))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))
    >>> pair = Pair(model, guide)
    """

    def __init__(self, model: Program, guide: Program, *modules: nn.Module) -> None:
        super().__init__()
        callable_(model=model, guide=guide)
        self._programs = (model, guide)
        self.program_modules = ProgramModules(model, guide, modules)
        self.announced = nn.ModuleDict()
        self._owner: Any = None  # the object of as_pair, which lives as long as its pair
        self._kept: _Kept | None = None  # and what of its pair is kept beside it

    def _claim(self, name: str, parameter: nn.Parameter) -> bool:
        """Takes in the module that holds ``parameter``, announced as ``name``; False if it is not to be found.

        Raises:
            ValueError: if the programs announce another module by the same name.
        """
        called, path = announced(name)
        module = self.program_modules.find(parameter, path)
        if module is None:
            return False
        key = called.replace(".", "/")
        other = self.announced._modules.get(key)
        if other is not None and other is not module and self.program_modules.refer_to(other):
            raise ValueError(
                f"two modules are announced as {called!r}. Give each its own name: pyro.module(name, module)."
            )
        self.announced[key] = module
        if self._kept is not None:
            self._kept.announced[key] = module
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Pair:
        if self.program_modules.in_functions():
            raise TypeError(
                "a Pair of functions cannot be copied: a copy of a function would go on using the networks of the "
                "original. Make each pair by a function of yours that makes its networks and its two programs, or "
                "write the pair as a class."
            )
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}  # which is the object's, not a copy's

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the generative program p(x, z)."""
        with isolated(self, self._claim):
            return self._programs[0](*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the recognition program q(z | x)."""
        with isolated(self, self._claim):
            return self._programs[1](*args, **kwargs)


def programs(pair: nn.Module) -> tuple[Program, Program]:
    """``(model, guide)`` of a pair as callables that see the pair's own parameters."""

    def isolate(program: Program) -> Program:
        def run(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[-1], Keywords):
                *args, kwargs = *args[:-1], {**args[-1], **kwargs}  # type: ignore[assignment]
            with isolated(pair):
                return program(*args, **kwargs)

        return run

    owner: Any = pair
    return isolate(owner.model), isolate(owner.guide)


def modules_of(pair: nn.Module) -> list[nn.Module]:
    """The modules of a pair, itself first, also those that programs of it, or of its parts, have yet to announce."""
    found = [pair]
    for module in found:
        for part in module.modules():
            if isinstance(part, Pair):
                found += [one for one in part.program_modules.reachable() if all(one is not other for other in found)]
    return found


# Objects that are no modules


class _Kept:
    """What has to outlive the pair of an object with these programs; it keeps neither the object nor modules alive.

    Raises:
        TypeError: if Python cannot refer to a program weakly.
    """

    def __init__(self, programs: Iterable[Program], refusal: str = "") -> None:
        self._programs = [weakref.WeakMethod(p) if inspect.ismethod(p) else weakref.ref(p) for p in programs]
        self.local = LocalParameters(refusal)
        self.announced: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()

    def is_of(self, programs: Iterable[Program]) -> bool:
        return [program() for program in self._programs] == list(programs)


# By identity, since equal objects are two pairs, and not every object has a hash. Neither keeps an object alive, and an
# object that has died leaves nothing to the next one at its address.
_pairs: weakref.WeakValueDictionary[int, Pair] = weakref.WeakValueDictionary()
_kept: dict[int, tuple[weakref.ref[Any], _Kept]] = {}


def as_pair(pair: Any) -> nn.Module:
    """``pair`` as a module with ``model`` and ``guide``.

    A module with both methods is itself. Any other object with both is wrapped by :class:`Pair`, and what one call
    trains the next one sees, for as long as the object lives and has the same programs. Nothing is written onto the
    object, so that a copy of it starts with ``pyro.param`` statements of its own: copy ``as_pair(it)`` to take them
    along.

    Raises:
        TypeError: if there are no two such methods. When run: if a program has a ``pyro.param`` statement of its own
            and Python cannot refer to the object weakly, as to a ``SimpleNamespace`` or an object with slots.
    """
    if not (callable(getattr(pair, "model", None)) and callable(getattr(pair, "guide", None))) or isinstance(
        pair, type
    ):
        what = f"the class {pair.__name__} itself" if isinstance(pair, type) else f"an object of {type(pair).__name__}"
        raise TypeError(
            f"a pair has two methods, model and guide; got {what}. "
            "Write a class with both, or wrap two Pyro functions: Pair(model, guide)."
        )
    if isinstance(pair, nn.Module):
        return pair
    found = _pairs.get(id(pair))
    if found is None or found._programs != (pair.model, pair.guide):
        found = _pairs[id(pair)] = Pair(pair.model, pair.guide)
        found._owner, found._kept = pair, _kept_of(pair)
        found._modules[LOCAL] = found._kept.local
        found.announced.update(found._kept.announced)
    return found


def _kept_of(owner: Any) -> _Kept:
    """What is known of an object with these programs, at first nothing."""
    key, programs = id(owner), (owner.model, owner.guide)
    known = _kept.get(key)
    if known is None or known[0]() is not owner or not known[1].is_of(programs):
        try:
            known = _kept[key] = weakref.ref(owner, lambda _: _kept.pop(key, None)), _Kept(programs)
        except TypeError:
            refusal = (
                f"an object of {type(owner).__name__} cannot hold the pyro.param {{name!r}} from one call to the next, "
                "since Python cannot refer to it weakly. Wrap it once yourself and use that: "
                "pair = Pair(it.model, it.guide)."
            )
            return _Kept((), refusal)
    return known[1]
